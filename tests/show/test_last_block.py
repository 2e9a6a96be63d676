"""Attention of the last block against a plain computation and timm's own, and keys against the linear layer."""

import pytest
import torch
from backbones_shown import SIZES, backbone
from timm.models.vision_transformer import VisionTransformer

from mmadclr.models.backbones import QueryViT
from mmadclr.show.last_block import attention_maps, attention_rows, cls_attention, last_keys, query_attention


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def timm_attention(model, images):
    """Softmax of queries and keys that timm's last block computes, (B, H, S, S)."""
    theirs = VisionTransformer(
        32, num_classes=0, reg_tokens=model.num_reg_tokens, no_embed_class=model.no_embed_class, **SIZES
    )
    theirs.load_state_dict(model.state_dict())
    seen = []
    last = theirs.eval().blocks[-1].attn
    last.qkv.register_forward_hook(lambda module, given, output: seen.append(output))
    theirs.forward_features(images)
    q, k, _ = seen[0].unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-2, -1) / 8**0.5).softmax(dim=-1)


@pytest.mark.parametrize('registers', [0, 4])
def test_attention_of_cls_is_that_of_timm(registers):
    model, images = backbone(reg_tokens=registers, pos_embed_resize='size'), torch.randn(2, 3, 32, 32)
    expected = timm_attention(model, images)[:, :, 0, 1 + registers :].unflatten(2, (4, 4))
    torch.testing.assert_close(cls_attention(model, images), expected)


@pytest.mark.parametrize('keys', ['image', 'image+self', 'image+queries'])
def test_rows_are_those_of_the_whole_map(keys):
    model = QueryViT(SIZES, img_size=32, init='xavier', query_keys=keys).eval()
    images, crops = torch.randn(2, 3, 32, 16), torch.randn(2, 3, 3, 16, 16)
    whole = model.last_attention(images, crops)
    rows = attention_rows(model, images, crops)
    torch.testing.assert_close(rows, torch.cat((whole[:, :, :1], whole[:, :, 9:]), dim=2)[..., 1:9])
    second = whole.mean(dim=1)[:, 13:17, 1:9].mean(dim=1).unflatten(1, (4, 2))
    torch.testing.assert_close(query_attention(model, images, crops)[:, 1], second)


def test_rotary_positions_and_registers():
    model = backbone(embed_dim=32, num_heads=2, rope=True, reg_tokens=2)
    images, crops = torch.randn(1, 3, 32, 16), torch.randn(1, 1, 3, 8, 8)
    whole = model.last_attention(images, crops)
    torch.testing.assert_close(attention_rows(model, images, crops), whole[:, :, [0, 11]][..., 3:11])


def test_without_class_token_queries_have_attention_and_cls_has_none():
    model, images, crops = backbone(class_token=False), torch.randn(1, 3, 16, 16), torch.randn(1, 2, 3, 8, 8)
    whole = model.last_attention(images, crops).mean(dim=1)
    torch.testing.assert_close(query_attention(model, images, crops).flatten(2), whole[:, 4:, :4])
    with pytest.raises(ValueError, match='mine has no class token, so there is no attention'):
        cls_attention(model, images, 'mine')


def test_attention_maps_are_rows_of_the_last_attention():
    model = QueryViT(SIZES, img_size=32, init='xavier').eval()
    images, crops = torch.randn(2, 3, 32, 16), torch.randn(2, 3, 3, 16, 16)
    maps = attention_maps(model, images, crops)
    assert maps.shape == (2, 4, 32, 16)
    attention = model.last_attention(images, crops).mean(1)  # rows: [CLS], 8 patches, 3 x 4 query tokens
    cls = attention[:, 0, 1:9].reshape(2, 1, 4, 2)
    second = attention[:, 13:17, 1:9].mean(1).reshape(2, 1, 4, 2)
    for index, expected in ((0, cls), (2, second)):
        resized = torch.nn.functional.interpolate(expected, size=(32, 16), mode='bilinear')
        torch.testing.assert_close(maps[:, index : index + 1], resized)


def test_keys_are_those_of_the_linear_layer():
    model, images, seen = backbone(reg_tokens=1), torch.randn(1, 3, 16, 32), []
    model.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, output: seen.append(output))
    keys = last_keys(model, images)
    assert keys.shape == (1, 2, 4, 24)
    torch.testing.assert_close(keys.flatten(1, 2), seen[0][:, 2:, 24:48])
