"""The module that exporters follow is the backbone, at all sizes."""

import pytest
import torch
from backbones import VARIANTS, build_backbone

from mmadclr.hub.export.plain import plain_vit
from mmadclr.hub.export.program import PortableViT, ResizedPositions
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.models.backbones.resizing import RULES, resize_by_rule

GRIDS = [(5, 3), (1, 1), (2, 7), (3, 5), (10, 4), (17, 23)]


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('resize', RULES)
def test_positions_are_resized_by_every_rule(grid, resize):
    stored, positions = (5, 3), torch.randn(15, 4, dtype=torch.float64)
    plain = positions[None]
    expected = plain if grid == stored else resize_by_rule(plain, stored, grid, 0, resize)
    found = ResizedPositions(positions, stored, resize).double()(torch.zeros(2, 6, *grid, dtype=torch.float64))
    tolerance = 2e-6 if resize == 'size' else 1e-12  # timm resizes in single precision
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('variant', [*VARIANTS, 'gated', 'no biases'])
@pytest.mark.parametrize('size', [(32, 32), (32, 48), (48, 32), (37, 51), (8, 64)])
def test_features_are_those_of_the_backbone(variant, size):
    more = {'gated': dict(ffn='swiglu'), 'no biases': dict(qkv_bias=False)}.get(variant)
    model = build_backbone(variant) if more is None else build_backbone(**more)
    images = torch.randn(2, 3, *size)
    found = PortableViT(plain_vit(model), model.pos_embed_resize)(images)
    found = found if isinstance(found, tuple) else (None, found)
    for tokens, expected in zip(found, model(images), strict=False):
        assert (tokens is None) == (expected is None)
        if tokens is not None:
            torch.testing.assert_close(tokens, expected, rtol=0, atol=2e-5)


def test_backbones_that_are_no_plain_vit_are_refused():
    model = QueryViT(dict(embed_dim=24, depth=1, num_heads=2, patch_size=8), img_size=32, rope=True)
    with pytest.raises(ValueError, match='the backbone has rotary positions.*a plain vision transformer does not support'):
        plain_vit(model)


def test_a_recorded_program_can_be_moved_to_another_device():
    # Of positions alone: traced convolutions do not run on this device, which refuses tensors of others.
    for resize in ('dino', 'size'):
        positions = ResizedPositions(torch.randn(16, 24), (4, 4), resize)
        program = torch.jit.trace(positions, torch.zeros(2, 24, 4, 4)).to('meta')
        found = program(torch.zeros(3, 24, 5, 6, device='meta'))
        assert (found.device.type, found.shape) == ('meta', (1, 30, 24))
