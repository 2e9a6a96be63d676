"""Label propagation against the published code's numbers, and a slow form over whole matrices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmadclr.evaluation.dense.davis import (
    decode_labels,
    enlarged,
    first_labels,
    frame_size,
    network_input,
    propagate_labels,
    segment_video,
    stretched,
)  # fmt: skip
from mmadclr.evaluation.dense.davis_scores import evaluate_sequence, statistics, summarize

RUNS = ('defaults', 'short_memory', 'no_neighbourhood')


@pytest.fixture
def video(golden):
    return golden('dense_eval/davis_propagation')


def settings(video, run):
    names = dict(n_last='n_last_frames', radius='size_mask_neighborhood', topk='topk')
    found = {name: int(video[f'{run}/{key}']) for name, key in names.items()}
    return found | dict(temperature=video.config['temperature'])


def test_frames_enter_the_network_as_published(video):
    size = tuple(video['config/original_size'])
    assert frame_size(size, video.config['short_side']) == tuple(video['config/frame_size'])
    found = network_input(video['preprocess/jpeg_decoded_frame_0'], video.config['short_side'])
    levels = (found - torch.from_numpy(video['preprocess/frame_0'])).abs() * 255 * 0.228
    assert levels.max() < 1.01  # OpenCV's fixed point differs by machine


@pytest.mark.parametrize(
    ('size', 'expected'),
    [((480, 854), (480, 832)), ((854, 480), (832, 480)), ((480, 480), (480, 448)), ((1080, 1920), (480, 832))],
)
def test_long_sides_are_multiples_of_64(size, expected):
    assert frame_size(size) == expected


@pytest.mark.parametrize('run', RUNS)
def test_masks_travel_as_published(video, run):
    grid, features = tuple(video['config/grid'].tolist()), torch.from_numpy(video['features'])
    assert features.shape == (video.config['frames'], grid[0] * grid[1], video.config['dim'])
    annotations, size = video['annotations'], tuple(video['config/original_size'])
    first = first_labels(annotations[0], grid)
    np.testing.assert_array_equal(first, video['first_segmentation'])
    soft = list(propagate_labels(features, first, **settings(video, run)))
    np.testing.assert_allclose(torch.stack(soft), video[f'{run}/soft_labels'], rtol=0, atol=2e-5)
    masks = segment_video(iter(features), annotations[0], grid, video.config['patch_size'], **settings(video, run))
    np.testing.assert_array_equal(masks, video[f'{run}/prediction'])
    assert masks.shape[1:] == size
    if run == 'defaults':
        last = stretched(enlarged(soft[-1], video.config['patch_size']))
        np.testing.assert_allclose(last, video['defaults/normalised_last_frame'], rtol=0, atol=5e-5)


@pytest.mark.parametrize('run', RUNS)
def test_scores_are_those_of_the_official_evaluation(video, run):
    scores = evaluate_sequence(video[f'{run}/prediction'], video['annotations'])
    for name, values in (('j', scores.j), ('f', scores.f)):
        np.testing.assert_allclose(values, video[f'{run}/{name}_per_frame'], rtol=0, atol=1e-12)
        found = [statistics(each) for each in values]
        for key in ('mean', 'recall', 'decay'):
            expected = video[f'{run}/{name.upper()}_{key}']
            np.testing.assert_allclose([getattr(each, key) for each in found], expected, rtol=0, atol=1e-12)
    assert summarize([scores])['davis_J&F'] == pytest.approx(100 * float(video[f'{run}/JF_mean']), abs=1e-10)


def slow(features, first, n_last, radius, topk, temperature):
    """The same over whole matrices in double precision."""
    grid, known = first.shape[1:], [first.double().flatten(1)]
    directions = F.normalize(features.double(), dim=2)
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
    near = (
        ((places[:, None] - places[None]).abs() <= radius).all(dim=2)
        if radius
        else torch.ones(len(places), len(places)).bool()
    )
    for now in range(1, len(features)):
        frames = [0, *range(max(1, now - n_last), now)]
        weights = torch.cat([(directions[f] @ directions[now].T / temperature).exp() * near for f in frames])
        kept = weights >= weights.sort(dim=0, descending=True).values[topk - 1]
        weights = weights * kept
        known.append(torch.cat([known[f] for f in frames], dim=1) @ (weights / weights.sum(dim=0)))
    return torch.stack(known[1:]).unflatten(2, grid).float()


@pytest.mark.parametrize(('n_last', 'radius', 'topk', 'temperature'), [(1, 1, 3, 0.1), (2, 0, 6, 0.07), (9, 2, 1, 0.2)])
def test_blocks_and_queues_change_nothing(monkeypatch, n_last, radius, topk, temperature):
    monkeypatch.setattr('mmadclr.evaluation.dense.davis.BLOCK_BYTES', 4 * 15 * 4)
    features, mask = torch.randn(6, 15, 8), np.arange(15, dtype=np.uint8).reshape(3, 5) % 3
    first = first_labels(mask, (3, 5))
    found = torch.stack(list(propagate_labels(features, first, n_last, radius, topk, temperature)))
    torch.testing.assert_close(found, slow(features, first, n_last, radius, topk, temperature), rtol=0, atol=1e-5)


def test_stretching_lets_a_faint_object_win():
    soft = torch.zeros(3, 1, 2)
    soft[0], soft[1] = torch.tensor([[0.6, 0.9]]), torch.tensor([[0.4, 0.1]])
    before = soft.clone()
    assert decode_labels(soft, 1, (1, 2)).tolist() == [[1, 0]]
    assert decode_labels(soft, 1, (1, 2), stretch=False).tolist() == [[0, 0]]
    assert torch.equal(soft, before)


def test_what_cannot_be_propagated_is_refused():
    mask = np.ones((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r'a video of 1 frame\(s\)'):
        segment_video(torch.randn(1, 4, 3), mask, (2, 2), 2, topk=2)
    with pytest.raises(ValueError, match='topk=5 must be at most the 4 patches'):
        segment_video(torch.randn(2, 4, 3), mask, (2, 2), 2)
    with pytest.raises(ValueError, match=r'features \(9, 3\) of frame 0'):
        segment_video(torch.randn(2, 9, 3), mask, (2, 2), 2)
    with pytest.raises(ValueError, match='the first mask has no object'):
        segment_video(torch.randn(2, 4, 3), 0 * mask, (2, 2), 2)
    with pytest.raises(ValueError, match=r'must be \(H, W\), uint8'):
        first_labels(mask.astype(int), (2, 2))
    with pytest.raises(ValueError, match='n_last=0'):
        segment_video(torch.randn(2, 4, 3), mask, (2, 2), 2, n_last=0)
