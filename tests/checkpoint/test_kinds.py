"""What is no plain vision transformer is called by its name, whichever way it comes in."""

import pytest
import timm
import torch
import transformers
from torch import nn
from torchvision.models import VisionTransformer as OfTorchvision

from mmadclr.checkpoint.weights import load_weights
from mmadclr.hub.conversion import convert
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import QueryViT

HF = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8, intermediate_size=64)
PLAIN = dict(embed_dim=64, depth=2, num_heads=1, patch_size=8)


def of_timm(name, **settings):
    """Names and shapes of timm's model, filled with zeros."""
    with torch.device('meta'):
        state = timm.create_model(name, num_classes=0, **settings).state_dict()
    return {key: torch.zeros(tensor.shape) for key, tensor in state.items()}


def of_transformers(name, **settings):
    config = getattr(transformers, f'{name}Config')(**{**HF, **settings})
    return getattr(transformers, f'{name}Model')(config).state_dict()


def plain(**changed):
    return {**QueryViT(PLAIN, img_size=32).state_dict(), **changed}


def with_kernel(*shape):
    return plain(**{'patch_embed.proj.weight': torch.zeros(64, *shape)})


# A patch embedding is there, and what follows tells the kind.
BACKBONES = {
    'rotary': (
        lambda: of_timm('vit_small_patch16_rope_224', depth=1),
        r'pos_embed \(1, tokens, D\) is missing.* may have rotary',
    ),
    'eva-02': (lambda: of_timm('eva02_base_patch14_224', depth=1), 'an EVA vision transformer'),
    'eva-02, small': (lambda: of_timm('eva02_tiny_patch14_224', depth=1), 'an EVA vision transformer'),
    'beit': (lambda: of_timm('beit_base_patch16_224', depth=1), 'a BEiT'),
    'beit, transformers': (lambda: of_transformers('Beit'), 'a BEiT'),
    'swin': (
        lambda: of_timm('swin_tiny_patch4_window7_224', depths=(1, 1, 1, 1)),
        'a Swin or other hierarchical transformer',
    ),
    'hiera': (lambda: of_timm('hiera_tiny_224'), 'hierarchical vision transformer with several widths'),
    'pvt': (lambda: of_timm('pvt_v2_b0'), 'hierarchical'),
    'clip': (lambda: of_timm('vit_base_patch16_clip_224', depth=1), "CLIP's image tower"),
    'siglip': (lambda: of_timm('vit_base_patch16_siglip_224', depth=1), "SigLIP's image tower"),
    'sam': (lambda: of_timm('samvit_base_patch16', depth=1), 'a SAM or ViTDet'),
    'incomplete gates': (
        lambda: plain(**{'blocks.0.mlp.w2.weight': torch.zeros(8, 64)}),
        r'incomplete gated MLPs \(SwiGLU\)',
    ),
    'mixed rotary': (lambda: of_timm('vit_small_patch16_rope_mixed_224', depth=1), r'rotary positions \(RoPE\) other than'),
    'rotary, one register': (
        lambda: of_timm('vit_betwixt_patch16_rope_reg4_gap_256', depth=1),
        r'rotary positions|pos_embed',
    ),
    'QK norm': (lambda: plain(**{'blocks.0.attn.q_norm.weight': torch.ones(64)}), 'QK norm'),
    'gray': (lambda: with_kernel(1, 8, 8), r'images with 1 channel instead of 3; .*weight\.repeat\(1, 3, 1, 1\) / 3'),
    'infrared': (lambda: with_kernel(4, 8, 8), 'images with 4 channels instead of 3'),
    'gray, transformers': (lambda: of_transformers('ViT', num_channels=1), 'images with 1 channel instead of 3'),
    'video': (lambda: with_kernel(3, 2, 8, 8), 'a video model'),
    'oblong patches': (lambda: with_kernel(3, 8, 16), 'non-square patches of 8x16 pixels'),
}


@pytest.mark.parametrize('kind', BACKBONES)
def test_backbones_of_other_kinds_are_named(kind, tmp_path):
    make, message = BACKBONES[kind]
    torch.save({'teacher': {f'backbone.{name}': tensor for name, tensor in make().items()}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth: .*{message}'):
        open_backbone(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth: .*{message}'):
        convert(tmp_path / 'a.pth', tmp_path / 'out.pth', 'timm')
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    if kind != 'rotary':
        with pytest.raises(ValueError, match=rf'a\.pth.* it is .*{message.split("; ")[0]}'):
            load_weights(QueryViT(PLAIN, img_size=32), tmp_path / 'a.pth')


def optimizer():
    model = nn.Linear(2, 2)
    found = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    found.step()
    return found.state_dict()


def detector():
    return {
        'state_dict': {**below('backbone.', of_timm('resnet18')), 'rpn_head.rpn_conv.weight': torch.zeros(1)},
        'meta': {},
    }


def below(prefix, state):
    return {f'{prefix}{name}': tensor for name, tensor in state.items()}


WHOLE = {
    'resnet': (lambda: of_timm('resnet18'), 'a ResNet, which is a convolutional network'),
    'convnext': (lambda: of_timm('convnext_atto'), 'a convolutional network'),
    'efficientnet': (lambda: of_timm('efficientnet_b0'), 'a convolutional network'),
    'vgg': (lambda: {'features.0.weight': torch.zeros(1, 1, 3, 3)}, 'a convolutional network'),
    'convolutions': (lambda: {'a.weight': torch.zeros(1, 1, 3, 3), 'b.weight': torch.zeros(1, 1, 3, 3)}, 'a convolutional'),
    'detector': (detector, 'a detector or segmentor with a ResNet backbone'),
    'clip': (lambda: of_transformers('CLIPVision'), 'a CLIP or SigLIP model from transformers'),
    'torchvision': (lambda: OfTorchvision(16, 8, 1, 2, 32, 64).state_dict(), "torchvision's vision transformer"),
    'optimizer': (optimizer, 'an optimizer state and no weights'),
    'optimizer, nested': (lambda: {'optimizer': optimizer(), 'epoch': 3}, 'an optimizer state and no weights'),
    'adapters': (lambda: {'blocks.0.attn.qkv.lora_A.weight': torch.zeros(2)}, 'LoRA adapters'),
    'fsdp': (
        lambda: {'_fsdp_wrapped_module._flat_param': torch.zeros(9)},
        r'a shard of an FSDP run: .*eval/ITERATION/teacher_checkpoint\.pth',
    ),
    'head': (
        lambda: {'mlp.0.weight': torch.zeros(2, 3), 'last_layer.weight_g': torch.zeros(2)},
        'a head without a backbone',
    ),
    'language': (lambda: {'transformer.wte.weight': torch.zeros(3, 3)}, 'a language model'),
    'objects': (lambda: {'model': nn.Linear(2, 2)}, r'no named tensors, but Linear: .* save the state_dict\(\)'),
    'nothing': (dict, 'an empty dict'),
    'something': (lambda: {'x.y': torch.zeros(2), 'z': torch.zeros(3)}, 'its tensors are x.y, z'),
}


@pytest.mark.parametrize('kind', WHOLE)
def test_files_without_a_vision_transformer_are_named(kind, tmp_path):
    make, message = WHOLE[kind]
    torch.save(make(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth: patch_embed\.proj\.weight is missing: .*{message}') as caught:
        open_backbone(tmp_path / 'a.pth')
    assert '\n' not in str(caught.value)


def test_remedies_are_those_of_the_tool_at_hand(tmp_path):
    """Options of a config are no advice to who opens a file without one."""
    torch.save(plain(**{'blocks.1.extra': torch.ones(2)}), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'blocks\.1\.extra') as caught:
        open_backbone(tmp_path / 'a.pth')
    assert not any(word in str(caught.value) for word in ('allow', 'init_cfg', 'config'))
    with pytest.raises(ValueError, match=r'allow=\[\.\.\.\] of its init_cfg'):
        load_weights(QueryViT(PLAIN, img_size=32), tmp_path / 'a.pth')


def test_numbers_of_too_few_bits_are_not_cast(tmp_path):
    torch.save({name: tensor.to(torch.int8) for name, tensor in plain().items()}, tmp_path / 'a.pth')
    with pytest.raises(
        ValueError, match=r'30 of 30 tensors .* not of an ordinary floating-point dtype \(cls_token: torch\.int8'
    ):
        open_backbone(tmp_path / 'a.pth')
    torch.save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in plain().items()}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='an unsupported dtype such as float8'):
        open_backbone(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'blocks.900.norm1.weight': torch.ones(64)}, r'some blocks are missing: the file has 0, 1, 900'),
        ({'blocks.99999.norm1.weight': torch.ones(64)}, r'1 tensors do not match a plain vision transformer'),
        ({'blocks.0.mlp.fc1.weight': torch.ones(3)}, r'blocks\.0\.mlp\.fc1\.weight has shape \(3,\)'),
        ({'patch_embed.proj.weight': torch.ones(64)}, r'patch_embed\.proj\.weight has shape \(64,\)'),
        ({'patch_embed.proj.weight': torch.ones(0, 3, 8, 8)}, r'has shape \(0, 3, 8, 8\)'),
        ({'pos_embed': torch.ones(1, 0, 64)}, r'-1 positions do not form a square grid'),
        ({'pos_embed': torch.ones(64)}, r'pos_embed \(1, tokens, D\) is missing'),
        ({'norm.weight': torch.ones(3)}, r'norm\.weight: file \(3,\), model \(64,\)'),
        (
            {'cls_token': torch.ones(1, 1, 1).expand(1, 1, 64)},
            r'cls_token: expanded tensors, with more elements than are stored',
        ),
    ],
)
def test_impossible_shapes_and_numbers_are_explained(changed, message, tmp_path):
    torch.save(plain(**changed), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth.*{message}'):
        open_backbone(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth.*{message}'):
        convert(tmp_path / 'a.pth', tmp_path / 'b.pth', 'timm')


@pytest.mark.parametrize(
    'beside',
    [
        {'meta': 3},
        {'meta': {'architecture': 3, 'backbone': 'x'}},
        {'teacher': 3, 'student': {3: 4}},
        {'student': {'a': 1}, 'teacher': {'head.last_layer.weight_v': torch.ones(2)}, 'dino_loss': {'center': 1}},
        {'config.json': {'pretrained_cfg': {}, 'model_args': 7}},
        {'optimizer': 3, 'epoch': None},
    ],
)
@pytest.mark.parametrize('layout', ['timm', 'mmadclr', 'dino'])
def test_what_else_is_in_a_file_does_no_harm(beside, layout, tmp_path):
    torch.save({'model': plain(), **beside}, tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', tmp_path / 'b.pth', layout)
    assert torch.equal(open_backbone(tmp_path / 'b.pth').model.cls_token, open_backbone(tmp_path / 'a.pth').model.cls_token)


@pytest.mark.parametrize(
    ('beside', 'message'),
    [
        ({'config.json': {'model_type': [1]}}, r'model_type \[1\] is not a supported plain vision transformer'),
        ({'config.json': {'vision_transformer': {}}}, r'num_heads=None must be an integer'),
        ({'meta': {'backbone': {'img_size': 'x'}}}, r"img_size='x' must be an integer"),
        ({'meta': {'backbone': {'mean': 3}}}, r'mean=3 must be a list of three numbers'),
        ({'model': plain(**{'blocks.0.a\nb': torch.ones(2)})}, r'blocks\.0\.a\\nb'),
    ],
)
def test_what_contradicts_the_tensors_is_one_line(beside, message, tmp_path):
    torch.save({'model': plain(), **beside}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth: .*{message}') as caught:
        open_backbone(tmp_path / 'a.pth')
    assert len(str(caught.value).splitlines()) == 1
