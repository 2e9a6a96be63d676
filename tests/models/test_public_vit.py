"""QueryViT as the public backbones: DINOv2 and DINOv3 against timm's and transformers' own models, and published numbers."""

import pytest
import timm
import torch
from golden_files import GoldenFolder
from places import DATA
from public_backbones import all_tokens, randomize, timm_eva, timm_plain, transformers_model

from mmadclr.checkpoint import load_weights
from mmadclr.checkpoint.library_config import RESIZE_RULES
from mmadclr.models.backbones.architectures import PUBLIC
from mmadclr.models.backbones.classifier_vit import ClassifierViT
from mmadclr.models.backbones.dense_vit import DenseViT
from mmadclr.models.backbones.position_query_vit import PositionQueryViT
from mmadclr.models.backbones.query_block import QUERY_KEYS
from mmadclr.models.backbones.query_vit import QueryViT, ViewGroup
from mmadclr.models.backbones.resizing import RULES

ARCH = dict(embed_dim=48, depth=3, num_heads=3, patch_size=8)
DINOV3 = dict(rope=True, reg_tokens=4, layer_scale=1e-5, qkv_bias='qv', norm_eps=1e-5)
DINOV2 = dict(layer_scale=1e-5)
REG4 = dict(**DINOV2, reg_tokens=4, pos_embed_resize='size')
AUGMENTED = dict(shift_coords=0.3, jitter_coords=1.5, rescale_coords=2.0)
FAMILIES = {
    'dinov2': DINOV2,
    'dinov2 swiglu': dict(**DINOV2, ffn='swiglu'),
    'dinov2 registers': REG4,
    'dinov3': DINOV3,
    'dinov3 swiglu': dict(**DINOV3, ffn='swiglu'),
    'dinov3 no bias': DINOV3 | dict(qkv_bias=False),
    'dinov3 augmented': DINOV3 | dict(rope=AUGMENTED),
}
families = pytest.mark.parametrize('options', FAMILIES.values(), ids=FAMILIES)
SIZES = {'native': (32, 32), 'larger': (48, 48), 'smaller': (16, 16), 'wide': (24, 56), 'tall': (56, 24)}
sizes = pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)


def build(dtype=torch.float32, arch=ARCH, **options) -> QueryViT:
    torch.manual_seed(0)
    return randomize(QueryViT(arch, img_size=4 * arch['patch_size'], **options)).to(dtype)


def arch_with(ffn: str) -> dict:
    """transformers' DINOv2 knows one width of gated layers."""
    return ARCH | (dict(mlp_ratio=8 / 3) if ffn == 'swiglu' else {})


@pytest.fixture(scope='module')
def modern():
    return GoldenFolder(DATA / 'golden_modern')


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 32, 32), torch.randn(2, 3, 3, 16, 16)


# --- other code ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@sizes
@pytest.mark.parametrize('patch_size', [8, 14, 16])
@pytest.mark.parametrize('options', [x for x in FAMILIES.values() if 'rope' in x], ids=[x for x in FAMILIES if 'v3' in x])
def test_dinov3_equals_timm_and_transformers(options, patch_size, size):
    model = build(arch=ARCH | dict(patch_size=patch_size), **options)
    images = torch.randn(2, 3, *(side // 8 * patch_size for side in size))
    tokens = all_tokens(model, images)
    torch.testing.assert_close(tokens, timm_eva(model).forward_features(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens, transformers_model(model)(images).last_hidden_state, rtol=0, atol=1e-5)


@torch.no_grad()
def test_dinov3_equals_transformers_where_patches_are_masked(inputs):
    model, mask = build(mask_token=True, **DINOV3), torch.rand(2, 16) < 0.5
    theirs = transformers_model(model)(inputs[0], bool_masked_pos=mask).last_hidden_state
    torch.testing.assert_close(all_tokens(model, inputs[0], mask), theirs, rtol=0, atol=1e-5)
    assert (theirs - all_tokens(model, inputs[0])).abs().max() > 0.1


@torch.no_grad()
@sizes
@pytest.mark.parametrize('ffn', ['mlp', 'swiglu'])
def test_dinov2_with_registers_equals_timm_and_transformers(ffn, size):
    model = build(arch=arch_with(ffn) | dict(patch_size=14), ffn=ffn, **REG4)
    images = torch.randn(2, 3, *(side // 8 * 14 for side in size))
    tokens = all_tokens(model, images)
    for theirs in (timm_plain(model).forward_features(images), transformers_model(model)(images).last_hidden_state):
        torch.testing.assert_close(tokens, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('ffn', ['mlp', 'swiglu'])
def test_plain_dinov2_equals_timm_and_transformers_at_its_native_size(inputs, ffn):
    model = build(arch=arch_with(ffn), ffn=ffn, mask_token=True, **DINOV2)
    tokens = all_tokens(model, inputs[0])
    torch.testing.assert_close(tokens, timm_plain(model).forward_features(inputs[0]), rtol=0, atol=1e-5)
    theirs, mask = transformers_model(model), torch.rand(2, 16) < 0.5
    torch.testing.assert_close(tokens, theirs(inputs[0]).last_hidden_state, rtol=0, atol=1e-5)
    masked = theirs(inputs[0], bool_masked_pos=mask).last_hidden_state
    torch.testing.assert_close(all_tokens(model, inputs[0], mask), masked, rtol=0, atol=1e-5)


@torch.no_grad()
@sizes
def test_exact_size_without_antialias_is_how_transformers_resizes(size):
    model = build(pos_embed_resize='size_aliased', **DINOV2)
    images = torch.randn(2, 3, *size)
    theirs = transformers_model(model)(images).last_hidden_state
    torch.testing.assert_close(all_tokens(model, images), theirs, rtol=0, atol=1e-5)


# --- published numbers -----------------------------------------------------------------------------------------------------

VARIANTS = {
    'plain': dict(pos_embed_resize='dino'),
    'register': dict(pos_embed_resize='size', reg_tokens=4),
    'swiglu': dict(ffn='swiglu', pos_embed_resize='dino'),
}


def published(arrays, tensors, variant, dtype=torch.float32):
    config, state = arrays.config, tensors(arrays, 'params/')
    options = dict(VARIANTS[variant], layer_scale=1.0, mask_token=True, norm_eps=config['layer_norm_eps'])
    arch = {key: config[key] for key in ('embed_dim', 'depth', 'num_heads', 'patch_size')}
    if variant == 'swiglu':
        arch['mlp_ratio'] = config['swiglu_hidden'] / config['embed_dim']
        state = {name: tensor for name, tensor in state.items() if '.mlp.' not in name}
    if variant != 'plain':
        state |= tensors(arrays, f'{variant}/params/')
    names = {'register_tokens': 'reg_token', 'w12': 'fc1', 'w3': 'fc2'}
    for old, new in names.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    if variant == 'register':
        positions = state['pos_embed']
        state |= dict(cls_token=state['cls_token'] + positions[:, :1], pos_embed=positions[:, 1:])
    model = QueryViT(arch, img_size=config['img_size'], **options)
    model.load_state_dict(state)
    return model.to(dtype).eval()


@pytest.mark.parametrize('variant', VARIANTS)
def test_tokens_equal_published_dinov2(modern, tensors, variant):
    arrays = modern('dinov2_vit')
    model = published(arrays, tensors, variant)
    found = modern.names('dinov2_vit', f'{variant}/cls/([a-z_]+)')
    assert len(found) == (2 if variant == 'swiglu' else 5)
    for size in found:
        output = model(torch.from_numpy(arrays[f'image/{size}']))
        for part, got in (('cls', output.cls), ('patches', output.patches)):
            expected = torch.from_numpy(arrays[f'{variant}/{part}/{size}'])
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5, msg=lambda text, size=size: f'{size}: {text}')


@pytest.mark.parametrize('variant', VARIANTS)
def test_tokens_equal_published_dinov2_in_double_precision(modern, tensors, variant):
    arrays = modern('dinov2_vit')
    output = published(arrays, tensors, variant, torch.float64)(torch.from_numpy(arrays['image/native']).double())
    for part, got in (('cls', output.cls), ('patches', output.patches)):
        expected = torch.from_numpy(arrays[f'{variant}/{part}/native_f64'])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('size', ['native', 'larger'])
@pytest.mark.parametrize('variant', ['plain', 'register'])
def test_masked_tokens_equal_published_dinov2(modern, tensors, variant, size):
    arrays = modern('dinov2_vit')
    model = published(arrays, tensors, variant)
    images, mask = (torch.from_numpy(arrays[f'{kind}/{size}']) for kind in ('image', 'mask'))
    prepared = torch.from_numpy(arrays[f'{variant}/masked/prepared/{size}'])
    torch.testing.assert_close(model.embed(images, mask=mask)[0], prepared, rtol=0, atol=2e-6)
    output = model(images, mask=mask)
    for part, got in (('cls', output.cls), ('patches', output.patches)):
        expected = torch.from_numpy(arrays[f'{variant}/masked/{part}/{size}'])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(('rule', 'antialias', 'offset'), [
    ('dino', 0, 0.1), ('dino_antialias', 1, 0.1), ('size', 1, 0.0), ('size_aliased', 0, 0.0),
])  # fmt: skip
def test_positions_of_every_rule_equal_published_dinov2(modern, tensors, rule, antialias, offset):
    arrays = modern('dinov2_vit')
    model = published(arrays, tensors, 'plain')
    model.pos_embed_resize = rule
    for size in modern.names('dinov2_vit', 'image/(.+)'):
        grid = (side // model.patch_size for side in arrays[f'image/{size}'].shape[2:])
        expected = torch.from_numpy(arrays[f'pos_embed/antialias{antialias}_offset{offset}/{size}'])
        torch.testing.assert_close(model.position_embedding(*grid), expected, rtol=0, atol=2e-6)


# --- queries ---------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize('query_keys', QUERY_KEYS)
@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
def test_image_outputs_do_not_depend_on_queries(inputs, options, query_keys, drop_path_rate):
    images, crops = inputs
    model = build(query_keys=query_keys, drop_path_rate=drop_path_rate, **options).train()
    outputs = []
    for queries in (None, crops, 3 * crops[:, :1]):
        torch.manual_seed(1)  # the same paths are dropped, the same coordinates drawn
        outputs.append(model(images, queries))
    for output in outputs[1:]:
        torch.testing.assert_close(output.cls, outputs[0].cls, rtol=0, atol=5e-6)
        torch.testing.assert_close(output.patches, outputs[0].patches, rtol=0, atol=5e-6)


@families
@pytest.mark.parametrize('query_keys', QUERY_KEYS)
def test_no_gradient_from_image_outputs_to_query_pixels(inputs, options, query_keys):
    images, crops = inputs
    crops.requires_grad_()
    output = build(query_keys=query_keys, **options).train()(images, crops)
    (gradient,) = torch.autograd.grad(output.cls.sum() + output.patches.square().sum(), crops, allow_unused=True)
    assert gradient is None or not gradient.any()


@families
@pytest.mark.parametrize('query_keys', QUERY_KEYS)
def test_permuting_crops_permutes_outputs(inputs, options, query_keys):
    images, crops = inputs
    order, model = torch.tensor([2, 0, 1]), build(query_keys=query_keys, **options)
    queries = model(images, crops).queries
    torch.testing.assert_close(model(images, crops[:, order]).queries, queries[:, order], rtol=0, atol=5e-6)
    assert (queries - queries[:, order]).abs().max() > 1e-2


@families
@pytest.mark.parametrize('query_keys', QUERY_KEYS)
@pytest.mark.parametrize('with_queries', [True, False])
def test_leaving_out_patches_changes_nothing_else(inputs, options, query_keys, with_queries):
    images, crops = (x.double() for x in inputs)
    model = build(torch.float64, query_keys=query_keys, drop_path_rate=0.5, **options).train()
    results = []
    for patches in (True, False):
        model.zero_grad()
        torch.manual_seed(3)
        output = model(images, crops if with_queries else None, patches=patches)
        (output.cls.sin().sum() + output.queries.cos().sum()).backward()
        results.append([output.cls, output.queries, *(p.grad.clone() for p in model.parameters())])
    assert output.patches is None
    for whole, part in zip(*results, strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-10)


@families
def test_views_of_two_resolutions_in_one_pass_are_the_same(inputs, options):
    images, crops = (x.double() for x in inputs)
    model = build(torch.float64, **{**options, **(dict(rope=True) if 'rope' in options else {})}).train()
    groups = ViewGroup(images, crops), ViewGroup(images[:, :, :16, :24], patches=False)
    apart = model.encode(*groups)
    model.joint_resolutions = True
    for got, expected in zip(model.encode(*groups), apart, strict=True):
        for a, b in zip(got, expected, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, rtol=0, atol=1e-11)


@families
def test_attention_map_reproduces_the_last_block(inputs, options):
    images, crops = inputs
    model = build(query_keys='image+self', **options)
    x, layout = model.embed(images, crops)
    for block in model.blocks[:-1]:
        x = block(x, layout)
    last = model.blocks[-1]
    values = last.attn.project(last.norm1(x))[2]
    read = last.attn.proj((model.last_attention(images, crops) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(read, last.attn(last.norm1(x), layout), rtol=0, atol=1e-5)


@families
@pytest.mark.parametrize('choice', ['selective', True])
def test_gradient_checkpointing_changes_nothing(inputs, options, choice):
    gradients = []
    for grad_checkpointing in (False, choice):
        model = build(torch.float64, grad_checkpointing=grad_checkpointing, drop_path_rate=0.5, **options).train()
        torch.manual_seed(3)
        output = model(*(x.double() for x in inputs))
        (output.cls.square().sum() + output.queries.square().sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for saving, plain in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(saving, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize('options', [REG4 | dict(ffn='swiglu'), DINOV3 | dict(rope=AUGMENTED)], ids=['dinov2', 'dinov3'])
def test_compiled_blocks_share_a_graph_and_change_nothing(inputs, options):
    model = build(drop_path_rate=0.0, **options).train()
    torch.manual_seed(5)
    expected = model(*inputs)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend=backend, dynamic=False)
    torch.manual_seed(5)
    for got, wanted in zip(model(*inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert len(graphs) == 1


def test_query_tokens_are_not_turned(inputs):
    """A crop is read as from [CLS]'s place: turning all coordinates away from it moves what it reads of patches alone."""
    model = build(**DINOV3)
    _, layout = model.embed(*inputs)
    cos, sin = layout.rotations[0]
    outside = [*range(5), *range(21, 33)]
    assert torch.equal(cos[outside], torch.ones_like(cos[outside]))
    assert not sin[outside].any()
    assert sin[5:21].abs().amax(1).min() > 0.1
    centers = torch.zeros(2, 1, 3, 8, 8)
    twice = model(inputs[0], torch.cat((centers, centers), dim=1)).queries
    torch.testing.assert_close(twice[:, 0], twice[:, 1], rtol=0, atol=2e-6)


# --- architectures, and what is refused ------------------------------------------------------------------------------------

OF_TIMM = {'gamma_1': 'ls1.gamma', 'gamma_2': 'ls2.gamma', 'mlp.fc1_g.': 'mlp.fc1.', 'mlp.fc1_x.': 'mlp.fc1.'}


def shapes(model) -> dict:
    """Of all parameters but biases of queries, keys and values, with timm's halves of gated layers as one."""
    found = {}
    for name, parameter in model.named_parameters():
        for old, new in OF_TIMM.items():
            name = name.replace(old, new)
        rows, *rest = parameter.shape
        found[name] = (rows + found.get(name, (0,))[0], *rest)
    return {name: shape for name, shape in found.items() if not name.endswith('qkv.bias')}


@pytest.mark.parametrize('name', [name for name in PUBLIC if timm.is_model(name)])
def test_public_architectures_are_timms(name):
    with torch.device('meta'):
        ours, theirs = QueryViT(name, img_size=518), timm.create_model(name, num_classes=0)
    assert shapes(ours) == shapes(theirs)
    assert ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads
    assert ours.norm.eps == theirs.norm.eps
    if 'dinov2' in name:
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_public_architectures_are_complete():
    found = {name.split('_patch')[0] + name[name.rindex('_') :] for name in PUBLIC}
    dinov2, dinov3 = ('small', 'base', 'large', 'giant'), ('small', 'small_plus', 'base', 'large', 'huge_plus', '7b')
    assert found >= {f'vit_{name}_dinov2' for name in dinov2} | {f'vit_{name}_dinov3' for name in dinov3}


def test_only_periods_are_added_to_the_names_of_a_plain_vit():
    state = build(**DINOV3).state_dict()
    assert set(state) - set(build(**REG4).state_dict()) == {'rope.periods'}
    assert [name for name, _ in build(**DINOV3).named_parameters() if 'rope' in name] == []


def test_what_an_architecture_has_can_be_changed():
    arch = 'vit_small_patch16_dinov3'
    with torch.device('meta'):
        own = QueryViT(arch)
        other = QueryViT(arch, reg_tokens=0, layer_scale=False, rope=False, qkv_bias=True, norm_eps=1e-6)
        plain = QueryViT('vit_small_patch16_224')
    assert own.reg_token.shape == (1, 4, 384)
    assert own.rope.rescale_coords == 2
    assert {k: v.shape for k, v in other.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert other.norm.eps == 1e-6


def test_biases_of_keys_do_not_count_and_have_no_gradient(inputs):
    model = build(**DINOV3)
    before = model(inputs[0]).cls
    for block in model.blocks:
        block.attn.qkv.bias.data[48:96] = float('nan')
    after = model(inputs[0]).cls
    assert torch.equal(after, before)
    after.sum().backward()
    gradients = model.blocks[0].attn.qkv.bias.grad.chunk(3)
    assert [bool(part.any()) for part in gradients] == [True, False, True]


@pytest.mark.parametrize('cls', [DenseViT, ClassifierViT])
@pytest.mark.parametrize('options', [FAMILIES['dinov3 swiglu'], REG4], ids=['dinov3', 'registers'])
def test_backbones_of_tasks_give_the_same_patches(inputs, cls, options):
    own = dict(out_indices=(2,), out_norm=True) if cls is DenseViT else dict(cls_blocks=2, mean_patches=True)
    task, model = cls(ARCH, img_size=32, **own, **options).eval(), build(**options)
    task.load_state_dict(model.state_dict())
    (got,), tokens = task(inputs[0]), model.intermediate_tokens(inputs[0], 2)
    if cls is DenseViT:
        torch.testing.assert_close(got.flatten(2).transpose(1, 2), tokens[1][:, 5:], rtol=0, atol=2e-6)
    else:
        parts = (tokens[0][:, 0], tokens[1][:, 0], tokens[1][:, 5:].mean(1))
        torch.testing.assert_close(got, torch.cat(parts, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch=ARCH | dict(embed_dim=42), rope=True), '14 channels per head must be a multiple of 4'),
        (dict(rope='yes'), "rope='yes': choose True, False or a dict of base, min_period"),
        (dict(rope=dict(theta=100)), 'rope: unknown theta; accepted: base, min_period'),
        (dict(rope=dict(base=0)), 'base=0 must be a positive number'),
        (dict(rope=dict(min_period=1.0)), 'set either base, or min_period and max_period'),
        (dict(rope=dict(base=100.0, min_period=1.0, max_period=2.0)), 'set either base, or min_period and max_period'),
        (dict(rope=dict(normalize_coords='both')), "normalize_coords='both': choose one of separate, max, min"),
        (dict(rope=dict(rescale_coords=0.5)), 'rescale_coords=0.5 must be at least 1'),
        (dict(rope=dict(shift_coords=-1)), 'shift_coords=-1 must be at least 0'),
        (dict(rope=True, query_pos_embed=True), 'which rope replaces'),
        (dict(rope=True, pos_embed_resize='size'), 'which rope replaces'),
        (dict(ffn='glu'), "ffn='glu': choose one of 'mlp', 'swiglu'"),
        (dict(qkv_bias='k'), "qkv_bias='k': choose one of True, False, 'qv'"),
        (dict(norm_eps=0), 'norm_eps=0 must be a positive number'),
        (dict(reg_tokens=-1), 'reg_tokens=-1 must be an integer of at least 0'),
        (dict(arch='vit_smal_patch16_dinov3'), 'did you mean vit_small_patch16_dinov3'),
    ],
)
def test_wrong_combinations_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        QueryViT(**{'arch': ARCH, **options})


def test_rules_that_files_may_name_are_all_there_are():
    assert set(RESIZE_RULES) == set(RULES)


def test_weights_of_rotary_positions_go_from_a_file_into_backbones_of_tasks(tmp_path, inputs):
    options = FAMILIES['dinov3 swiglu']
    model, path = build(**options), tmp_path / 'weights.pth'
    model.rope.periods.copy_(model.rope.periods.bfloat16())  # as published files have them
    torch.save(model.state_dict(), path)
    init = dict(type='Pretrained', checkpoint=str(path))
    task = DenseViT(ARCH, img_size=32, out_indices=(2,), out_norm=True, init_cfg=init, **options).eval()
    task.init_weights()
    (got,) = task(inputs[0])
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), model(inputs[0]).patches, rtol=0, atol=2e-6)


def test_absolute_positions_do_not_go_into_rotary_ones(tmp_path):
    torch.save(build(**REG4).state_dict(), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='has a position embedding, but the backbone has rotary positions'):
        load_weights(build(**DINOV3), tmp_path / 'weights.pth')


def test_positions_as_queries_need_a_position_embedding():
    with pytest.raises(ValueError, match='PositionQueryViT encodes queries by a position embedding, which rope replaces'):
        PositionQueryViT(ARCH, rope=True)


def test_sides_that_do_not_fit_the_patch_are_explained():
    with pytest.raises(ValueError, match='224x230 pixels: both sides must be multiples of the patch size 14'):
        build(arch=ARCH | dict(patch_size=14), **REG4)(torch.zeros(1, 3, 224, 230))
