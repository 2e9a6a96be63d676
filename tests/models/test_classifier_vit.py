"""ClassifierViT against features of the published DINO, the tokens of pretraining, and its own unfrozen self."""

import pytest
import torch
from golden_files import enlarged

from mmadclr.models.backbones import ClassifierViT, QueryViT

ARCH = dict(embed_dim=24, depth=3, num_heads=3, patch_size=8)


def build(**kwargs) -> ClassifierViT:
    model = ClassifierViT(**{'arch': ARCH, 'img_size': 32, **kwargs}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 48, 40, dtype=torch.float64)


@torch.no_grad()
def test_features_of_the_last_blocks_equal_the_published_ones(golden):
    expected = golden('checkpoints/dino_expected')
    config, width = expected.config, expected['teacher/last_layers_224'].shape[1]
    arch = {key: config[key] for key in ('embed_dim', 'depth', 'num_heads', 'patch_size')}
    init_cfg = dict(type='Pretrained', checkpoint=str(golden.path('checkpoints/dino_checkpoint.pth')))
    image = torch.from_numpy(enlarged(expected))
    for blocks, name in ((width // config['embed_dim'], 'last_layers_224'), (1, 'features_224')):
        model = ClassifierViT(arch, img_size=config['img_size'], cls_blocks=blocks, init_cfg=init_cfg)
        model.init_weights()
        (features,) = model.eval()(image)
        want = torch.from_numpy(expected[f'teacher/{name}'])
        torch.testing.assert_close(features, want, rtol=0, atol=3e-5)


@pytest.mark.parametrize('registers', [0, 2])
@pytest.mark.parametrize(('cls_blocks', 'mean_patches'), [(1, False), (1, True), (2, False), (3, True)])
@torch.no_grad()
def test_features_are_parts_of_the_tokens_of_pretraining(images, cls_blocks, mean_patches, registers):
    settings = dict(reg_tokens=registers, layer_scale=0.5 if registers else None)
    model = build(cls_blocks=cls_blocks, mean_patches=mean_patches, **settings)
    pretrained = QueryViT(ARCH, img_size=32, **settings).double().eval()
    pretrained.load_state_dict(model.state_dict())
    tokens = pretrained.intermediate_tokens(images, cls_blocks)
    parts = [x[:, 0] for x in tokens] + [tokens[-1][:, 1 + registers :].mean(1)] * mean_patches
    (features,) = model(images)
    assert features.shape == (2, model.feat_dim) == (2, 24 * (cls_blocks + mean_patches))
    torch.testing.assert_close(features, torch.cat(parts, dim=1), rtol=0, atol=1e-12)


def test_frozen_backbone_stays_still_and_keeps_nothing(images):
    model = build(frozen_stages=3, cls_blocks=2, drop_path_rate=0.9).train()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    (features,) = model(images.clone().requires_grad_())
    assert not features.requires_grad
    assert torch.equal(features, model.eval()(images)[0])


def test_trainable_parameters_get_gradients(images):
    model = build(cls_blocks=1).train()
    model(images)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    part = build(frozen_stages=1, reg_tokens=1).train()
    part(images)[0].square().sum().backward()
    frozen = {name for name, parameter in part.named_parameters() if parameter.grad is None}
    embeddings = {'cls_token', 'pos_embed', 'reg_token', 'patch_embed.proj.weight', 'patch_embed.proj.bias'}
    assert frozen == embeddings | {name for name, _ in part.named_parameters() if name.startswith('blocks.0.')}


@pytest.mark.parametrize('grad_checkpointing', [True, 'selective'])
def test_recomputed_blocks_give_the_same_gradients(images, grad_checkpointing):
    plain = build(mean_patches=True)
    other = build(mean_patches=True, grad_checkpointing=grad_checkpointing)
    other.load_state_dict(plain.state_dict())
    for model in (plain, other):
        model(images)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


def test_layer_depths():
    model = build(reg_tokens=1)
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    expected = {'cls_token': 0, 'reg_token': 0, 'pos_embed': 0, 'patch_embed.proj.weight': 0, 'norm.weight': 4}
    assert {name: depths[name] for name in expected} == {name: (depth, 5) for name, depth in expected.items()}
    assert [depths[f'blocks.{i}.mlp.fc1.weight'][0] for i in range(3)] == [1, 2, 3]
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (4, 5)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(cls_blocks=0), r'cls_blocks=0 must be between 1 \(the last block\) and 3'),
        (dict(cls_blocks=4), 'cls_blocks=4'),
        (dict(frozen_stages=4), r'frozen_stages=4 must be between -1 \(none\) and 3'),
        (dict(init_cfg=dict(type='Normal')), 'ClassifierViT accepts'),
    ],
)
def test_impossible_settings_are_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_images_that_are_no_multiple_of_the_patch_are_errors():
    with pytest.raises(ValueError, match='both sides must be multiples of the patch size 8'):
        build()(torch.zeros(1, 3, 33, 32, dtype=torch.float64))
