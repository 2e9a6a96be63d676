"""The class-attention head of SelfPatch: published outputs, a slow reference one patch at a time, small and open grids."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import enlarged

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.models.backbones import QueryViT
from mmadclr.models.heads import ClassAttentionHead
from mmadclr.models.heads.neighbors import neighbors

# --- published numbers -----------------------------------------------------------------------------------------------------

views = pytest.mark.golden_names('size', 'selfpatch_head', 'image/(.+)')


def published_head(arrays, tensors):
    """The head whose weights a golden file holds; depth and width are read off them."""
    config, state = arrays.config, tensors(arrays, 'head/params/')
    depth = len({name.split('.')[1] for name in state if name.startswith('cls_blocks.')})
    ratio = len(state['cls_blocks.0.mlp.fc1.weight']) / config['embed_dim']
    sizes = dict(depth=depth, mlp_ratio=ratio, num_neighbors=config['k_num'])
    head = ClassAttentionHead(config['embed_dim'], config['num_heads'], **sizes)
    head.load_state_dict(state)
    return head


def published_grid(arrays, size):
    """Patches of a view, along both sides."""
    return tuple(side // arrays.config['patch_size'] for side in arrays[f'image/{size}'].shape[2:])


@pytest.mark.parametrize('kind', ['', 'given_'])
@views
def test_outputs_are_the_published_ones(golden, tensors, kind, size):
    arrays = golden('selfpatch_head')
    head, patches = published_head(arrays, tensors), arrays[f'given_tokens/{size}' if kind else f'backbone/tokens/{size}']
    for role, grid in (('student', None), ('teacher', published_grid(arrays, size))):
        cls, out = head(torch.from_numpy(patches), grid)
        expected = torch.from_numpy(arrays[f'{kind}{role}/{size}'])
        torch.testing.assert_close(torch.cat((cls[:, None], out), dim=1), expected, rtol=0, atol=2e-5, msg=role)


@views
def test_backbone_without_class_token_and_norm_is_the_published_one(golden, tensors, size):
    arrays = golden('selfpatch_head')
    plain = dict(class_token=False, final_norm=False)
    backbone = QueryViT(arrays.arch('backbone/params/'), img_size=arrays.config['img_size'], **plain).eval()
    backbone.load_state_dict(tensors(arrays, 'backbone/params/'))
    assert arrays['image/global'].shape[-1] == arrays.config['img_size']
    got = backbone(torch.from_numpy(arrays[f'image/{size}'])).patches
    torch.testing.assert_close(got, torch.from_numpy(arrays[f'backbone/tokens/{size}']), rtol=0, atol=1e-4)


@pytest.mark.golden_names('number', 'selfpatch_head', r'neighbours(\d+)')
def test_neighbors_are_the_published_ones(golden, number):
    arrays = golden('selfpatch_head')
    expected = torch.from_numpy(arrays[f'neighbours{number}'])
    assert expected.shape == (int(number), arrays.config['kernel'] ** 2 - 1)
    around = neighbors(*(2 * [round(int(number) ** 0.5)]), wrap=True)
    assert torch.equal(around.numbers, expected)
    assert around.absent is None


@torch.no_grad()
@pytest.mark.parametrize('which', ['student', 'teacher'])
def test_a_published_checkpoint_gives_its_outputs(golden, tensors, which):
    arrays = golden('checkpoints/selfpatch_expected')
    config, expected = arrays.config, tensors(arrays, f'{which}/')
    state = {
        k.removeprefix('module.'): v
        for k, v in read_checkpoint(golden.path('checkpoints/selfpatch_checkpoint.pth'))[which].items()
    }
    sizes = {key: config[key] for key in ('embed_dim', 'depth', 'num_heads', 'patch_size')}
    backbone = QueryViT(sizes, img_size=config['img_size'], class_token=False, final_norm=False).eval()
    head = ClassAttentionHead(config['embed_dim'], config['num_heads'], num_neighbors=config['k_num'])
    for prefix, part in (('backbone.', backbone), ('ca_head.', head)):
        part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    for size, image in ((224, enlarged(arrays)), (96, arrays['image_96'])):
        image = torch.from_numpy(image)
        patches = backbone(torch.cat((image, image.flip(-1)))).patches
        torch.testing.assert_close(patches, expected[f'tokens_{size}'], rtol=0, atol=1e-4)
        torch.testing.assert_close(head(patches)[0][:, None], expected[f'ca_student_{size}'], rtol=0, atol=3e-5)
        clear = expected[f'clear_ranking_{size}']
        cls, out = head(patches, 2 * (image.shape[-1] // config['patch_size'],))
        got = torch.cat((cls[:, None], out), dim=1)[clear]
        torch.testing.assert_close(got, expected[f'ca_teacher_{size}'][clear], rtol=0, atol=3e-5)


# --- a slow reference ------------------------------------------------------------------------------------------------------


def reference_class_attention(head, tokens):
    """One sequence (S, D) of tokens, each projected anew: the class token after all blocks and the norm (D,)."""
    cls = head.cls_token[0]
    for block in head.cls_blocks:
        sequence = block.norm1(torch.cat((cls, tokens)))
        read = []
        for part in range(block.attn.num_heads):
            width = sequence.shape[1] // block.attn.num_heads
            rows = slice(part * width, (part + 1) * width)
            q, k, v = (getattr(block.attn, name)(sequence)[:, rows] for name in 'qkv')
            read.append((q[:1] @ k.T / width**0.5).softmax(-1) @ v)
        cls = cls + block.attn.proj(torch.cat(read, dim=1))
        cls = cls + block.mlp(block.norm2(cls))
    return head.norm(cls)[0]


def reference_neighbors(patch, height, width, wrap):
    """By distance: those at most one step away in both directions, across the edges if ``wrap``."""

    def distance(a, b, size):
        return min(abs(a - b), size - abs(a - b)) if wrap else abs(a - b)

    row, column = divmod(patch, width)
    return [
        other
        for other in range(height * width)
        if other != patch and distance(row, other // width, height) <= 1 and distance(column, other % width, width) <= 1
    ]


GRIDS_AND_EDGES = pytest.mark.parametrize(
    ('grid', 'wrap'), [((4, 5), True), ((4, 5), False), ((2, 2), True), ((2, 2), False), ((1, 3), True), ((1, 2), False)]
)


@GRIDS_AND_EDGES
def test_neighbors_of_any_grid(grid, wrap):
    around = neighbors(*grid, wrap)
    for patch in range(grid[0] * grid[1]):
        row = around.numbers[patch] if around.absent is None else around.numbers[patch][~around.absent[patch]]
        assert row.tolist() == reference_neighbors(patch, *grid, wrap)


@GRIDS_AND_EDGES
@pytest.mark.parametrize('count', [1, 4, 8])
def test_outputs_and_gradients_equal_the_slow_reference(grid, wrap, count):
    head = ClassAttentionHead(12, num_heads=3, num_neighbors=count, wrap=wrap).double()
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.3 * torch.randn_like(p))
    patches = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64)
    expected = []
    for image in patches:
        for number, patch in enumerate(image):
            around = reference_neighbors(number, *grid, wrap)
            similar = F.cosine_similarity(patch, image[around], dim=-1)
            nearest = sorted(range(len(around)), key=lambda i: -similar[i])[:count]
            expected.append(reference_class_attention(head, image[[around[i] for i in nearest]]))
    cls, got = head(patches, grid)
    torch.testing.assert_close(got.flatten(0, 1), torch.stack(expected), rtol=0, atol=1e-12)
    whole = torch.stack([reference_class_attention(head, image) for image in patches])
    torch.testing.assert_close(cls, whole, rtol=0, atol=1e-12)
    parameters = list(head.parameters())
    for name, g, e in zip(
        dict(head.named_parameters()),
        torch.autograd.grad(got.square().sum() + cls.sum(), parameters),
        torch.autograd.grad(torch.stack(expected).square().sum() + whole.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(g, e, rtol=0, atol=1e-10, msg=name)


# --- bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrap', [True, False])
def test_a_single_patch_has_no_neighbors(wrap):
    with pytest.raises(ValueError, match='a grid of 1 x 1 patches has no neighbors: make the views at least two patches'):
        ClassAttentionHead(12, num_heads=3, wrap=wrap)(torch.randn(2, 1, 12), (1, 1))


def test_impossible_settings():
    with pytest.raises(ValueError, match='num_heads=5 does not divide the 12 channels'):
        ClassAttentionHead(12, num_heads=5)
    for count in (0, 9):
        with pytest.raises(ValueError, match=f'num_neighbors={count} must be 1 to 8'):
            ClassAttentionHead(12, num_heads=3, num_neighbors=count)
