"""QueryViT against DINO's published code, the released one-way attention, float64 masks, and its own invariants."""

import pytest
import timm
import torch
from counters import PeakBytes

from mmadclr.models.backbones.query_block import QUERY_KEYS, TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT, resolve_arch

ARCH = dict(embed_dim=36, depth=3, num_heads=3, patch_size=8)
SIZES = ('native', 'larger', 'nonsquare', 'smaller', 'same_count')
RULES = {'image': 'raw_only', 'image+self': 'raw_and_own_crop', 'image+queries': 'raw_and_all_queries'}


def build(state=None, dtype=torch.float32, **kwargs) -> QueryViT:
    model = QueryViT(ARCH, img_size=32, **kwargs)
    if state is not None:
        model.load_state_dict(state)
    return model.to(dtype).eval()


@pytest.fixture
def dino(golden, tensors):
    arrays = golden('dino_vit')
    return arrays, tensors(arrays, 'params/')


@pytest.fixture
def attention(golden, tensors):
    arrays = golden('query_attention')
    return arrays, tensors(arrays, 'params/')


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 32, 32), torch.randn(2, 3, 3, 16, 16)


@pytest.mark.parametrize('size', SIZES)
def test_tokens_equal_published_dino(dino, size):
    arrays, state = dino
    output = build(state)(torch.from_numpy(arrays[f'image/{size}']))
    tokens = torch.cat((output.cls[:, None], output.patches), dim=1)
    torch.testing.assert_close(tokens, torch.from_numpy(arrays[f'tokens/{size}']), rtol=0, atol=2e-5)
    torch.testing.assert_close(output.cls, torch.from_numpy(arrays[f'cls/{size}']), rtol=0, atol=2e-5)
    assert output.queries.shape == (3, 0, 1, 36)


@pytest.mark.parametrize('size', SIZES)
def test_position_embedding_equals_published_dino(dino, size):
    arrays, state = dino
    height, width = (side // 8 for side in arrays[f'image/{size}'].shape[2:])
    got = build(state).position_embedding(height, width)
    torch.testing.assert_close(got, torch.from_numpy(arrays[f'pos_embed/{size}']), rtol=0, atol=2e-6)


@pytest.mark.parametrize('size', SIZES)
def test_attention_map_equals_published_dino(dino, size):
    arrays, state = dino
    got = build(state).last_attention(torch.from_numpy(arrays[f'image/{size}']))
    torch.testing.assert_close(got, torch.from_numpy(arrays[f'attention/{size}']), rtol=0, atol=5e-6)


def test_intermediate_tokens_equal_published_dino(dino):
    arrays, state = dino
    got = build(state).intermediate_tokens(torch.from_numpy(arrays['image/native']), n=3)
    torch.testing.assert_close(torch.stack(got), torch.from_numpy(arrays['layers/native']), rtol=0, atol=2e-5)


def test_size_resize_is_exact_size_resize(dino):
    _, state = dino
    published, exact = build(state), build(state, pos_embed_resize='size')
    expected = timm.layers.resample_abs_pos_embed(exact.pos_embed, (6, 6), (4, 4))
    torch.testing.assert_close(exact.position_embedding(6, 6), expected)
    assert (exact.position_embedding(6, 6) - published.position_embedding(6, 6)).abs().max() > 1e-3
    assert torch.equal(exact.position_embedding(4, 4), exact.pos_embed)


@pytest.mark.parametrize('name', ['attention', 'block', 'stack'])
@pytest.mark.parametrize('query_keys', QUERY_KEYS)
def test_one_way_attention_equals_float64_masks(attention, name, query_keys):
    arrays, state = attention
    model = build(state, torch.float64)
    x = torch.cat([torch.from_numpy(arrays[k]).double() for k in ('raw_tokens', 'query_tokens')], dim=1)
    layout = TokenLayout(num_image=17, tokens_per_crop=4, query_keys=query_keys)
    got = {
        'attention': lambda: model.blocks[0].attn(x, layout),
        'block': lambda: model.blocks[0](x, layout),
        'stack': lambda: model.norm(model.run_blocks(x, layout)),
    }[name]()
    prefix = f'ref64/{RULES[query_keys]}'
    torch.testing.assert_close(got[:, 17:], torch.from_numpy(arrays[f'{prefix}/{name}/query']), rtol=0, atol=1e-10)
    raw = torch.from_numpy(arrays[f'ref64/raw_and_all_queries/{name}/raw'])
    torch.testing.assert_close(got[:, :17], raw, rtol=0, atol=1e-10)
    assert torch.equal(layout.mask(29), torch.from_numpy(arrays[f'{prefix}/allow']))


def test_released_attention_and_gradients(attention):
    """The authors' released code: values and gradients of the whole stack, float32."""
    arrays, state = attention
    model = build(state)
    raw = torch.from_numpy(arrays['raw_tokens']).requires_grad_()
    query = torch.from_numpy(arrays['query_tokens']).requires_grad_()
    out = model.norm(model.run_blocks(torch.cat((raw, query), dim=1), TokenLayout(17, 4, 'image+queries')))
    upstream = torch.cat([torch.from_numpy(arrays[f'upstream_{k}']) for k in ('raw', 'query')], dim=1)
    out.backward(upstream)
    for got, key, atol in (
        (out[:, :17], 'raw', 2e-5),
        (out[:, 17:], 'query', 2e-5),
        (raw.grad, 'grad_raw_tokens', 5e-5),
        (query.grad, 'grad_query_tokens', 5e-5),
    ):
        torch.testing.assert_close(got, torch.from_numpy(arrays[f'official/stack/{key}']), rtol=0, atol=atol)


def test_pixels_to_tokens_equal_composed_reference(attention):
    arrays, state = attention
    model = build(state, query_keys='image+queries')
    image, crops = (torch.from_numpy(arrays[k]) for k in ('image', 'query_crops'))
    output = model(image, crops)
    raw = torch.cat((output.cls[:, None], output.patches), dim=1)
    torch.testing.assert_close(raw, torch.from_numpy(arrays['composed/raw']), rtol=0, atol=2e-5)
    torch.testing.assert_close(output.queries.flatten(1, 2), torch.from_numpy(arrays['composed/query']), rtol=0, atol=2e-5)
    assert output.queries.shape == (2, 3, 4, 36)


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


@pytest.fixture
def ibot(golden, tensors):
    """The fixture, the published weights in our names, and a student that holds them."""
    arrays = golden('ibot_vit')
    state = {k.replace('masked_embed', 'mask_token'): v for k, v in tensors(arrays, 'params/').items()}
    model = QueryViT(ARCH | dict(depth=2), img_size=32, mask_token=True).eval()
    model.load_state_dict(state)
    return arrays, state, model


@pytest.mark.parametrize('flatten', [False, True])
def test_masked_tokens_and_gradient_equal_published_ibot(ibot, flatten):
    arrays, _, model = ibot
    image, mask = (torch.from_numpy(arrays[k]) for k in ('image', 'mask'))
    mask = mask.flatten(1) if flatten else mask
    prepared, _ = model.embed(image, mask=mask)
    torch.testing.assert_close(prepared, torch.from_numpy(arrays['prepared_masked']), rtol=0, atol=2e-5)
    output = model(image, mask=mask)
    tokens = torch.cat((output.cls[:, None], output.patches), dim=1)
    torch.testing.assert_close(tokens, torch.from_numpy(arrays['tokens_masked']), rtol=0, atol=2e-5)
    tokens.backward(torch.from_numpy(arrays['upstream']))
    expected = torch.from_numpy(arrays['grad_masked_embed'])
    torch.testing.assert_close(model.mask_token.grad, expected, rtol=0, atol=1e-3)


def test_unmasked_tokens_equal_published_ibot(ibot):
    arrays, state, student = ibot
    teacher = QueryViT(ARCH | dict(depth=2), img_size=32).eval()
    teacher.load_state_dict({name: value for name, value in state.items() if name != 'mask_token'})
    images = {key: torch.from_numpy(arrays[key]) for key in ('image', 'image_local')}
    nothing = torch.zeros_like(torch.from_numpy(arrays['mask']))
    outputs = {
        'tokens_unmasked': teacher(images['image']),
        'tokens_zero_mask': student(images['image'], mask=nothing),
        'tokens_local': student(images['image_local']),
    }
    for key, output in outputs.items():
        tokens = torch.cat((output.cls[:, None], output.patches), dim=1)
        torch.testing.assert_close(tokens, torch.from_numpy(arrays[key]), rtol=0, atol=2e-5, msg=key)


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


def test_no_parameter_escapes_initialisation():
    """Every value is overwritten: NaN put in everywhere beforehand is gone afterwards."""
    model = build(mask_token=True)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float('nan'))
    model.init_weights()
    assert not [name for name, p in model.named_parameters() if p.isnan().any()]


def test_initialisation_is_dinos():
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
        (dict(arch='vit_small_patch14_dinov2'), 'is not a plain ViT'),
        (dict(arch='deit_small_distilled_patch16_224'), 'plain'),
        (dict(arch=dict(embed_dim=64, dept=3, num_heads=4, patch_size=8)), 'unknown dept; the sizes of a plain ViT are'),
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
