"""Pictures: files that show what they should."""

import json

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from mmadclr.datasets import MultiCrop, collate_samples
from mmadclr.models.backbones import QueryViT
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.visualization import draw_attention, draw_crops, draw_curves


def backbone():
    return QueryViT(dict(embed_dim=24, depth=2, num_heads=3, patch_size=8), img_size=32, init='xavier').eval()


def test_crops_picture_draws_every_box_and_view(tmp_path, monkeypatch):
    axes = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: (axes.extend(self.axes), save(self, *a, **k)))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(2)]
    transform = MultiCrop(global_size=32, local_size=16, num_local=3, query_size=8, num_query=2)
    samples = [
        transform(dict(image=image, rng=np.random.default_rng(i), index=i)) | dict(unreadable=[])
        for i, image in enumerate(images)
    ]
    data = collate_samples(samples)
    preprocessor = ViewPreprocessor()
    views = preprocessor(data, True)['views']
    path = draw_crops(images, data, views, preprocessor.mean, preprocessor.std, tmp_path / 'crops.png')
    assert path.is_file()
    assert len(axes) == 2 * (1 + 2 + 3 + 2 + 2)
    assert len(axes[0].patches) == 2 + 3 + 2
    left, top, right, bottom = data['query_boxes'][0, 1].tolist()
    box = axes[0].patches[-1]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (
        left - 0.5,
        top - 0.5,
        right - left,
        bottom - top,
    )
    # The drawn pixels are the augmented ones, denormalized exactly.
    shown = axes[1].images[0].get_array()
    expected = preprocessor.augment(data['global_views'], data['global_photometric'])[0, 0] * preprocessor.std
    assert np.array_equal(shown, (expected + preprocessor.mean).round().byte().permute(1, 2, 0).numpy())


def test_curves_and_attention_are_written(tmp_path):
    lines = [dict(loss=3.0, loss_cls=2.0, loss_query=1.0, step=1), {'knn20_T0.07_top1': 30.0, 'step': 1}]
    (tmp_path / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    curves = draw_curves(tmp_path / 'scalars.json', tmp_path / 'curves.png', {'raw pixels': 20.0})
    boxes = torch.tensor([[[0, 0, 10, 10], [5, 5, 20, 20]]])
    pictures = [Image.new('RGB', (32, 32), 'red')]
    attention = draw_attention(
        backbone(), torch.randn(1, 3, 32, 32), torch.randn(1, 2, 3, 8, 8), pictures, boxes, tmp_path / 'a.png'
    )
    for path in (curves, attention):
        assert np.asarray(Image.open(path).convert('L')).std() > 10
