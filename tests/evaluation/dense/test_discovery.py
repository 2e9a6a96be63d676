"""Boxes against the published codes' numbers, scipy's eigenvectors and components, and loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmadclr.evaluation.dense.discovery import (
    attention_box,
    box_ious,
    box_of,
    components,
    corloc,
    lost_box,
    scale_box,
    tokencut_box,
    voc_boxes,
)  # fmt: skip


@pytest.fixture
def arrays(golden):
    return golden('dense_eval/object_discovery')


class Case:
    """One image of the file."""

    def __init__(self, arrays, name):
        self.arrays, self.name = arrays, name
        self.grid, self.size = tuple(self['grid'].tolist()), tuple(self['image_size'].tolist())
        self.keys, self.attention = (torch.from_numpy(self[key]) for key in ('features', 'attention'))
        self['class_token']

    def __getitem__(self, key):
        return self.arrays[f'{self.name}/{key}']

    def check(self, method, box):
        """A box in patches, in pixels and by its IoUs."""
        assert (*box,) == tuple(self[f'{method}/box'].tolist())
        np.testing.assert_allclose(
            box_ious(box, torch.from_numpy(self['gt_boxes'])), self[f'{method}/iou'], rtol=0, atol=2e-6
        )

    def pixels(self, box):
        return scale_box(box, self.arrays.config['patch_size'], self.size)


@pytest.mark.golden_names('image', 'dense_eval/object_discovery', r'(image_\d+)/features')
def test_boxes_are_those_of_the_published_codes(arrays, image):
    case, config = Case(arrays, image), arrays.config
    assert case.keys.shape == (case.grid[0] * case.grid[1], config['dim'])
    found = lost_box(case.keys, case.grid, int(case['lost/k_patches']))
    assert found.seed == case['lost/seed']
    np.testing.assert_array_equal(-found.degrees, case['lost/scores'])
    np.testing.assert_allclose(found.expansion, arrays[f'composed/{image}/lost_expansion'], rtol=1e-5, atol=1e-4)
    case.check('lost', case.pixels(found.box))
    found = tokencut_box(case.keys, case.grid, config['tau'], config['eps'])
    np.testing.assert_allclose(found.eigenvector, case['tokencut/eigenvector'], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.mask, case['tokencut/mask'])
    sizes = np.abs(case['tokencut/eigenvector']).flatten()
    assert sizes[[found.seed, int(case['tokencut/seed'])]] == pytest.approx(sizes.max(), abs=1e-6)
    case.check('tokencut', case.pixels(found.box))
    found = tokencut_box(case.keys, case.grid, config['tau'], config['eps'], binary=False)
    np.testing.assert_allclose(found.eigenvector, case['tokencut/weighted_eigenvector'], rtol=0, atol=1e-5)
    assert case.pixels(found.box) == tuple(case['tokencut/weighted_box'].tolist())
    # The published baseline does not clip its box.
    case.check(
        'dino_seg',
        scale_box(attention_box(case.attention[:, 1:], case.grid, int(case['dino_seg/head'])), config['patch_size']),
    )
    boxes = [torch.from_numpy(case[key]) for key in ('annotation_boxes', 'difficult', 'truncated')]
    assert voc_boxes(*boxes).tolist() == case['gt_boxes'].tolist()
    assert voc_boxes(*boxes, keep_hard=False).tolist() == case['gt_boxes_without_hard'].tolist()


def test_corloc_is_the_published_one(arrays):
    names = [f'image_{number:02}' for number in range(arrays.config['images'])]
    annotated = [torch.from_numpy(arrays[f'{name}/gt_boxes']) for name in names]
    for method in ('lost', 'tokencut', 'dino_seg'):
        found = corloc([arrays[f'{name}/{method}/box'] for name in names], annotated, arrays.config['iou_threshold'])
        assert (100 * found.value, found.left_out) == (float(arrays[f'composed/corloc/{method}']), 0)


@pytest.mark.parametrize('binary', [True, False])
def test_cuts_solve_the_generalized_problem(binary):
    linalg = pytest.importorskip('scipy.linalg')
    grid = (5, 8)
    keys = torch.randn(40, 6).double()
    keys[:12] += 3
    found = tokencut_box(keys, grid, binary=binary)
    cosines = (F.normalize(keys, dim=1) @ F.normalize(keys, dim=1).T).numpy()
    weights = np.where(cosines > 0.2, 1.0, 1e-5) if binary else np.where(cosines < 0.2, 1e-5, cosines)
    degrees = np.diag(weights.sum(axis=1))
    _, vectors = linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 1])
    expected = vectors[:, 0] * np.sign(vectors[:, 0] @ found.eigenvector.flatten().numpy())
    np.testing.assert_allclose(found.eigenvector.flatten(), expected, rtol=0, atol=1e-7)
    assert found.mask.flatten()[found.seed]


@pytest.mark.parametrize('seed', range(5))
def test_components_are_numbered_as_scipy_does(seed):
    ndimage = pytest.importorskip('scipy.ndimage')
    mask = np.random.default_rng(seed).random((13, 9)) < (0.2 + 0.2 * seed)
    np.testing.assert_array_equal(components(mask), ndimage.label(mask)[0])


def test_no_background_is_no_component():
    assert (components(np.ones((2, 3), bool)) == 1).all()
    assert (components(np.zeros((2, 3), bool)) == 0).all()


def test_published_components_leave_the_last_one_out():
    attention = torch.full((1, 20), 0.001)
    attention[0, [0, 1, 13, 14, 18, 19]] = 1.0  # two in the first corner, four in the last
    assert attention_box(attention, (4, 5), 0, mass=0.95) == (0, 0, 2, 1)
    assert attention_box(attention, (4, 5), 0, mass=0.95, choose_among='all') == (3, 2, 5, 4)
    attention[0, :2] = 0.001
    assert attention_box(attention, (4, 5), 0, mass=0.9) == (0, 0, 5, 4)  # one component: the background
    assert attention_box(attention, (4, 5), 0, mass=0.9, choose_among='all') == (3, 2, 5, 4)


def test_boxes_are_clipped_at_the_right_and_at_the_bottom():
    assert scale_box((1, 0, 3, 4), 16, (60, 40)) == (16, 0, 40, 60)
    assert scale_box((1, 0, 3, 4), 16) == (16, 0, 48, 64)
    assert box_of(np.eye(3, dtype=bool)) == (0, 0, 3, 3)


def test_images_without_boxes_are_left_out_and_counted():
    found = corloc(
        [(0, 0, 2, 2), (0, 0, 2, 2), (0, 0, 1, 1)],
        [torch.tensor([[0, 0, 2, 4]]), torch.zeros(0, 4), torch.tensor([[5, 5, 6, 6]])],
    )
    assert found == (0.5, [True, None, False], 1)  # an IoU of exactly one half is a hit
    with pytest.raises(ValueError, match='none of the 1 images'):
        corloc([(0, 0, 1, 1)], [torch.zeros(0, 4)])
    with pytest.raises(ValueError, match='1 boxes for 2 images'):
        corloc([(0, 0, 1, 1)], [torch.zeros(0, 4)] * 2)
    with pytest.raises(ValueError, match='without area'):
        box_ious((0, 0, 0, 1), torch.tensor([[0, 0, 1, 1]]))


def test_what_has_no_box_is_refused():
    with pytest.raises(ValueError, match='on a grid of 2 x 3'):
        lost_box(torch.randn(5, 4), (2, 3))
    with pytest.raises(ValueError, match='feature 0 of 6 is zero or not finite'):
        tokencut_box(torch.zeros(6, 4), (2, 3))
    with pytest.raises(ValueError, match='k=0'):
        lost_box(torch.randn(6, 4), (2, 3), 0)
    with pytest.raises(ValueError, match='at least two patches'):
        tokencut_box(torch.ones(1, 4), (1, 1))
    with pytest.raises(ValueError, match='head 4'):
        attention_box(torch.rand(3, 6), (2, 3))
