"""Compiled blocks and backbones: same numbers, few graphs, steps that CUDA graphs know of, a way on without a compiler."""

import pickle
import shutil
from copy import deepcopy

import pytest
import torch
from torch import distributed
from torch._dynamo.testing import CompileCounterWithBackend

from mmadclr.config.check import ConfigError, check_config
from mmadclr.engine.hooks.collapse_hook import CollapseMonitorHook
from mmadclr.models.compilation import announce_step, compile_blocks, uses_cuda_graphs
from mmadclr.models.heads.dino_head import PrototypeLayer
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.losses.chunked_cross_entropy import chunk_terms, compiled_terms
from mmadclr.models.losses.self_distillation import ProjectedFeatures
from mmadclr.models.sharding import shard_model
from mmadclr.registry import MODELS

DEPTH = 3  # the first block and the last are unlike those between
OF_LOSSES = 2  # graphs: of [CLS], and of any other number of views and rows


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._functorch.config.activation_memory_budget = 1.0
    torch._dynamo.config.suppress_errors = False
    torch._dynamo.reset()


@pytest.fixture
def one_process(tmp_path):
    """A process group of one."""
    distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def build(drop_path_rate=0.0):
    torch.manual_seed(0)
    arch = dict(embed_dim=24, depth=DEPTH, num_heads=3, patch_size=8)
    return MODELS.build(
        dict(
            type='ADCLR',
            backbone=dict(type='QueryViT', arch=arch, img_size=32, drop_path_rate=drop_path_rate),
            head=dict(type='DINOHead', out_dim=40, hidden_dim=32, bottleneck_dim=16),
        )
    )


def views():
    torch.manual_seed(1)
    return dict(
        global_views=torch.randn(2, 2, 3, 32, 32),
        local_views=torch.randn(2, 3, 3, 16, 16),
        query_crops=torch.randn(2, 2, 2, 3, 8, 8),
    )


def losses_and_gradients(model):
    losses = model.loss(**views())
    sum(losses.values()).backward()
    return [*losses.values(), *(p.grad for p in model.student.parameters() if p.grad is not None)]


def assert_same_as_uncompiled(compiled):
    plain = build()
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    assert all('forward' not in vars(module) for module in compiled.modules())  # nothing that a copy would lose
    for got, expected in zip(losses_and_gradients(compiled), losses_and_gradients(plain), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('options', [{}, {'activation_memory_budget': 0.5}, {'scope': 'backbone'}])
def test_compiled_blocks_change_nothing(options):
    model = build()
    assert compile_blocks(model, dict(backend='aot_eager', **options))
    assert_same_as_uncompiled(model)


@pytest.mark.long
@pytest.mark.parametrize('scope', ['block', 'backbone'])
@pytest.mark.parametrize('choice', ['selective', True])
def test_compiled_blocks_with_less_memory_change_nothing(choice, scope):
    """The compiler takes over from selective checkpointing, which cannot look into compiled blocks."""
    model = build()
    for network in (model.student, model.teacher):
        network['backbone'].grad_checkpointing = choice
    assert compile_blocks(model, dict(backend='aot_eager', scope=scope))
    assert torch._functorch.config.activation_memory_budget == (0.5 if choice == 'selective' else 0.9)
    assert_same_as_uncompiled(model)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='needs a C++ compiler')
def test_inductor_changes_nothing():
    model = build()
    assert compile_blocks(model, True)
    assert_same_as_uncompiled(model)


def test_blocks_share_graphs_whatever_their_drop_path():
    """Teacher, global and local views; the first block has no drop path, the last leaves out patches."""
    counter = CompileCounterWithBackend('eager')
    model = build(drop_path_rate=0.3)
    compile_blocks(model, dict(backend=counter))
    for _ in range(2):
        losses_and_gradients(model)
    assert counter.frame_count == 1 + 3 * 3 + OF_LOSSES  # the trial comes first


@pytest.mark.long
def test_whole_backbones_have_a_graph_for_each_kind_of_call():
    """Teacher, global and local views, nothing of them left to the interpreter; later steps add none."""
    counter = CompileCounterWithBackend('eager')
    model = build(drop_path_rate=0.3)
    compile_blocks(model, dict(backend=counter, scope='backbone', fullgraph=True))
    torch._dynamo.config.suppress_errors = False
    for _ in range(2):
        losses_and_gradients(model)
    assert counter.frame_count == 1 + 3 + OF_LOSSES


@pytest.mark.long
def test_hooks_of_compiled_backbones_are_called():
    """The monitor looks at queries once an epoch: one more graph, of teachers that are looked at."""
    counter = CompileCounterWithBackend('eager')
    model = build()
    model.teacher['backbone'].query_keys, model.teacher['backbone'].bidirectional = 'image+queries', True
    monitor, leaks = CollapseMonitorHook(), []
    for compiled in (False, True):
        if compiled:
            compile_blocks(model, dict(backend=counter, scope='backbone'))
            losses_and_gradients(model)
        for _ in range(2):
            monitor.leak = None
            handle = model.teacher['backbone'].register_forward_hook(monitor.swap_queries)
            losses_and_gradients(model)
            handle.remove()
            losses_and_gradients(model)
            leaks.append(monitor.leak.item())
    assert leaks[0] > 1e-6
    assert leaks[1:] == pytest.approx([leaks[0]] * 3, rel=1e-3)
    assert counter.frame_count == 1 + 3 + 1 + OF_LOSSES


def loss_and_gradients(compiled, views, rows, weighted, temp, dtype=torch.float32):
    """Of a loss over random features, in chunks of a few rows."""
    torch.manual_seed(rows)
    loss_fn = SelfDistillationLoss(32, logits_mib=0.1, teacher_temp=temp).to(dtype)
    if compiled is not None:
        loss_fn.terms = compiled
    prototypes = PrototypeLayer(8, 32, learn_norm=True).to(dtype)
    student = torch.randn(views, rows, 8, dtype=dtype, requires_grad=True)
    teacher, weights = torch.randn(2, rows, 8, dtype=dtype), torch.rand(rows, dtype=dtype) if weighted else None
    loss = loss_fn(ProjectedFeatures(student, prototypes), ProjectedFeatures(teacher, prototypes), weights)
    loss.backward()
    return loss, student.grad, *(p.grad for p in prototypes.parameters())


@pytest.mark.long
def test_compiled_losses_follow_sizes_and_temperatures():
    """Numbers of rows change from step to step where patches are masked, temperatures from epoch to epoch."""
    counter = CompileCounterWithBackend('aot_eager')
    compiled = compiled_terms(backend=counter)
    graphs = []
    for sizes in ((40, 41, 27, 1), (60, 61, 47, 33, 90, 1)):
        for views, weighted in ((5, False), (2, True)):
            for rows in sizes:
                case = views, rows, weighted, 0.04 + rows / 1e3, torch.float64
                for got, expected in zip(loss_and_gradients(compiled, *case), loss_and_gradients(None, *case), strict=True):
                    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
        graphs.append(counter.frame_count)
    assert graphs[1] == graphs[0] <= 8  # further sizes and temperatures add none


def test_compiled_models_are_copied_and_pickled_without_compiled_code():
    model = build()
    assert compile_blocks(model, dict(backend='eager'))
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [loss.terms for loss in copy.distillation_losses()] == [chunk_terms] * 2
    assert chunk_terms not in [loss.terms for loss in model.distillation_losses()]
    assert_same_as_uncompiled(deepcopy(model))


def test_losses_of_other_sizes_have_a_fixed_number_of_prototypes():
    """Code for any number of prototypes could not rely on the alignment of rows."""
    shapes = []

    def backend(module, inputs):
        values = [node.meta['example_value'] for node in module.graph.nodes if node.op == 'placeholder']
        shapes.extend(tuple(value.shape) for value in values if isinstance(value, torch.Tensor))
        return module.forward

    compiled = compiled_terms(backend=backend)
    for prototypes in (32, 64, 32):
        for rows in (6, 7, 5):
            arguments = torch.randn(3, rows, prototypes), torch.randn(2, rows, prototypes), torch.zeros(prototypes)
            compiled(*arguments, torch.ones(2, 3), None, torch.tensor(0.1), torch.tensor(0.04), torch.float32)
    last = [shape[-1] for shape in shapes if len(shape) == 3]
    assert {type(size) for size in last} == {int}


def graph_backend(module, inputs, **kwargs):
    """For modes, which torch hands to the backend, where inductor would need a compiler."""
    return module.forward


@pytest.mark.long
@pytest.mark.parametrize('mode', ['reduce-overhead', 'max-autotune-no-cudagraphs'])
def test_cuda_graphs_are_told_of_each_step_once(monkeypatch, mode):
    marks = []
    monkeypatch.setattr(torch.compiler, 'cudagraph_mark_step_begin', lambda: marks.append(True))
    model = build()
    assert compile_blocks(model, dict(backend=graph_backend, mode=mode))
    for step in range(1, 3):
        for _ in range(2):  # accumulated batches: gradients of the first may lie in a graph's memory
            sum(model(views(), mode='loss').values()).backward()
        assert len(marks) == step * (mode == 'reduce-overhead')
        model.zero_grad()


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(mode='reduce-overhead'), True),
        (dict(mode='max-autotune'), True),
        (dict(mode='max-autotune-no-cudagraphs'), False),
        (dict(options={'triton.cudagraphs': True}), True),
        (dict(options={'max_autotune': True}), False),
        ({}, False),
    ],
)
def test_options_with_cuda_graphs_are_recognized(options, expected):
    assert uses_cuda_graphs(options) == expected


def test_announcing_a_step_works_without_a_gpu():
    """Torch's own counter, which goes down by one at each announcement."""
    from torch._inductor.cudagraph_trees import MarkStepBox

    before = MarkStepBox.mark_step_counter
    announce_step(build(), ())
    assert MarkStepBox.mark_step_counter == before - 1
    MarkStepBox.mark_step_counter = before


def test_without_a_compiler_there_is_one_warning(monkeypatch):
    printed = []
    monkeypatch.setattr('mmadclr.models.compilation.print_log', lambda message, *args: printed.append(message))

    def broken(*args, **kwargs):
        raise RuntimeError('no C++ compiler found\nand a long story')

    monkeypatch.setattr(torch, 'compile', broken)
    model = build()
    assert not compile_blocks(model, True)
    assert printed == [
        'compile=True: torch cannot compile here, blocks run uncompiled (RuntimeError: no C++ compiler found)'
    ]
    assert_same_as_uncompiled(model)


@pytest.mark.parametrize('setting', [False, None, 'auto', {}])
def test_nothing_is_compiled_unasked(setting):
    """'auto' compiles on a GPU only."""
    assert not compile_blocks(build(), setting)


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('yes', "compile='yes': choose True, False, 'auto' or a dict"),
        (dict(scop='backbone'), 'compile: unknown scop; accepted: activation_memory_budget, .*scope'),
        (dict(scope='model'), "compile: scope='model'; choose 'block', 'backbone'"),
        (dict(mode='max-autotun'), "compile: mode='max-autotun'; choose 'default', .*'max-autotune-no-cudagraphs'"),
    ],
)
def test_unknown_settings_are_explained(setting, message):
    with pytest.raises(ValueError, match=message):
        compile_blocks(build(), setting)


def test_a_config_is_checked_for_unknown_options():
    check_config(dict(compile=dict(scope='backbone', mode='max-autotune-no-cudagraphs')))
    with pytest.raises(ConfigError, match='compile.scop: compile has no such argument; did you mean scope?'):
        check_config(dict(compile=dict(scop='backbone')))


def test_whole_backbones_do_not_go_with_shards(one_process):
    model = build()
    shard_model(model, 'fsdp')
    with pytest.raises(ValueError, match="compile=dict\\(scope='backbone'\\) cannot be combined with sharding"):
        compile_blocks(model, dict(scope='backbone'))
