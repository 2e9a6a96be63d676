"""Linear layers once over both resolutions: the losses and gradients of one pass a resolution, with fewer operations."""

import pytest
import torch
from counters import CallCounter
from mmengine.model import revert_sync_batchnorm
from torch._dynamo.testing import CompileCounterWithBackend

from mmadclr.models.backbones.query_block import QUERY_KEYS, DropPath
from mmadclr.models.backbones.query_vit import QueryViT, ViewGroup
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.registry import MODELS

METHODS = ['DINO', 'ADCLR', 'IBOT', 'QueryIBOT', 'PQCL', 'SelfPatch']
MASKED = ('IBOT', 'QueryIBOT', 'PQCL')
ARCH = dict(embed_dim=24, depth=3, num_heads=3, patch_size=8)


def build(method, joint, dtype=torch.float64, **backbone):
    torch.manual_seed(0)
    kind = 'PositionQueryViT' if method == 'PQCL' else 'QueryViT'
    model = MODELS.build(
        dict(
            type=method,
            backbone=dict(type=kind, arch=ARCH, img_size=32, joint_resolutions=joint, **backbone),
            head=dict(type='DINOHead', out_dim=40, hidden_dim=32, bottleneck_dim=16),
        )
    )
    torch.manual_seed(1)
    with torch.no_grad():  # weights large enough that every tensor moves the result; teacher unlike student
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return revert_sync_batchnorm(model).to(dtype)


def draw_views(method, dtype=torch.float64, side=16, num_local=3, num_query=2):
    torch.manual_seed(2)
    views = dict(
        global_views=torch.randn(2, 2, 3, 32, 32, dtype=dtype),
        local_views=torch.randn(2, num_local, 3, 16, 16, dtype=dtype),
        query_crops=torch.randn(2, 2, num_query, 3, side, side, dtype=dtype),
    )
    if method in MASKED:
        views['masks'] = PatchMasks.of(torch.rand(2, 2, 4, 4) < 0.4)
    if method == 'PQCL':
        views['query_boxes'] = torch.rand(2, 2, num_query, 4, dtype=dtype)
    return views


def losses_and_gradients(model, views):
    losses = model.loss(**views)
    sum(losses.values()).backward()
    for loss in model.distillation_losses():
        loss.pending.clear()
    return {**losses, **{name: p.grad for name, p in model.student.named_parameters() if p.grad is not None}}


def assert_same(joint, plain, atol=1e-10):
    assert joint.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(joint[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f'{name}: {text}')


def compare(method, views=None, **backbone):
    results = [losses_and_gradients(build(method, j, **backbone), views or draw_views(method)) for j in (True, False)]
    assert_same(*results)
    assert max(value.abs().max() for value in results[1].values()) > 0.1  # there is something to compare


@pytest.mark.parametrize('side', [8, 16], ids=['one token a crop', 'four'])
@pytest.mark.parametrize('method', METHODS)
def test_losses_and_gradients_are_those_of_the_plain_form(method, side):
    compare(method, draw_views(method, side=side))


@pytest.mark.parametrize('method', ['ADCLR', 'QueryIBOT'])
@pytest.mark.parametrize('query_keys', [*QUERY_KEYS, 'bidirectional'])
def test_whatever_queries_read(method, query_keys):
    if query_keys == 'bidirectional':
        compare(method, query_keys='image+queries', bidirectional=True)
    else:
        compare(method, query_keys=query_keys)


@pytest.mark.parametrize('method', ['ADCLR', 'QueryIBOT'])
@pytest.mark.parametrize('numbers', [dict(num_query=0), dict(num_local=0), dict(num_query=0, num_local=0)], ids=str)
def test_without_queries_and_without_local_views(method, numbers):
    compare(method, draw_views(method, **numbers))


@pytest.mark.parametrize('options', [dict(grad_checkpointing='selective'), dict(grad_checkpointing=True)], ids=str)
@pytest.mark.parametrize('method', ['ADCLR', 'IBOT', 'SelfPatch'])
def test_whatever_is_computed_again(method, options):
    compare(method, **options)


@pytest.mark.parametrize('options', [dict(reg_tokens=2), dict(layer_scale=0.5), dict(query_pos_embed=True)], ids=str)
def test_whatever_else_a_backbone_has(options):
    compare('ADCLR', **options)


class Decisions:
    """Of ``DropPath``: those of joint passes are noted, and given to passes of one resolution after the other."""

    def __init__(self, monkeypatch, sizes):
        self.drawn, self.sizes, self.replayed = [], sizes, None
        draw = DropPath.factors

        def factors(drop_path, number):
            if self.replayed is not None:
                return self.replayed.pop(0)
            assert number == sum(sizes)
            self.drawn.append(draw(drop_path, number))
            return self.drawn[-1]

        monkeypatch.setattr(DropPath, 'factors', factors)

    def replay(self):
        parts = zip(*(factors.split(self.sizes) for factors in self.drawn), strict=True)
        self.replayed = [part for group in parts for part in group]


@pytest.mark.parametrize('method', ['ADCLR', 'IBOT', 'SelfPatch'])
def test_an_image_and_its_queries_are_dropped_together(monkeypatch, method):
    decisions = Decisions(monkeypatch, sizes=(4, 6))
    views = draw_views(method)
    joint = losses_and_gradients(build(method, True, drop_path_rate=0.5), views)
    decisions.replay()
    plain = losses_and_gradients(build(method, False, drop_path_rate=0.5), views)
    assert not decisions.replayed
    assert len(decisions.drawn) == 4  # two branches of the two blocks that drop anything
    assert {value.item() for factors in decisions.drawn for value in factors.unique()} == {0.0, 1 / 0.75, 2.0}
    assert_same(joint, plain)


@pytest.mark.parametrize('method', ['DINO', 'SelfPatch'])
def test_fewer_operations_are_dispatched(method):
    """Of blocks at least a fifth: concatenations and splits come on top."""
    counts = []
    for joint in (True, False):
        model, views = build(method, joint), draw_views(method)
        groups = [ViewGroup(views[name].flatten(0, 1)) for name in ('global_views', 'local_views')]
        with CallCounter() as counter:
            outputs = model.student['backbone'].encode(*groups)
            sum(output.patches.sum() for output in outputs).backward()
        counts.append(counter.operations)
    assert counts[0] < 0.8 * counts[1]


def test_products_are_once_a_block_not_once_a_resolution():
    """Forward pass of the student: qkv (two halves in the last block), projection and MLP; patches group by group."""
    products = []
    for joint in (True, False):
        model, views = build('DINO', joint), draw_views('DINO')
        with CallCounter() as counter, torch.no_grad():
            model.project(model.student, views['global_views'], views['local_views'])
        products.append(sum(name in ('addmm', 'mm') for name in counter.names))
    of_patches, of_head = 2, 3
    rest = of_patches + of_head
    assert products == [4 * ARCH['depth'] + 1 + rest, 2 * (4 * ARCH['depth'] + 1) + rest]


@pytest.mark.long
@pytest.mark.parametrize(('scope', 'graphs'), [('block', 2 * 3), ('backbone', 2)])
def test_compiled_it_is_the_same_with_fewer_graphs(scope, graphs):
    """Teacher and student; the first block has no drop path, the last leaves out patches."""
    torch._dynamo.reset()
    results = []
    for joint in (True, False):
        model, views = build('ADCLR', joint, torch.float32, drop_path_rate=0.3), draw_views('ADCLR', torch.float32)
        model.student.eval()  # nothing is dropped
        if joint:
            assert compile_blocks(model, dict(backend='aot_eager', scope=scope, fullgraph=True))
            torch._dynamo.config.suppress_errors = False
        results += [losses_and_gradients(model, views)]
    assert_same(*results, atol=1e-4)
    model = build('ADCLR', True, torch.float32, drop_path_rate=0.3)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend('eager')  # what is done with a graph does not matter to their number
    compile_blocks(model, dict(backend=counter, scope=scope, fullgraph=True))
    for _ in range(2):
        model.zero_grad()
        losses_and_gradients(model, views)
    of_losses = 2
    assert counter.frame_count == 1 + graphs + of_losses  # the trial comes first
    torch._dynamo.reset()


def test_off_is_one_call_a_group_with_its_own_arguments(monkeypatch):
    """By default nothing is joined on a CPU, and a single group never is."""
    for joint, number in ((False, 2), (None, 2), (True, 1)):
        vit = QueryViT(ARCH, img_size=32, joint_resolutions=joint, mask_token=True)
        monkeypatch.setattr(vit, 'forward_jointly', None)
        images, mask = torch.randn(2, 3, 32, 32), torch.rand(2, 4, 4) < 0.5
        crops = torch.randn(2, 1, 3, 8, 8)
        groups = [ViewGroup(images, crops, False, mask), ViewGroup(torch.randn(3, 3, 16, 16))][:number]
        for output, group in zip(vit.encode(*groups), groups, strict=True):
            expected = vit(group.images, group.query_crops, patches=group.patches, mask=group.mask)
            for got, value in zip(output, expected, strict=True):
                assert got is value is None or torch.equal(got, value)
