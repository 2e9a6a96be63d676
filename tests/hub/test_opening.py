"""The architecture is found out from the file, for every layout; what cannot be right is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from places import GOLDEN_CHECKPOINTS
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from mmadclr.api import load_backbone
from mmadclr.checkpoint.architecture import infer_settings
from mmadclr.checkpoint.layouts import BackboneWeights
from mmadclr.checkpoint.loading import architecture, describe_backbone
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import DenseViT, QueryViT
from mmadclr.models.backbones.query_vit import resolve_arch
from mmadclr.registry import MODELS

SIZES = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def save(tmp_path):
    def write(content, name: str = 'a.pth') -> str:
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return write


def spread(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval()
    return model


def assert_same_features(opened, theirs: VisionTransformer, images: torch.Tensor) -> None:
    want = theirs.forward_features(images)
    got = opened.model(images)
    torch.testing.assert_close(got.cls, want[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.patches, want[:, theirs.num_prefix_tokens :], rtol=0, atol=1e-5)


def dinov2_names(model: VisionTransformer) -> dict:
    """The state dict of timm's model as DINOv2's code writes it, with a position for [CLS] and blocks in one chunk."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state['mask_token'] = torch.randn(1, 24)
    if 'reg_token' in state:
        state['register_tokens'] = state.pop('reg_token')
        state['pos_embed'] = torch.cat((torch.randn(1, 1, 24), state['pos_embed']), dim=1)
    return {name.replace('blocks.', 'blocks.0.'): tensor for name, tensor in state.items()}


@pytest.mark.parametrize('size', [32, (40, 64)])
def test_dinov2_with_registers(save, size):
    """Oracle: timm's model, filled by timm's own reader of DINOv2's files."""
    layout = dict(reg_tokens=4, no_embed_class=True, init_values=1e-5, num_classes=0, dynamic_img_size=True)
    theirs = spread(VisionTransformer(32, **SIZES, **layout))
    state = dinov2_names(theirs)
    unchunked = {name.replace('blocks.0.', 'blocks.'): tensor for name, tensor in state.items()}
    theirs.load_state_dict(checkpoint_filter_fn(unchunked, theirs))
    opened = open_backbone(save({'teacher': {f'backbone.{n}': t for n, t in state.items()}}), num_heads=3)
    assert (opened.settings['reg_tokens'], opened.settings['pos_embed_resize']) == (4, 'size')
    height, width = (size, size) if isinstance(size, int) else size
    assert_same_features(opened, theirs, torch.randn(2, 3, height, width))


def test_dinov2_without_registers(save):
    theirs = spread(VisionTransformer(32, **SIZES, init_values=1e-5, num_classes=0))
    opened = open_backbone(save(dinov2_names(theirs)), num_heads=3)
    assert_same_features(opened, theirs, torch.randn(2, 3, 32, 32))


def test_timm_without_a_position_for_the_class_token(save):
    theirs = spread(VisionTransformer(32, **SIZES, init_values=1e-5, no_embed_class=True, num_classes=5))
    opened = open_backbone(save(theirs.state_dict()), num_heads=3)
    assert_same_features(opened, theirs, torch.randn(2, 3, 32, 32))


def test_mae_files(save):
    theirs = spread(VisionTransformer(32, **SIZES, num_classes=0))
    decoder = {'decoder_embed.weight': torch.zeros(8, 24), 'mask_token': torch.zeros(1, 1, 8)}
    opened = open_backbone(save({'model': {**theirs.state_dict(), **decoder}}), num_heads=3)
    assert_same_features(opened, theirs, torch.randn(2, 3, 32, 32))


def pretraining_model(**backbone):
    head = dict(type='DINOHead', out_dim=16, hidden_dim=16, bottleneck_dim=8)
    preprocessor = dict(mean=(127.5, 127.5, 127.5), std=(51.0, 51.0, 51.0))
    backbone = dict(type='QueryViT', arch=SIZES, img_size=(24, 40), init='xavier', **backbone)
    return MODELS.build(dict(type='ADCLR', backbone=backbone, head=head, data_preprocessor=preprocessor))


def test_our_checkpoints_tell_what_tensors_do_not(save):
    model = spread(pretraining_model(pos_embed_resize='size'))
    meta = {'architecture': architecture(model), 'backbone': describe_backbone(model)}
    opened = open_backbone(save({'state_dict': model.state_dict(), 'meta': meta}))
    assert opened.settings['arch'] == {**SIZES, 'mlp_ratio': 4.0}
    assert opened.img_size == (24, 40)
    assert opened.settings['pos_embed_resize'] == 'size'
    assert (opened.mean, opened.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    images = torch.randn(2, 3, 48, 32)
    assert torch.equal(opened.model(images).cls, model.teacher['backbone'](images).cls)


def test_three_lines(save):
    file = save(spread(QueryViT(SIZES, img_size=32)).state_dict())
    model, transform = load_backbone(file, num_heads=3)
    picture = Image.new('RGBA', (50, 80), (255, 0, 0, 255))
    x = transform(picture)
    assert x.shape == (3, 32, 32)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    output = model(x[None])
    assert (output.cls.shape, output.patches.shape) == ((1, 24), (1, 16, 24))
    assert not output.cls.requires_grad


def test_images_of_any_size_are_padded(save):
    file = save(spread(QueryViT(SIZES, img_size=32)).state_dict())
    model, transform = load_backbone(file, num_heads=3, size=45)
    images = torch.randn(2, 3, 45, 30)
    padded = nn.functional.pad(images, (0, 2, 0, 3))
    assert transform(Image.new('L', (9, 9))).shape == (3, 45, 45)
    assert model(images).patches.shape == (2, 6 * 4, 24)
    assert torch.equal(model(images).patches, model(padded).patches)


def test_positions_are_stored_for_another_size_on_request(save):
    state = spread(QueryViT(SIZES, img_size=32)).state_dict()
    opened = open_backbone(save(state), num_heads=3, img_size=64)
    grid = state['pos_embed'][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    want = nn.functional.interpolate(grid, size=(8, 8), mode='bicubic').flatten(2).transpose(1, 2)
    assert torch.equal(opened.model.pos_embed[:, 1:], want)
    assert opened.img_size == (64, 64)


def test_heads_of_64_channels_are_assumed_aloud(save, monkeypatch):
    said = []
    monkeypatch.setattr('mmadclr.hub.opening.print_log', lambda message, _: said.append(message))
    file = save(QueryViT(dict(patch_size=8, embed_dim=128, depth=1, num_heads=2), img_size=16).state_dict())
    assert open_backbone(file).settings['arch']['num_heads'] == 2
    assert said == [f'{file} does not specify its number of attention heads; assuming 2, of 64 channels']


# --- bad input -----------------------------------------------------------------------------------------------------------


def gated(state):
    state = dict(state)
    state['blocks.0.mlp.w12.weight'] = torch.cat([state.pop('blocks.0.mlp.fc1.weight')] * 2)
    return state


def broken(state):
    return {**state, 'norm.bias': torch.full((24,), float('nan'))}


@pytest.mark.parametrize(
    ('change', 'num_heads', 'message'),
    [
        (lambda s: s, None, '24 channels are not a multiple of 64: set num_heads'),
        (lambda s: s, 5, 'num_heads=5 does not divide the 24 channels'),
        (gated, 3, r'3 tensors do not match .*blocks\.1\.mlp\.fc1\.bias'),
        (broken, 3, r'1 of 30 tensors of the backbone contain NaN or infinity \(norm.bias\): the run diverged'),
        (lambda s: {**s, 'pos_embed': torch.zeros(1, 13, 24)}, 3, '12 positions do not form a square grid'),
        (lambda s: {n: t for n, t in s.items() if n != 'pos_embed'}, 3, r'pos_embed \(1, tokens, D\) is missing'),
        (lambda s: {n: t for n, t in s.items() if not n.startswith('norm.')}, 3, 'a class token but no final norm'),
        (
            lambda s: {**s, 'blocks.0.attn.q_norm.weight': torch.ones(8)},
            3,
            'it is a vision transformer with QK norm',
        ),
        (lambda s: {**s, 'blocks.0.extra.weight': torch.ones(8)}, 3, r'1 tensors do not match .*blocks.0.extra.weight'),
        (lambda s: {'weight': torch.zeros(3)}, 3, 'not a checkpoint of a plain vision transformer'),
    ],
)
def test_files_that_cannot_be_right_are_explained(save, change, num_heads, message):
    file = save(change(QueryViT(SIZES, img_size=32).state_dict()))
    with pytest.raises(ValueError, match=rf'a\.pth.*{message}'):
        open_backbone(file, num_heads=num_heads)


def test_detectors_are_told_from_pretraining(save):
    backbone = DenseViT(SIZES, img_size=32, out_indices=(1,))
    content = {f'backbone.{name}': tensor for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match='as in detectors and segmentors that were fine-tuned'):
        open_backbone(save({'state_dict': {**content, 'rpn_head.rpn_conv.weight': torch.zeros(1)}, 'meta': {}}), num_heads=3)


@pytest.mark.parametrize('name', ['dino_checkpoint', 'ibot_checkpoint', 'selfpatch_checkpoint'])
def test_official_files_are_opened_without_running_what_is_in_them(name, monkeypatch):
    monkeypatch.setattr('argparse.Namespace.__init__', lambda *_: pytest.fail('an object of the file was built'))
    assert open_backbone(GOLDEN_CHECKPOINTS / f'{name}.pth', num_heads=3).settings['arch']['depth'] == 2


def test_published_sizes_are_recognized():
    for name, heads in {'vit_small_patch16_224': 6, 'vit_base_patch16_224': 12, 'vit_large_patch16_224': 16}.items():
        with torch.device('meta'):
            state = timm.create_model(name, num_classes=0).state_dict()
        settings = infer_settings(BackboneWeights(state, '', [], None, {}))
        assert settings['arch'] == {**resolve_arch(name), 'num_heads': heads}
