"""Dense probes: their parts against slow references and closed forms, and features that tell everything or nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mmadclr.datasets import MaskedImageDataset
from mmadclr.evaluation import DenseProbe, RawPixels, knn_votes
from mmadclr.evaluation.dense_probe import confusion_matrix, fit_linear, mean_iou, patch_labels
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


def test_shares_of_hard_labels_are_normalised_votes():
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
    """Images of 32 pixels in blocks of 8, each class a colour of its own, with their masks; returns the folder."""
    rng = np.random.default_rng(0)
    colours = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    for split, count in (('train', 8), ('val', 4)):
        for number in range(count):
            labels = rng.integers(0, 3, (4, 4)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
            for folder, pixels in (('images', colours[labels]), ('masks', labels)):
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
    full = probe(painted)(RawPixels(ViewPreprocessor(), patch_size=8))
    assert torch.equal(torch.get_rng_state(), before)  # a run that is probed goes on as if it were not
    # Class maps are enlarged bilinearly, which moves borders by less than half a patch.
    assert set(full) == {'patch_knn3_T0.07_miou', 'patch_linear_miou'}
    assert min(full.values()) > 80
    nothing = probe(painted)(Constant())
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
    with pytest.raises(ValueError, match=r'masks/train/sub/0\.png: labels \[2\] are not among 2 classes'):
        MaskedImageDataset(**settings, num_classes=2).mask(0)
    with pytest.raises(ValueError, match=r'mask .*nowhere/sub/0\.png of .* cannot be read'):
        MaskedImageDataset(**settings | dict(mask_dir='nowhere'), num_classes=3).mask(0)
