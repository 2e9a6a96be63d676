"""QueryViT against published numbers: DINO, iBOT's masks, the released one-way attention, and float64 masks."""

import pytest
import timm
import torch

from mmadclr.models.backbones.query_block import QUERY_KEYS, TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT

sizes = pytest.mark.golden_names('size', 'dino_vit', 'image/(.+)')
RULES = {'image': 'raw_only', 'image+self': 'raw_and_own_crop', 'image+queries': 'raw_and_all_queries'}


def published(golden, tensors, name, dtype=torch.float32, **kwargs):
    """A golden file, and the backbone whose weights it holds."""
    arrays = golden(name)
    config, native = arrays.config, arrays['image' if 'image' in arrays else 'image/native']
    assert native.shape[2:] == (config['img_size'], config['img_size'])
    model = QueryViT(arrays.arch('params/'), img_size=config['img_size'], **kwargs)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {config['layer_norm_eps']}
    state = tensors(arrays, 'params/')
    model.load_state_dict({key.replace('masked_embed', 'mask_token'): value for key, value in state.items()})
    return arrays, model.to(dtype).eval()


@pytest.fixture
def dino(golden, tensors):
    return published(golden, tensors, 'dino_vit')


@sizes
def test_tokens_equal_published_dino(dino, size):
    arrays, model = dino
    output = model(torch.from_numpy(arrays[f'image/{size}']))
    tokens = torch.cat((output.cls[:, None], output.patches), dim=1)
    torch.testing.assert_close(tokens, torch.from_numpy(arrays[f'tokens/{size}']), rtol=0, atol=2e-5)
    torch.testing.assert_close(output.cls, torch.from_numpy(arrays[f'cls/{size}']), rtol=0, atol=2e-5)
    assert output.queries.shape == (len(tokens), 0, 1, arrays.config['embed_dim'])


@sizes
def test_position_embedding_equals_published_dino(dino, size):
    arrays, model = dino
    height, width = (side // arrays.config['patch_size'] for side in arrays[f'image/{size}'].shape[2:])
    got = model.position_embedding(height, width)
    torch.testing.assert_close(got, torch.from_numpy(arrays[f'pos_embed/{size}']), rtol=0, atol=2e-6)


@sizes
def test_attention_map_equals_published_dino(dino, size):
    arrays, model = dino
    got = model.last_attention(torch.from_numpy(arrays[f'image/{size}']))
    torch.testing.assert_close(got, torch.from_numpy(arrays[f'attention/{size}']), rtol=0, atol=5e-6)


def test_intermediate_tokens_equal_published_dino(dino):
    arrays, model = dino
    got = model.intermediate_tokens(torch.from_numpy(arrays['image/native']), n=arrays.config['depth'])
    torch.testing.assert_close(torch.stack(got), torch.from_numpy(arrays['layers/native']), rtol=0, atol=2e-5)


def test_size_resize_is_exact_size_resize(golden, tensors, dino):
    arrays, model = dino
    _, exact = published(golden, tensors, 'dino_vit', pos_embed_resize='size')
    stored = 2 * [arrays.config['img_size'] // arrays.config['patch_size']]
    larger = [side + 2 for side in stored]
    expected = timm.layers.resample_abs_pos_embed(exact.pos_embed, larger, stored)
    torch.testing.assert_close(exact.position_embedding(*larger), expected)
    assert (exact.position_embedding(*larger) - model.position_embedding(*larger)).abs().max() > 1e-3
    assert torch.equal(exact.position_embedding(*stored), exact.pos_embed)


def published_tokens(arrays, dtype=torch.float32):
    """Given tokens of image and queries, and how many there are of the image."""
    raw, query = (torch.from_numpy(arrays[f'{kind}_tokens']).to(dtype) for kind in ('raw', 'query'))
    config = arrays.config
    assert raw.shape[1] == 1 + (config['img_size'] // config['patch_size']) ** 2
    assert query.shape[1] == config['num_query_crops'] * config['tokens_per_query_crop']
    return torch.cat((raw, query), dim=1), raw.shape[1]


def at_depth(model, name, x, layout):
    """What the first attention, the first block, or all of them and the norm make of given tokens."""
    if name == 'stack':
        return model.norm(model.run_blocks(x, layout))
    return (model.blocks[0].attn if name == 'attention' else model.blocks[0])(x, layout)


@pytest.mark.parametrize('name', ['attention', 'block', 'stack'])
@pytest.mark.parametrize('query_keys', QUERY_KEYS)
def test_one_way_attention_equals_float64_masks(golden, tensors, name, query_keys):
    arrays, model = published(golden, tensors, 'query_attention', torch.float64)
    x, n = published_tokens(arrays, torch.float64)
    layout = TokenLayout(n, arrays.config['tokens_per_query_crop'], query_keys)
    got = at_depth(model, name, x, layout)
    prefix = f'ref64/{RULES[query_keys]}'
    torch.testing.assert_close(got[:, n:], torch.from_numpy(arrays[f'{prefix}/{name}/query']), rtol=0, atol=1e-10)
    raw = torch.from_numpy(arrays[f'ref64/raw_and_all_queries/{name}/raw'])
    torch.testing.assert_close(got[:, :n], raw, rtol=0, atol=1e-10)
    assert torch.equal(layout.mask(x.shape[1]), torch.from_numpy(arrays[f'{prefix}/allow']))


@pytest.mark.parametrize('name', ['attention', 'block', 'stack'])
def test_a_query_token_that_reads_itself_is_a_crop_of_one_token(golden, tensors, name):
    arrays, model = published(golden, tensors, 'query_attention', torch.float64)
    x, n = published_tokens(arrays, torch.float64)
    layout = TokenLayout(n, 1, 'image+self')
    expected = torch.from_numpy(arrays[f'ref64/raw_and_self/{name}/query'])
    torch.testing.assert_close(at_depth(model, name, x, layout)[:, n:], expected, rtol=0, atol=1e-10)
    assert torch.equal(layout.mask(x.shape[1]), torch.from_numpy(arrays['ref64/raw_and_self/allow']))


@pytest.mark.parametrize(('name', 'atol'), [('attention', 1e-5), ('block', 1e-5), ('stack', 2e-5)])
def test_released_attention_at_every_depth(golden, tensors, name, atol):
    """The authors' released code, with queries and without."""
    arrays, model = published(golden, tensors, 'query_attention')
    x, n = published_tokens(arrays)
    got = at_depth(model, name, x, TokenLayout(n, arrays.config['tokens_per_query_crop'], 'image+queries'))
    for part, key in ((got[:, :n], 'raw'), (got[:, n:], 'query')):
        torch.testing.assert_close(part, torch.from_numpy(arrays[f'official/{name}/{key}']), rtol=0, atol=atol, msg=key)
    if name == 'block':
        alone = at_depth(model, name, x[:, :n], TokenLayout(n))
        expected = torch.from_numpy(arrays['official/block/raw_without_queries'])
        torch.testing.assert_close(alone, expected, rtol=0, atol=atol)


def test_released_attention_map(golden, tensors):
    """Softmax of the first attention among the image's tokens, from which queries take nothing."""
    arrays, model = published(golden, tensors, 'query_attention')
    x, n = published_tokens(arrays)
    layout = TokenLayout(n, arrays.config['tokens_per_query_crop'], 'image+queries')
    weights = model.blocks[0].attn.weights(x, layout)[:, :, :n]
    torch.testing.assert_close(weights[..., :n], torch.from_numpy(arrays['official/attention/raw_map']), rtol=0, atol=5e-6)
    assert not weights[..., n:].any()


def test_gradients_of_the_released_attention(golden, tensors):
    """The authors' released code: gradients of the whole stack, float32."""
    arrays, model = published(golden, tensors, 'query_attention')
    x, n = published_tokens(arrays)
    x.requires_grad_()
    layout = TokenLayout(n, arrays.config['tokens_per_query_crop'], 'image+queries')
    upstream = torch.cat([torch.from_numpy(arrays[f'upstream_{k}']) for k in ('raw', 'query')], dim=1)
    at_depth(model, 'stack', x, layout).backward(upstream)
    for got, key in ((x.grad[:, :n], 'grad_raw_tokens'), (x.grad[:, n:], 'grad_query_tokens')):
        torch.testing.assert_close(got, torch.from_numpy(arrays[f'official/stack/{key}']), rtol=0, atol=5e-5, msg=key)


def test_pixels_to_tokens_equal_composed_reference(golden, tensors):
    arrays, model = published(golden, tensors, 'query_attention', query_keys='image+queries')
    config = arrays.config
    image, crops = (torch.from_numpy(arrays[k]) for k in ('image', 'query_crops'))
    output, alone = model(image, crops), model(image)
    embedded, layout = model.embed(image, crops)
    for got, key in (
        (torch.cat((output.cls[:, None], output.patches), dim=1), 'raw'),
        (torch.cat((alone.cls[:, None], alone.patches), dim=1), 'raw_without_queries'),
        (output.queries.flatten(1, 2), 'query'),
        (embedded[:, : layout.num_image], 'raw_input'),
        (embedded[:, layout.num_image :], 'query_input'),
    ):
        torch.testing.assert_close(got, torch.from_numpy(arrays[f'composed/{key}']), rtol=0, atol=2e-5, msg=key)
    shape = config['num_query_crops'], config['tokens_per_query_crop'], config['embed_dim']
    assert output.queries.shape == (len(image), *shape)


@pytest.fixture
def ibot(golden, tensors):
    """The fixture and a student that holds its weights, under our names."""
    return published(golden, tensors, 'ibot_vit', mask_token=True)


@pytest.mark.parametrize('flatten', [False, True])
def test_masked_tokens_and_gradient_equal_published_ibot(ibot, flatten):
    arrays, model = ibot
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
    arrays, student = ibot
    teacher = QueryViT(arrays.arch('params/'), img_size=arrays.config['img_size']).eval()
    teacher.load_state_dict({name: value for name, value in student.state_dict().items() if name != 'mask_token'})
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
