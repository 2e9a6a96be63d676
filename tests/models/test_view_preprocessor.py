"""What is applied to which view: against Pillow view by view, in any layout and slicing, without waiting for a device."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from counters import CallCounter
from photometric import KINDS, deviation, draw_batch, published_form, render_with_pillow, to_pictures
from PIL import Image

from mmadclr.datasets.photometric_recipe import COLUMNS, NO_OP, RECIPES, build_recipe
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.models.preprocessors import plan as planning

IDENTITY = dict.fromkeys(COLUMNS, 0.0) | {f'order_{i}': NO_OP for i in range(4)}
both = pytest.mark.parametrize('arithmetic', ['float', 'pillow'])


def parameters(**values):
    return torch.tensor([[(IDENTITY | values)[name] for name in COLUMNS]])


@pytest.fixture(scope='module')
def views():
    """uint8 (40, 3, 40, 52): soft shapes and noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(noise[:6, :8]).resize((52, 40), Image.Resampling.BICUBIC))
    return torch.from_numpy(np.stack((noise, smooth))).permute(0, 3, 1, 2).repeat(20, 1, 1, 1)


@pytest.fixture(scope='module')
def draws():
    """(40, NUM_PARAMS) in which every operation takes place and is left out."""
    rng = np.random.default_rng(1)
    recipes = [build_recipe(view, dict(solarize=0.3, blur=0.5)) for view in RECIPES]
    rows = torch.from_numpy(np.stack([recipes[i % 4].draw(rng) for i in range(40)]))
    shares = {
        name: (rows[:, COLUMNS.index(name)] > 0).float().mean() for name in ('flip', 'gray', 'blur_radius', 'solarize')
    }
    assert all(0 < share < 1 for share in shares.values()), shares
    return rows


def test_pillow_arithmetic_equals_pillow_view_by_view(views, draws):
    preprocessor = ViewPreprocessor(arithmetic='pillow')
    got = preprocessor.augment(views.unflatten(0, (10, 4)), draws.unflatten(0, (10, 4)))
    rendered = [render_with_pillow(*pair) for pair in zip(to_pictures(views), draws, strict=True)]
    expected = torch.stack([TF.pil_to_tensor(picture) for picture in rendered])
    torch.testing.assert_close(got.flatten(0, 1), preprocessor.normalize(expected.float()))


def test_float_arithmetic_stays_close_to_pillow():
    """DINO's recipes on the crops of four images; the figures of ``photometric_float_ops``'s docstring."""
    batch, preprocessor = draw_batch(4), ViewPreprocessor()
    mean, std = ((buffer.flatten() / 255).tolist() for buffer in (preprocessor.mean, preprocessor.std))
    pictures = {kind: to_pictures(batch[f'{kind}_views']) for kind, *_ in KINDS}
    expected = published_form(pictures, batch, mean, std)
    found = deviation(preprocessor(batch, True)['views'], expected, preprocessor.std)
    assert all(value <= bound for value, bound in zip(found, (1.3, 6.0, 13.0), strict=True)), found


def test_published_normalization_and_flip(golden):
    arrays = golden('dino_augment_ops')
    batch = torch.from_numpy(arrays['image']).permute(2, 0, 1)[None]
    flipped = torch.from_numpy(arrays['flip/image']).permute(2, 0, 1)[None]
    preprocessor = ViewPreprocessor()
    normalized = preprocessor.normalize(batch.float())[0]
    torch.testing.assert_close(normalized, torch.from_numpy(arrays['normalize/tensor']), rtol=0, atol=2e-6)
    assert torch.equal(preprocessor.augment(batch, parameters(flip=1.0)), preprocessor.normalize(flipped.float()))


@both
def test_identity_parameters_leave_pixels_alone(views, arithmetic):
    preprocessor = ViewPreprocessor(arithmetic=arithmetic)
    before = views.clone()
    assert torch.equal(preprocessor.augment(views, parameters().expand(40, -1)), preprocessor.normalize(views.float()))
    assert torch.equal(views, before)


@both
@pytest.mark.parametrize('pixels', [1, 3 * 2080, 1 << 30])  # slices of one view; of three; everything at once
def test_slices_do_not_matter(views, draws, arithmetic, pixels, monkeypatch):
    preprocessor = ViewPreprocessor(arithmetic=arithmetic)
    one_by_one = torch.cat([preprocessor.augment(*pair) for pair in zip(views.split(1), draws.split(1), strict=True)])
    monkeypatch.setattr(planning, 'SLICE_PIXELS', pixels)
    torch.testing.assert_close(preprocessor.augment(views, draws), one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [1, 3, 100])
def test_slices_cover_every_view_once_and_hold_one_program(draws, size):
    order, bounds = planning._slices(draws.numpy(), size)
    assert sorted(order.tolist()) == list(range(40))
    assert (bounds[0], bounds[-1]) == (0, 40)
    for first, last in pairwise(bounds):
        rows = draws.numpy()[order[first:last]]
        assert 1 <= len(rows) <= size
        assert len(np.unique(rows[:, :5], axis=0)) == 1
        assert np.all(np.diff(rows[:, COLUMNS.index('blur_radius')]) >= 0)


@both
def test_channels_last_views_come_back_contiguous(views, draws, arithmetic):
    preprocessor = ViewPreprocessor(arithmetic=arithmetic)
    permuted = views.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    got = preprocessor.augment(permuted.unflatten(0, (10, 4)), draws.unflatten(0, (10, 4)))
    assert got.is_contiguous()
    assert torch.equal(got.flatten(0, 1), preprocessor.augment(views, draws))


def test_numbers_travel_as_one_buffer(draws):
    plans = [planning.plan(rows, 2080, sliced=False) for rows in draws.split(20)]
    tensors = [t for parts in plans for part in parts for step in part.steps for t in step[1:] if torch.is_tensor(t)]
    assert {t.dtype for t in tensors} == {torch.int64, torch.float32}
    for sent, tensor in zip(planning.send_tensors(tensors, torch.device('cpu')), tensors, strict=True):
        torch.testing.assert_close(sent, tensor, rtol=0, atol=0)
    moved = planning.send(plans, torch.device('meta'))
    assert [step.name for step in moved[1][0].steps] == [step.name for step in plans[1][0].steps]
    assert all(t.is_meta for parts in moved for part in parts for step in part.steps for t in step[1:] if torch.is_tensor(t))


@both
def test_nothing_waits_for_the_device(arithmetic):
    """The ``meta`` device has shapes and no values: what would fetch one raises. Crops may be there before."""
    batch = draw_batch(2)
    preprocessor = ViewPreprocessor(arithmetic=arithmetic).to('meta')
    expected = {name: (2, count, 3, size, size) for name, count, size in [('global_views', 2, 224), ('local_views', 10, 96)]}
    with CallCounter() as counter:
        views = preprocessor(batch, True)['views']
    assert counter.syncs == []
    assert counter.copies == 4  # the crops, and one of indices and numbers
    assert {name: tuple(views[name].shape) for name in expected} == expected
    assert views['query_crops'].shape == (2, 2, 10, 3, 16, 16)
    assert all(view.is_meta and view.dtype == torch.float32 for view in views.values())
    there = {name: value.to('meta') if name.endswith('_views') else value for name, value in batch.items()}
    with CallCounter() as counter:
        preprocessor(there, True)
    assert counter.copies == 1


def test_autocast_of_the_training_step_is_kept_out(views, draws):
    preprocessor = ViewPreprocessor()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = preprocessor.augment(views, draws)
    torch.testing.assert_close(got, preprocessor.augment(views, draws), rtol=0, atol=0)


@both
def test_a_run_without_local_views_or_queries(arithmetic):
    batch = draw_batch(1)
    batch.update(local_views=batch['local_views'][:, :0], local_photometric=batch['local_photometric'][:, :0])
    batch.update(query_views=batch['query_views'][:, :0], query_photometric=batch['query_photometric'][:, :, :0])
    for device in ('cpu', 'meta'):
        views = ViewPreprocessor(arithmetic=arithmetic).to(device)(batch, True)['views']
        assert views['local_views'].shape == (1, 0, 3, 96, 96)
        assert views['query_crops'].shape == (1, 2, 0, 3, 16, 16)


def test_queries_are_drawn_per_view_or_shared():
    batch, preprocessor = draw_batch(2), ViewPreprocessor()
    first, second = batch['query_photometric'], draw_batch(2, seed=1)['query_photometric']
    batch['query_photometric'] = torch.cat((first, second), dim=1)
    got = preprocessor(batch, True)['views']['query_crops']
    for view, rows in enumerate((first, second)):
        torch.testing.assert_close(got[:, view], preprocessor.augment(batch['query_views'], rows[:, 0]), rtol=0, atol=1e-5)
    batch['query_photometric'] = first
    shared = preprocessor(batch, True)['views']['query_crops']
    assert torch.equal(shared[:, 0], shared[:, 1])


def test_evaluation_images_are_normalized(views):
    preprocessor = ViewPreprocessor()
    assert torch.equal(preprocessor({'images': views})['images'], preprocessor.normalize(views.float()))


def test_bad_input_is_explained(views, draws):
    with pytest.raises(ValueError, match=r"arithmetic='fast': choose one of 'float', 'pillow'"):
        ViewPreprocessor(arithmetic='fast')
    with pytest.raises(ValueError, match='parameters are on meta: keep them on the CPU'):
        ViewPreprocessor().augment(views, draws.to('meta'))
    with pytest.raises(ValueError, match=r'shape \(40, 11\): the last axis must have flip, order_0'):
        ViewPreprocessor().augment(views, draws[:, :-1])
