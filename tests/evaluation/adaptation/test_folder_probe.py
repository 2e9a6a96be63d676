"""mIoU of a folder with masks: the dense probe's, beside other measures, with intervals; and folders that are refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import images_of, paint_classes, paint_masks, small_backbone

from mmadclr.datasets.benchmarks import LayoutError
from mmadclr.evaluation.adaptation import FolderProbe, as_json, as_text, compare, encoder_of, measure_backbone
from mmadclr.evaluation.adaptation.scores import dense_scores, standard_errors
from mmadclr.evaluation.dense_probe import DenseProbe, mean_iou
from mmadclr.evaluation.frozen import frozen

MEASURES = ('patch_knn20_T0.07_miou', 'patch_linear_miou')


@pytest.fixture
def masked(tmp_path):
    paint_masks(tmp_path / 'masked')
    return tmp_path / 'masked'


def test_it_is_the_dense_probe_of_the_same_files(masked, tmp_path):
    encoder = encoder_of(small_backbone())
    expected = DenseProbe(*paint_masks(tmp_path / 'same')).of_model(encoder)
    assert tuple(expected) == MEASURES
    assert FolderProbe(str(masked), 32).of_model(encoder) == pytest.approx(expected)


def test_some_images_are_evenly_spaced(masked):
    probe = FolderProbe(str(masked), 32, max_images=4)
    names = [[part.path(index).stem for index in range(len(part))] for part in (probe.train, probe.val)]
    assert names == [['00', '04', '07', '11'], ['00', '02', '04', '06']]


def test_masks_and_labels_decide_with_intervals_over_their_own_images(masked, tmp_path):
    images = images_of(paint_classes(tmp_path / 'images'))
    probe = FolderProbe(str(masked), 32)
    models = [measure_backbone(encoder_of(small_backbone(seed)), images, probe=probe) for seed in (0, 1)]
    found = compare(*models, draws=100)
    rows = {row.name: row for row in found.rows}
    assert {name for name, row in rows.items() if row.decides} == {'knn', *MEASURES}
    assert (rows['knn'].units, rows[MEASURES[0]].units) == (24, 7)
    with frozen(encoder_of(small_backbone(1))) as encoder:
        whole = probe.confusions(encoder, probe.classifiers(*probe.bank(encoder)))
    for name in MEASURES:
        value = rows[name].values['adapted']
        assert value.value == pytest.approx(mean_iou(whole[name]))
        assert value.low < value.value < value.high
        assert name in as_text(found)
        assert json.loads(as_json(found))['measures'][name]['images'] == 7
    assert '(by measures with labels and masks)' in found.summary
    unlabeled = [each._replace(scores={k: v for k, v in each.scores.items() if k != 'knn'}) for each in models]
    assert '(by measures with masks)' in compare(*unlabeled, draws=50).summary


def test_errors_of_mious_are_those_of_leaving_out_images():
    """Closed form of the jackknife, one image at a time."""
    rng, models = np.random.default_rng(0), []
    for _ in range(2):
        right = rng.integers(1, 20, (9, 3))
        counts = np.stack((right, right + rng.integers(0, 9, (9, 3)), right + rng.integers(0, 9, (9, 3))), axis=1)
        models.append(torch.from_numpy(counts))
    left_out = []
    for out in range(9):
        ious = []
        for counts in models:
            correct, annotated, predicted = counts[[i for i in range(9) if i != out]].sum(dim=0).double()
            ious.append(100 * (correct / (annotated + predicted - correct)).mean().item())
        left_out.append(ious[0] - ious[1])
    expected = np.sqrt(8 / 9 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    found = standard_errors(*(dense_scores({'patch_linear_miou': counts}) for counts in models))
    assert found == {'patch_linear_miou': pytest.approx(expected)}


def relabel(root, label):
    for path in root.glob('masks/*/*.png'):
        Image.new('L', (32, 32), label).save(path)


def drop_images(root):
    for path in root.glob('images/val/0[0-3].png'):
        path.unlink()


def test_folders_that_cannot_be_measured_are_refused_in_one_line(masked, tmp_path):
    cases = [
        (lambda root: drop_images(root), FileNotFoundError, r'4 of 7 names have no image in .*images/val: 00, 01, 02, 03'),
        (lambda root: relabel(root, 1), ValueError, 'only class 1 is left, so there is nothing to learn'),
        (lambda root: relabel(root, 255), ValueError, 'no class is left'),
        (
            lambda root: Image.new('L', (9, 9)).save(root / 'masks/val/03.png'),
            ValueError,
            r'mask .*masks/val/03\.png has 9x9 pixels, but its image .* has 32x32',
        ),
        (
            lambda root: [path.unlink() for path in root.glob('*/val/0[3-6].png')],
            ValueError,
            r'3 validation image\(s\) with masks, but intervals over images need at least 4',
        ),
        (lambda root: (root / 'masks').rename(root / 'other'), LayoutError, 'has no masks'),
    ]
    for number, (spoil, kind, message) in enumerate(cases):
        root = tmp_path / str(number)
        paint_masks(root)
        spoil(root)
        with pytest.raises(kind, match=message) as caught:
            FolderProbe(str(root), 32)
        assert '\n' not in str(caught.value)
