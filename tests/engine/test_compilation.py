"""Compiled blocks: same numbers, few graphs, and a way on without a compiler."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmadclr.engine.compilation import compile_blocks
from mmadclr.registry import MODELS

DEPTH = 4


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._functorch.config.activation_memory_budget = 1.0
    torch._dynamo.config.suppress_errors = False
    torch._dynamo.reset()


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


@pytest.mark.parametrize('options', [{}, {'activation_memory_budget': 0.5}])
def test_compiled_blocks_change_nothing(options):
    model = build()
    assert compile_blocks(model, dict(backend='aot_eager', **options))
    assert_same_as_uncompiled(model)


@pytest.mark.parametrize('choice', ['selective', True])
def test_compiled_blocks_with_less_memory_change_nothing(choice):
    """The compiler takes over from selective checkpointing, which cannot look into compiled blocks."""
    model = build()
    for network in (model.student, model.teacher):
        network['backbone'].grad_checkpointing = choice
    assert compile_blocks(model, dict(backend='aot_eager'))
    assert torch._functorch.config.activation_memory_budget == (0.5 if choice == 'selective' else 1.0)
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
    assert counter.frame_count == 1 + 3 * 3  # the trial comes first


def test_without_a_compiler_there_is_one_warning(monkeypatch):
    printed = []
    monkeypatch.setattr('mmadclr.engine.compilation.print_log', lambda message, *args: printed.append(message))

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


def test_unknown_settings_are_explained():
    with pytest.raises(ValueError, match="compile='yes': choose True, False, 'auto' or a dict"):
        compile_blocks(build(), 'yes')
