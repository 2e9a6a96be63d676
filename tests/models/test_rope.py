"""Rotary positions against float64 mathematics, timm, and the laws that draws follow."""

import copy
import math

import pytest
import timm
import torch
from golden_files import GoldenFolder
from places import DATA

from mmadclr.models.backbones import rope
from mmadclr.models.backbones.rope import RotaryPositions, patch_centers, rotary_angles, rotary_periods, rotate


@pytest.fixture(scope='module')
def arrays():
    return GoldenFolder(DATA / 'golden_modern')('dinov3_ref64')


def double(arrays, **kwargs) -> RotaryPositions:
    """With periods that were never rounded."""
    model = RotaryPositions(arrays.config['head_dim'], base=arrays.config['base'], **kwargs).double()
    model.reset_parameters()
    return model


def angles_of(rotations):
    """(S, C/2) of a single table, in [-pi, pi]."""
    cos, sin = rotations[0]
    return torch.atan2(sin, cos)


@pytest.mark.parametrize('number', [0, 1, 2])
def test_tables_equal_float64_mathematics(arrays, number):
    grid = tuple(arrays[f'rope/grid{number}/size'].tolist())
    expected = torch.from_numpy(arrays[f'rope/grid{number}/angles']).chunk(2, 1)
    assert torch.equal(*expected)
    table = double(arrays).eval()(grid, 3, 0, math.prod(grid))
    torch.testing.assert_close(table[0], torch.stack((expected[0].cos(), expected[0].sin())), rtol=0, atol=1e-10)
    assert len(table) == 1


def test_periods_and_rotation_equal_float64_mathematics(arrays):
    model, prefix = double(arrays).eval(), arrays['rope/num_prefix'].item()
    torch.testing.assert_close(model.periods, torch.from_numpy(arrays['rope/periods']), rtol=0, atol=1e-10)
    x = torch.from_numpy(arrays['rope/input'])
    table = model(tuple(arrays['rope/grid1/size'].tolist()), 1, prefix, x.shape[2])
    torch.testing.assert_close(rotate(x, table[0]), torch.from_numpy(arrays['rope/rotated']), rtol=0, atol=1e-10)
    assert torch.equal(rotate(x, table[0])[:, :, :prefix], x[:, :, :prefix])


def test_augmented_coordinates_are_shifted_then_jittered_then_rescaled(arrays, monkeypatch):
    given = [torch.from_numpy(arrays[f'rope/augmented/{name}']) for name in ('shift', 'jitter', 'rescale')]
    draws = iter([given[0], given[1].log(), given[2].log()])
    monkeypatch.setattr(rope, '_draw', lambda limit, blocks, axes, like: next(draws).view(1, 1, -1))
    model = double(arrays, shift_coords=1.0, jitter_coords=2.0, rescale_coords=2.0)
    expected = torch.from_numpy(arrays['rope/augmented/angles']).chunk(2, 1)[0]
    table = model(tuple(arrays['rope/grid1/size'].tolist()), 1, 0, len(expected))
    torch.testing.assert_close(table[0], torch.stack((expected.cos(), expected.sin())), rtol=0, atol=1e-10)


@pytest.mark.parametrize('normalize_coords', ['separate', 'max', 'min'])
@pytest.mark.parametrize('periods', [dict(), dict(base=30.0), dict(min_period=0.2, max_period=8.0)])
def test_tables_equal_timm(normalize_coords, periods):
    theirs = timm.layers.pos_embed_sincos.RotaryEmbeddingDinoV3(
        32, normalize_coords=normalize_coords, **{('temperature' if k == 'base' else k): v for k, v in periods.items()}
    ).eval()
    sin, cos = theirs.get_embed([5, 7]).chunk(2, -1)
    ours = RotaryPositions(32, normalize_coords=normalize_coords, **periods).eval()((5, 7), 1, 0, 35)
    torch.testing.assert_close(ours[0], torch.stack((cos[:, :16], sin[:, :16])), rtol=0, atol=2e-5)


AUGMENTED = dict(shift_coords=0.5, jitter_coords=1.5, rescale_coords=2.0)


def test_every_block_and_pass_draws_anew_in_training_alone():
    model = RotaryPositions(16, **AUGMENTED).train()
    first, second = model((4, 6), 5, 1, 30), model((4, 6), 5, 1, 30)
    assert first.shape == (5, 2, 30, 8)
    tables = [*first, *second]
    assert all(not torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])
    assert torch.equal(model.eval()((4, 6), 5, 1, 30), RotaryPositions(16).train()((4, 6), 5, 1, 30))


@pytest.mark.parametrize(('name', 'limit', 'axes'), [
    ('shift_coords', 0.5, 2), ('jitter_coords', 1.5, 2), ('rescale_coords', 2.0, 1),
])  # fmt: skip
def test_draws_follow_their_law(name, limit, axes):
    """Uniform, of shifts or of logarithms of factors; of each axis by itself, or of both alike."""
    coords = patch_centers(3, 3, 'separate', torch.zeros(1).double())
    drawn = RotaryPositions(16, **{name: limit}).augment(coords, 4000)
    value = drawn - coords if name == 'shift_coords' else (drawn / coords)[:, [0, 2, 6, 8]].log()
    bound = limit if name == 'shift_coords' else math.log(limit)
    torch.testing.assert_close(value, value[:, :1].expand_as(value))  # all patches of a block alike
    unit = value[:, 0] / bound
    assert unit.abs().max() <= 1 + 1e-9
    quantiles = torch.quantile(unit, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double(), dim=0)
    expected = torch.tensor([-0.8, -0.5, 0.0, 0.5, 0.8]).double()[:, None].expand(-1, 2)
    torch.testing.assert_close(quantiles, expected, rtol=0, atol=0.06)
    correlation = torch.corrcoef(unit.T)[0, 1]
    assert correlation == pytest.approx(1.0 if axes == 1 else 0.0, abs=0.06)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_periods_stay_in_full_precision(dtype):
    model = RotaryPositions(32)
    model.periods.mul_(1.001)
    before = model.periods.clone()
    assert torch.equal(copy.deepcopy(model).to(dtype).periods, before)
    assert model.double().periods.dtype == torch.float64


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_rotation_is_done_in_the_precision_of_the_table(dtype):
    x, table = torch.randn(2, 3, 35, 32).to(dtype), RotaryPositions(32).eval()((5, 7), 1, 0, 35)[0]
    assert torch.equal(rotate(x, table), rotate(x.float(), table).to(dtype))


def test_scores_depend_on_differences_of_places_alone():
    periods, coords = rotary_periods(16), torch.randn(9, 2).double()
    scores = []
    for shift in (0.0, 0.37):
        angles = rotary_angles(coords + shift, periods)
        q, k = (rotate(torch.ones(9, 16).double() * s, torch.stack((angles.cos(), angles.sin()))) for s in (1.0, 2.0))
        scores.append(q @ k.T)
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-12)
