"""Dense probes: their parts against slow references and closed forms, and features that tell everything or nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counters import PeakBytes
from PIL import Image
from probe_data import held_probe, paint, patches_of, settings
from torch import nn

from mmadclr.datasets import MaskedImageDataset, UnreadableImageError
from mmadclr.evaluation import DenseProbe, RawPixels, dense_probe, knn_votes
from mmadclr.evaluation.dense_probe import confusion_matrix, fit_linear, map_confusion, mean_iou, patch_labels
from mmadclr.evaluation.knn import knn_shares
from mmadclr.models.preprocessors import ViewPreprocessor


def test_patch_labels_equal_counting():
    masks = torch.randint(-1, 3, (2, 12, 12))
    masks[0, :4, :4] = -1
    shares, covered = patch_labels(masks, (3, 3), 3)
    for n in range(2):
        for p in range(9):
            row, column = 4 * (p // 3), 4 * (p % 3)
            pixels = masks[n, row : row + 4, column : column + 4].flatten().tolist()
            valid = [label for label in pixels if label >= 0]
            assert covered[n, p].item() == pytest.approx(len(valid) / 16)
            expected = [valid.count(c) / max(1, len(valid)) for c in range(3)]
            assert shares[n, p].tolist() == pytest.approx(expected)


def test_mean_iou_of_a_worked_example():
    masks = torch.tensor([[0, 0, 1], [1, -1, 1]])
    prediction = torch.tensor([[0, 1, 1], [1, 0, 0]])
    confusion = confusion_matrix(prediction, masks, 4)
    assert confusion[:2, :2].tolist() == [[1, 1], [1, 2]]
    assert mean_iou(confusion) == pytest.approx(100 * (1 / 3 + 2 / 4) / 2)


@pytest.mark.dense
def test_mean_iou_is_that_of_mmseg():
    from mmseg.evaluation import IoUMetric

    masks, prediction = torch.randint(0, 5, (6, 40)), torch.randint(0, 4, (6, 40))
    areas = IoUMetric.intersect_and_union(prediction, masks, 6, 255)
    expected = IoUMetric.total_area_to_metrics(*areas, ['mIoU'])['IoU']
    assert mean_iou(confusion_matrix(prediction, masks, 6)) == pytest.approx(100 * np.nanmean(expected))


def test_shares_of_hard_labels_are_normalized_votes():
    bank, queries = F.normalize(torch.randn(50, 8), dim=1), F.normalize(torch.randn(7, 8), dim=1)
    labels = torch.randint(0, 4, (50,))
    votes = knn_votes(bank, labels, queries, k=5, temperature=0.1, num_classes=4)
    shares = knn_shares(bank, F.one_hot(labels, 4).float(), queries, k=5, temperature=0.1, chunk=3)
    torch.testing.assert_close(shares, votes / votes.sum(dim=1, keepdim=True))


def test_linear_probe_is_at_the_minimum_of_its_convex_loss():
    features, targets = torch.randn(200, 6), torch.rand(200, 3)
    targets, weights = targets / targets.sum(dim=1, keepdim=True), torch.rand(200)
    layer = fit_linear(features, targets, weights, decay=0.1, steps=200)
    probabilities = layer(features).softmax(dim=1)
    # The gradient in closed form: weighted mean of (p - t) x, plus the decay.
    residual = weights[:, None] * (probabilities - targets) / weights.sum()
    torch.testing.assert_close(residual.T @ features + 0.1 * layer.weight, torch.zeros(3, 6), rtol=0, atol=1e-4)
    torch.testing.assert_close(residual.sum(dim=0), torch.zeros(3), rtol=0, atol=1e-4)


@pytest.fixture
def painted(tmp_path):
    """Images of 32 pixels in blocks of 8, each class a color of its own, with their masks; returns the folder."""
    rng = np.random.default_rng(0)
    colors = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    for split, count in (('train', 8), ('val', 4)):
        for number in range(count):
            labels = rng.integers(0, 3, (4, 4)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
            for folder, pixels in (('images', colors[labels]), ('masks', labels)):
                file = tmp_path / folder / split / 'sub' / f'{number}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    return tmp_path


def probe(root, **kwargs):
    train = dict(data_root=str(root), img_dir='images/train', mask_dir='masks/train', size=32, num_classes=3)
    return DenseProbe(train, dict(img_dir='images/val', mask_dir='masks/val'), k=3, **kwargs)


class Constant(nn.Module):
    """Features that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor = ViewPreprocessor()

    def forward(self, images, mode):
        return torch.ones(len(images), 16, 4)


def test_features_that_tell_the_class_score_full_marks_and_constant_ones_do_not(painted):
    before = torch.get_rng_state()
    full = probe(painted).of_model(RawPixels(ViewPreprocessor(), patch_size=8))
    assert torch.equal(torch.get_rng_state(), before)  # a run that is probed goes on as if it were not
    # Class maps are enlarged bilinearly, which moves borders by less than half a patch.
    assert set(full) == {'patch_knn3_T0.07_miou', 'patch_linear_miou'}
    assert min(full.values()) > 80
    nothing = probe(painted).of_model(Constant())
    assert max(nothing.values()) < 20  # one class everywhere: a third of the pixels, and two classes of IoU 0


def test_raw_patches_are_those_of_the_grid():
    images = torch.randn(1, 3, 8, 12)
    patches = RawPixels(ViewPreprocessor(), patch_size=4)(images, mode='patches')
    assert patches.shape == (1, 6, 48)
    torch.testing.assert_close(patches[0, 4].view(3, 4, 4), images[0, :, 4:8, 4:8])


def test_max_images_spreads_over_the_set(painted):
    settings = dict(data_root=str(painted), img_dir='images/train', mask_dir='masks/train', size=32, num_classes=3)
    names = [MaskedImageDataset(**settings, max_images=3).path(i).stem for i in range(3)]
    assert names == ['0', '4', '7']


def test_masks_follow_their_images_and_their_conventions(painted):
    settings = dict(data_root=str(painted), img_dir='images/train', mask_dir='masks/train', size=32)
    plain = MaskedImageDataset(**settings, num_classes=3).mask(0)
    assert set(plain.unique().tolist()) == {0, 1, 2}
    ignoring = MaskedImageDataset(**settings, num_classes=3, ignore_index=1).mask(0)
    assert ((ignoring == -1) == (plain == 1)).all()
    reduced = MaskedImageDataset(**settings, num_classes=2, reduce_zero_label=True).mask(0)
    assert (reduced == plain - 1).all()
    with pytest.raises(ValueError, match=r'masks/train/sub/0\.png: labels \[2\] are not among the 2 classes'):
        MaskedImageDataset(**settings, num_classes=2).mask(0)
    with pytest.raises(ValueError, match=r'mask .*nowhere/sub/0\.png of .* cannot be read'):
        MaskedImageDataset(**settings | dict(mask_dir='nowhere'), num_classes=3).mask(0)


def broken(root, *names):
    for name in names:
        (root / 'images' / name).write_bytes((root / 'images' / name).read_bytes()[:60])


@pytest.mark.parametrize('bank_size', [40, 20_000])
@pytest.mark.parametrize('side', [35, 40])
def test_a_streamed_probe_finds_what_one_that_holds_everything_does(tmp_path, bank_size, side):
    """Grids that do not divide the sides, ignored pixels, a mask that is ignored altogether, an unreadable image in each."""
    broken(paint(tmp_path, side=side), 'train/05.png', 'val/02.png')
    # With this decay the linear classifier gets to its minimum, so that roundings stay what they are.
    probe = DenseProbe(*settings(tmp_path, side), k=3, bank_size=bank_size, decay=0.1, batch_size=4)
    model = RawPixels(ViewPreprocessor(), patch_size=8)
    readable = [[i for i in range(count) if i != bad] for count, bad in ((13, 5), (7, 2))]
    bank, expected = held_probe(model, probe, *readable)
    for found, part in zip(probe.bank(model), bank, strict=True):
        torch.testing.assert_close(found, part, rtol=0, atol=1e-6)
    totals = probe.confusions(model, probe.classifiers(*bank))
    metrics = probe.of_model(model)
    for name, (total, miou) in expected.items():
        assert totals[name].sum() == total.sum() > 0
        assert (totals[name] - total).abs().sum() <= 4  # pixels on the border of two classes
        assert metrics[name] == pytest.approx(miou, abs=0.1)
        assert 40 < miou < 95


def test_the_draw_is_repeated_without_images_that_cannot_be_read_only_if_they_matter(tmp_path, monkeypatch):
    passes, batches = [], dense_probe.patch_batches
    monkeypatch.setattr(dense_probe, 'patch_batches', lambda *args: passes.append(1) or batches(*args))
    broken(paint(tmp_path), 'train/03.png')  # its mask is ignored altogether
    probe = DenseProbe(*settings(tmp_path), k=3)
    model = RawPixels(ViewPreprocessor(), patch_size=8)
    with torch.no_grad():
        probe.bank(model)
        assert len(passes) == 1
        broken(tmp_path, 'train/04.png')
        probe.bank(model)
        assert len(passes) == 3
        probe.bank(model)
        assert len(passes) == 4


def test_too_many_unreadable_images_end_a_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_probe, 'MAX_UNREADABLE', 1)
    broken(paint(tmp_path), 'train/03.png', 'train/04.png')
    probe = DenseProbe(*settings(tmp_path), k=3)
    with pytest.raises(UnreadableImageError, match='2 of 13 images'):
        probe.of_model(RawPixels(ViewPreprocessor(), patch_size=8))


@pytest.mark.parametrize('budget', [1, 2**28])
def test_maps_are_enlarged_as_many_at_a_time_as_fit(monkeypatch, budget):
    monkeypatch.setattr(dense_probe, 'MAP_BYTES', budget)
    scores, masks = torch.randn(5, 9, 4), torch.randint(-1, 4, (5, 14, 14), dtype=torch.int16)
    maps = F.interpolate(scores.transpose(1, 2).unflatten(2, (3, 3)), size=(14, 14), mode='bilinear')
    expected = confusion_matrix(maps.argmax(dim=1), masks.long(), 4)
    assert torch.equal(map_confusion(scores, masks, 4), expected)


class Generated(MaskedImageDataset):
    """Images and masks made on the fly, as many as asked for."""

    transform = None

    def __init__(self, count, size=32, num_classes=5, with_mask=True):
        self.count, self.size, self.num_classes, self.with_mask = count, size, num_classes, with_mask
        self.data_root = self.mask_root = 'generated'
        self.ignore_index, self.reduce_zero_label = 255, False

    def __len__(self):
        return self.count

    def mask(self, index):
        return torch.full((self.size, self.size), index % self.num_classes)

    def label_counts(self, index):
        return {index % self.num_classes: self.size**2}

    def _sample(self, key):
        image = torch.full((3, self.size, self.size), key % 250, dtype=torch.uint8)
        return dict(images=image, index=key, mask=self.mask(key).short(), unreadable=[], lost=[])


def test_memory_does_not_grow_with_the_number_of_images():
    peaks = []
    for count in (40, 400):
        probe = DenseProbe(dict(type=Generated, count=count), {}, k=3, bank_size=60, batch_size=4)
        model = RawPixels(ViewPreprocessor(), patch_size=8)
        patches_of(model, probe.train, 0)
        with PeakBytes() as memory:
            probe.of_model(model)
        peaks.append(memory.most)
    # Numbers of patches and a permutation of all, where the features of 360 images take 4.4 MB.
    assert peaks[1] - peaks[0] < 360 * (16 * 8 + 100)
