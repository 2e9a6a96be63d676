"""Kinds of dense features against timm's own modules, by hooks."""

import pytest
import torch
from timm.models import VisionTransformer

from mmadclr.models.backbones.dense_features import block_maps, dense_features
from mmadclr.models.backbones.feature_vit import FeatureViT

SIZES = dict(embed_dim=64, depth=3, num_heads=4, patch_size=8)
KINDS = ['patch', 'patch_before_norm', 'keys', 'attention']


def pair(regs=0):
    """A random backbone, and timm's with the same weights."""
    torch.manual_seed(0)
    ours = FeatureViT(arch=SIZES, img_size=48, pos_embed_resize='size', init='xavier', reg_tokens=regs)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = VisionTransformer(
        img_size=48, num_classes=0, reg_tokens=regs, no_embed_class=bool(regs), dynamic_img_size=True, **SIZES
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


def hooked(model, images):
    """Outputs of timm's modules: the last block, its qkv layer, its attention map, and all."""
    found, last = {}, model.blocks[-1]
    last.attn.fused_attn = False
    for name, module in (('before', last), ('qkv', last.attn.qkv), ('attention', last.attn.attn_drop)):
        module.register_forward_hook(lambda m, i, output, name=name: found.update({name: output}))
    with torch.no_grad():
        found['after'] = model.forward_features(images)
    return found


@pytest.mark.parametrize('regs', [0, 2])
@pytest.mark.parametrize('size', [(48, 48), (64, 40)])
def test_all_kinds_equal_outputs_of_timms_modules(regs, size):
    ours, theirs = pair(regs)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected, first = hooked(theirs, images), 1 + regs
    found = dense_features(ours, images, KINDS)
    assert list(found) == KINDS
    torch.testing.assert_close(found['patch'], expected['after'][:, first:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found['patch_before_norm'], expected['before'][:, first:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found['keys'], expected['qkv'][:, first:, 64:128], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found['attention'], expected['attention'][:, :, 0, first:], rtol=1e-4, atol=1e-6)


def test_images_are_padded_at_the_right_and_bottom():
    ours, _ = pair()
    images = torch.randn(1, 3, 45, 33)
    padded = torch.zeros(1, 3, 48, 40)
    padded[:, :, :45, :33] = images
    for kind in KINDS:
        assert torch.equal(dense_features(ours, images, [kind])[kind], dense_features(ours, padded, [kind])[kind])


def test_patches_equal_the_forward_pass_with_rotary_positions():
    backbone = FeatureViT(arch=SIZES, rope=True, qkv_bias='qv', init='xavier')
    images = torch.randn(2, 3, 32, 48)
    found = dense_features(backbone, images, ['patch', 'attention'])
    torch.testing.assert_close(found['patch'], backbone(images).patches)
    torch.testing.assert_close(found['attention'], backbone.last_attention(images)[:, :, 0, 1:])


def test_the_last_block_is_skipped_if_only_its_keys_are_requested():
    ours, _ = pair()
    calls = []
    ours.blocks[-1].register_forward_hook(lambda *_: calls.append(1))
    assert set(dense_features(ours, torch.randn(1, 3, 48, 48), ['keys'])) == {'keys'}
    assert not calls


def test_bad_kinds():
    ours, _ = pair()
    with pytest.raises(ValueError, match="'queries': must be one of patch, patch_before_norm"):
        dense_features(ours, torch.randn(1, 3, 48, 48), ['queries'])
    without = FeatureViT(arch=SIZES, img_size=48, class_token=False)
    with pytest.raises(ValueError, match='no class token'):
        dense_features(without, torch.randn(1, 3, 48, 48), ['attention'])
    assert dense_features(without, torch.randn(1, 3, 48, 48), ['keys'])['keys'].shape == (1, 36, 64)


@pytest.mark.parametrize('final_norm', [True, False])
@pytest.mark.parametrize('size', [(48, 48), (64, 40), (45, 33)])
def test_maps_of_blocks_equal_timms_intermediate_layers(final_norm, size):
    ours, theirs = pair(regs=2)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(images, (0, -size[1] % 8, 0, -size[0] % 8))
    with torch.no_grad():
        expected = theirs.get_intermediate_layers(padded, [0, 2], reshape=True, norm=final_norm)
        found = block_maps(ours, images, (-1, 0), final_norm)
    torch.testing.assert_close(found, torch.cat((expected[1], expected[0]), dim=1), rtol=1e-4, atol=1e-5)
    assert torch.equal(block_maps(ours, images, (2, -3), final_norm), found)


@pytest.mark.parametrize('blocks', [(), (3,), (-4, 0)])
def test_blocks_that_do_not_exist(blocks):
    with pytest.raises(ValueError, match=r'blocks=\[.*\] must be indices from -3 to 2, at least one'):
        block_maps(pair()[0], torch.zeros(1, 3, 48, 48), blocks)
