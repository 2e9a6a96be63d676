"""MoCo v3: the loss row by row, the parts of both networks, and the query term beside it."""

import pytest
import torch
import torch.nn.functional as F

from mmadclr.models.selfsup.mocov3 import info_nce
from mmadclr.registry import MODELS

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)


def build(**kwargs):
    backbone = dict(type='QueryViT', arch=ARCH, img_size=32)
    head = dict(type='MLPHead', out_dim=16, hidden_dim=32)
    return MODELS.build(dict(type='MoCoV3', backbone=backbone, head=head) | kwargs)


def make_views(batch=4, num_local=0, num_query=2):
    return dict(
        global_views=torch.randn(batch, 2, 3, 32, 32, dtype=torch.float64),
        local_views=torch.randn(batch, num_local, 3, 16, 16, dtype=torch.float64),
        query_crops=torch.randn(batch, 2, num_query, 3, 8, 8, dtype=torch.float64),
    )


def reference_norm(x):
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def reference_head(head, x):
    """Layer by layer, with the statistics of these rows."""
    layers = list(head.mlp)
    for linear, norm in zip(layers[::3], layers[1::3], strict=True):
        x = reference_norm(x @ linear.weight.T)
        x = (x * norm.weight + norm.bias).relu() if norm.affine else x
    return x


def reference_term(queries, keys, temperature):
    """Both directions, one row at a time."""
    total = 0
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        rows = [-(k @ row / temperature).log_softmax(0)[i] for i, row in enumerate(q)]
        total = total + 2 * temperature * torch.stack(rows).mean()
    return total


@pytest.mark.parametrize('num_query', [0, 2])
def test_losses_and_gradients_equal_the_definition(num_query):
    model, views = build(temperature=0.3, query_weight=0.7).double(), make_views(num_query=num_query)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))

    def embed(network):
        """[CLS] and query tokens of each view after the heads, one list each."""
        found = ([], [])
        for images, crops in zip(views['global_views'].unbind(1), views['query_crops'].unbind(1), strict=True):
            output = network['backbone'](images, crops)
            for tokens, part in zip((output.cls, output.queries.flatten(0, 2)), found, strict=True):
                if len(tokens):
                    for name in ('head', 'predictor'):
                        tokens = reference_head(network[name], tokens) if name in network else tokens
                    part.append(tokens)
        return found

    with torch.no_grad():
        keys = embed(model.teacher)
    cls, queries = (reference_term(*parts, 0.3) if parts[0] else 0 for parts in zip(embed(model.student), keys, strict=True))
    got = model.loss(**views)
    assert set(got) == ({'loss_cls', 'loss_query'} if num_query else {'loss_cls'})
    torch.testing.assert_close(got['loss_cls'], cls, rtol=0, atol=1e-10)
    if num_query:
        torch.testing.assert_close(got['loss_query'], 0.7 * queries, rtol=0, atol=1e-10)
    trained = {name: p for name, p in model.student.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(sum(got.values()), trained.values())
    expected = torch.autograd.grad(cls + 0.7 * queries, trained.values())
    for name, g, e in zip(trained, gradients, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=1e-9, msg=name)


def test_parts_and_what_is_trained():
    model = build()
    assert set(model.student) == {'backbone', 'head', 'predictor'}
    assert set(model.teacher) == {'backbone', 'head'}
    assert not any(p.requires_grad for p in model.student['backbone'].patch_embed.parameters())
    assert [m.training for m in (model.teacher['backbone'], model.teacher['head'])] == [False, True]
    model.eval()
    assert not model.teacher['head'].training
    model.init_weights()
    student = model.student.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in model.teacher.state_dict().items())


WIDE = dict(embed_dim=96, depth=2, num_heads=3, patch_size=8)
FAN_IN = 3 * 8 * 8


def wide(**backbone):
    return build(backbone=dict(type='QueryViT', arch=WIDE, img_size=32) | backbone)


def bounds_by_definition():
    """Of uniform weights: facebookresearch/moco-v3, ``vits.py``; queries, keys and values have 96 outputs each."""
    linear = {'attn.qkv': (96, 96), 'attn.proj': (96, 96), 'mlp.fc1': (96, 384), 'mlp.fc2': (384, 96)}
    bounds = {f'blocks.{i}.{name}': (6 / sum(fans)) ** 0.5 for i in range(2) for name, fans in linear.items()}
    return bounds | {'patch_embed.proj': (6 / (FAN_IN + 96)) ** 0.5}


@pytest.mark.parametrize('redrawn', [False, True])
def test_weights_start_as_published(redrawn):
    model = wide()
    if redrawn:
        model.init_weights()  # what the runner calls
    start = model.student['backbone'].state_dict()
    for name, bound in bounds_by_definition().items():
        weight = start[f'{name}.weight']
        assert 0.995 * bound < weight.abs().max() <= bound, name
        for part in weight.chunk(3):
            assert part.std() == pytest.approx(bound / 3**0.5, rel=0.03), name  # of a uniform distribution
            assert abs(part.mean()) < 0.03 * bound, name
        assert not start[f'{name}.bias'].any(), name
    assert 0.7e-6 < start['cls_token'].std() < 1.3e-6
    assert start['cls_token'].abs().max() < 6e-6
    assert start['pos_embed'].std() == pytest.approx(0.02, rel=0.1)  # learned: our departure
    teacher = model.teacher['backbone'].state_dict()
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in start.items())


@pytest.mark.dense
def test_weights_start_as_those_of_another_library():
    from mmpretrain.models import MoCoV3ViT

    theirs = MoCoV3ViT(
        arch=dict(embed_dims=96, num_layers=2, num_heads=3, feedforward_channels=384), img_size=32, patch_size=8
    )
    theirs.init_weights()
    theirs, ours = theirs.state_dict(), wide().student['backbone'].state_dict()
    names = {'patch_embed.proj': 'patch_embed.projection', 'attn.qkv': 'attn.qkv', 'attn.proj': 'attn.proj'}
    names |= {'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'}
    for mine, other in names.items():
        prefixes = ('', '') if mine.startswith('patch') else ('blocks.1.', 'layers.1.')
        a, b = ours[f'{prefixes[0]}{mine}.weight'], theirs[f'{prefixes[1]}{other}.weight']
        assert a.shape == b.shape, mine
        assert a.abs().max() == pytest.approx(b.abs().max().item(), rel=0.01), mine
        assert a.std() == pytest.approx(b.std().item(), rel=0.03), mine
        assert not theirs[f'{prefixes[1]}{other}.bias'].any() | ours[f'{prefixes[0]}{mine}.bias'].any(), mine
    assert ours['cls_token'].std() == pytest.approx(theirs['cls_token'].std().item(), rel=0.4)


def test_another_start_is_an_option():
    start = wide(init='dino').student['backbone'].state_dict()
    assert start['patch_embed.proj.bias'].any()
    assert start['cls_token'].std() == pytest.approx(0.02, rel=0.3)
    assert start['blocks.0.attn.qkv.weight'].std() == pytest.approx(0.02, rel=0.05)


def test_equal_rows_cost_the_logarithm_of_their_number():
    rows = F.normalize(torch.ones(8, 5), dim=1)
    assert info_nce(rows, rows, 0.2).item() == pytest.approx(0.4 * torch.tensor(8.0).log().item(), abs=1e-6)


def test_keys_of_all_processes_count_and_the_rank_says_which_are_ones_own(monkeypatch):
    rows, others = (F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=1) for _ in range(2))
    keys = torch.cat((others, rows))
    expected = -(rows @ keys.T / 0.2).log_softmax(1)[range(3), range(3, 6)].mean()
    monkeypatch.setattr('mmadclr.models.selfsup.mocov3.dist.get_rank', lambda: 1)
    torch.testing.assert_close(info_nce(rows, keys, 0.2), 0.4 * expected)


def test_what_it_cannot_use_is_explained():
    with pytest.raises(ValueError, match='MoCoV3 does not use local views: set num_local=0'):
        build().double().loss(**make_views(num_local=1))
    with pytest.raises(ValueError, match='more than one image per batch: raise batch_size'):
        info_nce(torch.ones(1, 2), torch.ones(1, 2), 0.2)
    with pytest.raises(ValueError, match='num_layers=0 must be at least 1'):
        build(head=dict(type='MLPHead', num_layers=0))
