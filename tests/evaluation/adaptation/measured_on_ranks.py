"""One of several processes that measure together: ``measured_on_ranks.py ROOT`` writes what each found to
ROOT/<world>.<rank>.pt.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from small_models import images_of, paint_classes, paint_masks, small_backbone

from mmadclr.evaluation.adaptation import encoder_of, measure_backbone
from mmadclr.evaluation.adaptation.outputs import FeatureError
from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.extraction import Loading


def write(root: Path) -> None:
    """13 images in class folders and 7 with masks, one of each unreadable."""
    paint_classes(root / 'classes', 13)
    paint_masks(root / 'masks')
    for name in ('classes/class1/004.png', 'masks/images/val/02.png'):
        (root / name).write_bytes(b'no image')


def found(root: Path) -> dict:
    """Outputs, measures, the number of calls of the model, and the error of a model whose features are NaN."""
    encoder, calls = encoder_of(small_backbone()), []
    encoder.register_forward_pre_hook(lambda *args: calls.append(1))
    train, val = paint_parts(root)
    measured = measure_backbone(encoder, images_of(root / 'classes'), Loading(2))
    number = len(calls)
    dense = measure_backbone(encoder, images_of(root / 'classes'), Loading(5), probe=DenseProbe(train, val, k=5)).values()
    encoder.backbone.norm.weight.data.fill_(torch.nan)
    try:
        measure_backbone(encoder, images_of(root / 'classes'), Loading(2))
    except FeatureError as error:
        refusal = str(error)
    return dict(outputs=measured.outputs._asdict(), values=dense, calls=number, refusal=refusal)


def paint_parts(root: Path) -> tuple[dict, dict]:
    common = dict(data_root=str(root / 'masks'), size=32, num_classes=3)
    parts = [dict(img_dir=f'images/{split}', mask_dir=f'masks/{split}') for split in ('train', 'val')]
    return common | parts[0], parts[1]


def main(root: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    torch.save(found(root), root / f'{os.environ["WORLD_SIZE"]}.{os.environ["RANK"]}.pt')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
