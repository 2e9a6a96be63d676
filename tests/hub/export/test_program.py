"""The module that exporters follow is the backbone, at all sizes."""

import pytest
import torch
from backbones import VARIANTS, build_backbone
from timm.layers import resample_abs_pos_embed

from mmadclr.hub.export.plain import plain_vit
from mmadclr.hub.export.program import PortableViT, ResizedPositions
from mmadclr.models.backbones.query_vit import resize_positions

GRIDS = [(5, 3), (1, 1), (2, 7), (3, 5), (10, 4), (17, 23)]


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('resize', ['dino', 'size'])
def test_positions_are_resized_by_both_rules(grid, resize):
    stored, positions = (5, 3), torch.randn(15, 4, dtype=torch.float64)
    if grid == stored:
        expected = positions[None]
    elif resize == 'dino':
        expected = resize_positions(positions[None], stored, grid, num_prefix=0)
    else:
        # The library resizes in single precision.
        expected = resample_abs_pos_embed(positions[None], grid, stored, num_prefix_tokens=0)
    found = ResizedPositions(positions, stored, resize).double()(torch.zeros(2, 6, *grid, dtype=torch.float64))
    tolerance = 1e-12 if resize == 'dino' else 2e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('size', [(32, 32), (32, 48), (48, 32), (37, 51), (8, 64)])
def test_features_are_those_of_the_backbone(variant, size):
    model, images = build_backbone(variant), torch.randn(2, 3, *size)
    found = PortableViT(plain_vit(model), model.pos_embed_resize)(images)
    found = found if isinstance(found, tuple) else (None, found)
    for tokens, expected in zip(found, model(images), strict=False):
        assert (tokens is None) == (expected is None)
        if tokens is not None:
            torch.testing.assert_close(tokens, expected, rtol=0, atol=2e-5)


def test_a_recorded_program_can_be_moved_to_another_device():
    # Of positions alone: traced convolutions do not run on this device, which refuses tensors of others.
    for resize in ('dino', 'size'):
        positions = ResizedPositions(torch.randn(16, 24), (4, 4), resize)
        program = torch.jit.trace(positions, torch.zeros(2, 24, 4, 4)).to('meta')
        found = program(torch.zeros(3, 24, 5, 6, device='meta'))
        assert (found.device.type, found.shape) == ('meta', (1, 30, 24))
