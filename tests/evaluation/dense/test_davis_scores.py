"""J and F against the official evaluation's numbers, its edge cases, and loops over pixels."""

import numpy as np
import pytest

from mmadclr.evaluation.dense.davis_scores import (
    SequenceScores,
    boundary_accuracy,
    boundary_map,
    boundary_radius,
    evaluate_sequence,
    region_similarity,
    statistics,
    summarize,
)  # fmt: skip


@pytest.fixture
def arrays(golden):
    return golden('dense_eval/davis_metrics')


def test_scores_of_objects_that_come_and_go_are_the_official_ones(arrays):
    config, size = arrays.config, tuple(arrays['config/size'])
    scores = evaluate_sequence(arrays['predictions'], arrays['annotations'], bound=config['bound_th'])
    assert arrays['annotations'].shape == (config['frames'], *size)
    assert scores.j.shape == (config['objects'], config['frames'] - 2)
    assert boundary_radius(size, config['bound_th']) == config['boundary_radius']
    assert config['objects'] in scores.unpredicted
    for name, values in (('j', scores.j), ('f', scores.f)):
        np.testing.assert_allclose(values, arrays[f'{name}_per_frame'], rtol=0, atol=1e-12)
        found = [statistics(each) for each in values]
        np.testing.assert_allclose(found, arrays[f'statistics_{name.upper()}'], rtol=0, atol=1e-12)


def test_void_and_other_radii_are_the_official_ones(arrays):
    objects = range(1, len(arrays['j_with_void']) + 1)
    pairs = [(arrays['predictions'] == label, arrays['annotations'] == label) for label in objects]
    for values, expected in (
        ([region_similarity(*pair, arrays['void']) for pair in pairs], arrays['j_with_void']),
        ([boundary_accuracy(*pair, arrays['void']) for pair in pairs], arrays['f_with_void']),
        ([boundary_accuracy(*pair, bound=5) for pair in pairs], arrays['f_radius_5']),
    ):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    for name, masks in zip(('annotation', 'prediction'), (pairs[0][1], pairs[0][0]), strict=True):
        np.testing.assert_array_equal(boundary_map(masks[1]), arrays[f'boundary_{name}'])


def test_boundaries_pixel_by_pixel():
    rng = np.random.default_rng(0)
    mask = rng.random((7, 9)) < 0.5
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            expected = any(mask[y, x] != mask[place] for place in others if place[0] < height and place[1] < width)
            assert boundary_map(mask)[y, x] == expected, (y, x)


def test_empty_masks():
    empty, full = np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8), bool)
    full[0, 2:5, 2:5] = True
    assert [region_similarity(*pair)[0] for pair in ((empty, empty), (full, empty), (empty, full))] == [1, 0, 0]
    assert [boundary_accuracy(*pair)[0] for pair in ((empty, empty), (full, empty), (empty, full))] == [1, 0, 0]


def test_objects_that_appear_late_are_named_and_not_scored():
    annotations = np.zeros((4, 6, 6), np.uint8)
    annotations[:, :3] = 1
    annotations[2:, 4:] = 2
    annotations[1, 5, 5] = 255
    scores = evaluate_sequence(np.where(annotations == 1, 1, 0), annotations)
    assert (scores.late, scores.unpredicted, scores.j.shape) == ((2,), (), (1, 2))
    assert summarize([scores])['davis_J&F'] == 100


def test_means_are_over_objects_not_videos():
    videos = [SequenceScores(np.full((n, 8), value), np.full((n, 8), value), (), ()) for n, value in ((1, 1.0), (3, 0.2))]
    found = summarize(videos)
    assert found['davis_J&F'] == pytest.approx(40)
    assert (found['davis_J_recall'], found['davis_F_decay']) == (25, 0)


def test_what_cannot_be_scored_is_refused():
    masks = np.ones((4, 6, 6), np.uint8)
    with pytest.raises(ValueError, match=r'a video of 2 frame\(s\)'):
        evaluate_sequence(masks[:2], masks[:2])
    with pytest.raises(ValueError, match='of the same size'):
        evaluate_sequence(masks[:, :3], masks)
    with pytest.raises(ValueError, match='predicted label 2 must be at most 1'):
        evaluate_sequence(2 * masks, masks)
    with pytest.raises(ValueError, match='has no object'):
        evaluate_sequence(masks, 0 * masks)
    with pytest.raises(ValueError, match='objects 1, 2 of 3 are in no frame'):
        evaluate_sequence(3 * masks, 3 * masks)
    with pytest.raises(ValueError, match='no video'):
        summarize([])
    with pytest.raises(ValueError, match='bound=0'):
        boundary_accuracy(masks, masks, bound=0)
