"""QueryViT: its own invariants, timm's plain models, and what it refuses; published numbers are in test_published_vit.py."""

import pytest
import timm
import torch
from counters import PeakBytes

from mmadclr.models.backbones.query_block import QUERY_KEYS
from mmadclr.models.backbones.query_vit import QueryViT, resolve_arch

ARCH = dict(embed_dim=36, depth=3, num_heads=3, patch_size=8)


def build(state=None, dtype=torch.float32, **kwargs) -> QueryViT:
    model = QueryViT(ARCH, img_size=32, **kwargs)
    if state is not None:
        model.load_state_dict(state)
    return model.to(dtype).eval()


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 32, 32), torch.randn(2, 3, 3, 16, 16)


@pytest.mark.parametrize('query_keys', QUERY_KEYS)
@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
def test_image_outputs_do_not_depend_on_queries(inputs, query_keys, drop_path_rate):
    images, crops = inputs
    model = build(query_keys=query_keys, drop_path_rate=drop_path_rate).train()
    torch.manual_seed(1)
    without = model(images)
    torch.manual_seed(1)  # the same paths are dropped
    with_queries = model(images, crops)
    torch.testing.assert_close(with_queries.cls, without.cls, rtol=0, atol=2e-6)
    torch.testing.assert_close(with_queries.patches, without.patches, rtol=0, atol=2e-6)


@pytest.mark.parametrize('query_keys', QUERY_KEYS)
def test_no_gradient_from_image_outputs_to_query_pixels(inputs, query_keys):
    images, crops = inputs
    crops.requires_grad_()
    output = build(query_keys=query_keys)(images, crops)
    (gradient,) = torch.autograd.grad(output.cls.sum() + output.patches.square().sum(), crops, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_bidirectional_control_does_leak(inputs):
    """The control of the collapse ablation really breaks the rule the tests above check."""
    images, crops = inputs
    crops.requires_grad_()
    model = build(query_keys='image+queries', bidirectional=True)
    (gradient,) = torch.autograd.grad(model(images, crops).cls.square().sum(), crops)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize('query_keys', QUERY_KEYS)
def test_permuting_crops_permutes_outputs(inputs, query_keys):
    images, crops = inputs
    order = torch.tensor([2, 0, 1])
    model = build(query_keys=query_keys)
    torch.testing.assert_close(
        model(images, crops[:, order]).queries, model(images, crops).queries[:, order], rtol=0, atol=2e-6
    )


def test_crops_do_not_see_each_other_by_default(inputs):
    images, crops = inputs
    model = build()
    torch.testing.assert_close(model(images, crops[:, :1]).queries, model(images, crops).queries[:, :1], rtol=0, atol=2e-6)


def test_query_pos_embed_tells_tokens_of_a_crop_apart(inputs):
    images, _ = inputs
    flat = torch.zeros(2, 1, 3, 16, 16)
    plain, placed = (build(query_pos_embed=option)(images, flat).queries[:, 0] for option in (False, True))
    torch.testing.assert_close(plain, plain[:, :1].expand_as(plain), rtol=0, atol=2e-6)
    assert (placed - placed[:, :1]).abs().max() > 1e-3


def test_last_attention_obeys_the_mask_and_reproduces_the_block(inputs):
    images, crops = inputs
    model = build(query_keys='image+self')
    weights = model.last_attention(images, crops)
    _, layout = model.embed(images, crops)
    assert not weights[:, :, ~layout.mask(weights.shape[2])].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize(
    'kwargs', [*(dict(query_keys=keys) for keys in QUERY_KEYS), dict(query_keys='image+queries', bidirectional=True)]
)
@pytest.mark.parametrize('with_queries', [True, False])
def test_leaving_out_patches_changes_nothing_else(inputs, kwargs, with_queries):
    images, crops = (x.double() for x in inputs)
    crops = crops if with_queries else None
    model = build(dtype=torch.float64, drop_path_rate=0.5, **kwargs).train()
    results = []
    for patches in (True, False):
        model.zero_grad()
        torch.manual_seed(3)
        output = model(images, crops, patches=patches)
        (output.cls.sin().sum() + output.queries.cos().sum()).backward()
        results.append([output.cls, output.queries, *(p.grad.clone() for p in model.parameters())])
    assert output.patches is None
    for whole, part in zip(*results, strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize('class_token', [True, False])
def test_patches_are_there_unless_left_out(inputs, class_token):
    model = build(class_token=class_token)
    assert model(inputs[0]).patches.shape == (2, 16, 36)
    assert (model(inputs[0], patches=False).patches is None) == class_token  # without [CLS] there would be nothing left


@pytest.mark.parametrize('kwargs', [dict(), dict(class_token=False), dict(reg_tokens=2), dict(query_pos_embed=True)])
def test_what_is_masked_has_no_influence_and_queries_are_never_masked(inputs, kwargs):
    images, crops = inputs
    model = build(mask_token=True, **kwargs)
    torch.nn.init.normal_(model.mask_token)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1:, 2:] = True
    other = images.clone()
    other[:, :, 8:, 16:] = torch.randn(2, 3, 24, 16)
    for got, expected in zip(model(other, crops, mask=mask), model(images, crops, mask=mask), strict=True):
        assert got is None or torch.equal(got, expected)
    embedded, layout = model.embed(images, crops, mask)
    whole, _ = model.embed(images, crops)
    differs = (embedded != whole).any(-1)[:, : layout.num_image]
    assert torch.equal(differs[:, -16:], mask.flatten(1))
    assert torch.equal(embedded[:, layout.num_image :], whole[:, layout.num_image :])


def test_a_mask_token_is_the_only_key_it_adds():
    names = [set(build(mask_token=choice).state_dict()) for choice in (True, False)]
    assert names[0] - names[1] == {'mask_token'}
    assert names[1] < names[0]


def test_masks_that_do_not_fit_are_explained(inputs):
    images, _ = inputs
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match='this backbone has no mask token; set mask_token=True of QueryViT'):
        build()(images, mask=mask)
    with pytest.raises(ValueError, match=r'\(2, 2, 2\): the images have \(2, 4, 4\) patches .* of 8 pixels'):
        build(mask_token=True)(images, mask=mask[:, :2, :2])


@pytest.mark.parametrize('choice', ['selective', True])
def test_gradient_checkpointing_changes_nothing_but_memory(inputs, choice):
    images, crops = inputs
    plain = build(drop_path_rate=0.5).train()
    saving = build(plain.state_dict(), drop_path_rate=0.5, grad_checkpointing=choice).train()
    kept = []
    for model in (plain, saving):
        torch.manual_seed(3)
        with PeakBytes() as memory:
            output = model(images, crops)
        kept.append(memory.now)
        (output.cls.square().sum() + output.queries.square().sum()).backward()
    assert kept[1] < (0.75 if choice == 'selective' else 0.2) * kept[0]
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    'name', ['vit_small_patch16_224', 'vit_base_patch16_224', 'vit_tiny_patch16_224', 'deit_small_patch16_224']
)
def test_parameters_are_those_of_the_plain_timm_model(name):
    with torch.device('meta'):
        ours, theirs = QueryViT(name), timm.create_model(name, num_classes=0)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_parameter_counts_of_the_literature():
    counts = {}
    for name in ('vit_small_patch16_224', 'vit_base_patch16_224'):
        with torch.device('meta'):
            counts[name] = sum(p.numel() for p in QueryViT(name).parameters()) / 1e6
    assert counts == {
        'vit_small_patch16_224': pytest.approx(21.67, abs=0.005),
        'vit_base_patch16_224': pytest.approx(85.80, abs=0.005),
    }


def test_outputs_equal_the_plain_timm_model():
    theirs = timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=32, patch_size=8).eval()
    ours = QueryViT(dict(embed_dim=192, depth=12, num_heads=3, patch_size=8), img_size=32).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images).cls, theirs(images), rtol=0, atol=1e-5)


def test_no_parameter_escapes_initialization():
    """Every value is overwritten: NaN put in everywhere beforehand is gone afterwards."""
    model = build(mask_token=True)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float('nan'))
    model.init_weights()
    assert not [name for name, p in model.named_parameters() if p.isnan().any()]


def test_initialization_is_dinos():
    model = QueryViT(dict(embed_dim=192, depth=2, num_heads=3, patch_size=8), img_size=224)
    state = model.state_dict()
    for name in ('pos_embed', 'blocks.0.attn.qkv.weight', 'blocks.1.mlp.fc2.weight', 'blocks.1.attn.proj.weight'):
        assert state[name].std().item() == pytest.approx(0.02, rel=0.03), name
        assert state[name].mean().item() == pytest.approx(0, abs=1e-3), name
    assert 0.014 < state['cls_token'].std().item() < 0.026
    assert not any(state[name].any() for name in state if name.startswith('blocks') and name.endswith('bias'))
    assert all((state[name] == 1).all() for name in state if 'norm' in name and name.endswith('weight'))
    # torch's default for convolutions: uniform within 1 / sqrt(fan in).
    assert state['patch_embed.proj.weight'].abs().max().item() == pytest.approx((3 * 64) ** -0.5, rel=0.01)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='vit_smal_patch16_224'), 'did you mean vit_small_patch16_224'),
        (dict(arch='resnet50'), 'ResNet, not a plain vision transformer'),
        (dict(arch='deit3_small_patch16_224'), 'is not a plain ViT'),
        (dict(arch='deit_small_distilled_patch16_224'), 'plain'),
        (dict(arch=dict(embed_dim=64, dept=3, num_heads=4, patch_size=8)), 'unknown dept; accepted:'),
        (dict(arch=dict(embed_dim=64, depth=3, num_heads=4, patch_size=8, qk_norm=True)), 'unknown qk_norm'),
        (dict(arch=dict(embed_dim=64, depth=3, num_heads=4)), 'missing patch_size'),
        (dict(arch=dict(embed_dim=64, depth=3, num_heads=5, patch_size=8)), 'embed_dim must be a multiple of num_heads'),
        (dict(query_keys='all'), "query_keys='all': choose one of 'image'"),
        (dict(pos_embed_resize='bilinear'), 'pos_embed_resize'),
        (dict(bidirectional=True), "query_keys='image\\+queries'"),
        (dict(init='kaiming'), "init='kaiming'"),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    with pytest.raises(ValueError, match=message):
        QueryViT(**kwargs)


def test_sides_that_are_no_multiple_of_the_patch_are_explained(inputs):
    images, _ = inputs
    with pytest.raises(ValueError, match='20x32 pixels: both sides must be multiples of the patch size 8'):
        build()(images[:, :, :20])
    with pytest.raises(ValueError, match='12x12 pixels'):
        build()(images, torch.randn(2, 3, 3, 12, 12))


def test_resolve_arch_reads_sizes_off_timm():
    assert resolve_arch('vit_small_patch16_224') == dict(patch_size=16, embed_dim=384, depth=12, num_heads=6, mlp_ratio=4.0)


def test_patches_are_those_of_the_convolution():
    """Value and gradients, for images that are not square; and whoever watches the module sees its calls."""
    embedding = build(dtype=torch.float64).patch_embed
    images = torch.randn(2, 3, 16, 40, dtype=torch.float64)
    weight = torch.randn(2, 2, 5, 36, dtype=torch.float64)
    seen, results = [], []
    embedding.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    for embed in (embedding, lambda images: embedding.proj(images).permute(0, 2, 3, 1)):
        output = embed(images)
        results.append((output, *torch.autograd.grad((output * weight).sum(), tuple(embedding.parameters()))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert seen == [(2, 2, 5, 36)]
