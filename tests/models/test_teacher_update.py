"""The teacher against its recursion in double precision: every parameter, over ten steps of a moving student."""

import pytest
import torch
from counters import CallCounter
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmadclr.models.selfsup import base, update_teacher
from mmadclr.registry import MODELS

STEPS = 10


@pytest.fixture(params=['cpu', 'cpu, as on a GPU', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Both ways of moving tensors; what a GPU does is exact on a CPU, too."""
    if 'as on a GPU' in request.param:
        monkeypatch.setattr(base, 'move_each', base.move_together)
    return request.param.partition(',')[0]


@pytest.fixture
def one_process():
    """A process group of one, for shards."""
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def build(device):
    torch.manual_seed(0)
    backbone = dict(type='QueryViT', arch=dict(embed_dim=24, depth=2, num_heads=3, patch_size=8), img_size=32)
    head = dict(type='DINOHead', out_dim=40, hidden_dim=32, bottleneck_dim=16, norm_last_layer=False)
    return MODELS.build(dict(type='ADCLR', backbone=backbone, head=head)).to(device)


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().double()


def values(network):
    return {name: whole(parameter) for name, parameter in network.named_parameters()}


@torch.no_grad()
def move(student, step):
    for number, parameter in enumerate(student.parameters()):
        torch.manual_seed(1000 * step + number)
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        local.add_(torch.randn(local.shape).to(local))


def follow(model, momenta, skips=None):
    """Moves student and teacher; the teacher's recursion beside it."""
    expected = values(model.teacher)
    skipped = torch.zeros((), device=next(model.parameters()).device)
    for step, momentum in enumerate(momenta):
        move(model.student, step)
        if skips is not None:
            skipped.fill_(skips[step])
        update_teacher(model.teacher, model.student, momentum, None if skips is None else skipped)
        if skips is None or not skips[step]:
            students = values(model.student)
            expected = {name: momentum * old + (1 - momentum) * students[name] for name, old in expected.items()}
    return expected


def assert_follows(model, expected, atol=5e-6):
    for name, value in values(model.teacher).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.996, 1.0])
def test_teacher_is_the_moving_average(device, momentum):
    model = build(device)
    assert_follows(model, follow(model, [momentum] * STEPS))


def test_momentum_follows_its_schedule(device):
    model = build(device)
    assert_follows(model, follow(model, torch.linspace(0.9, 1.0, STEPS).tolist()))


def test_skipped_steps_leave_the_teacher_to_the_bit(device):
    model = build(device)
    assert_follows(model, follow(model, [0.9] * STEPS, skips=[0, 1, 1, 0, 0, 1, 0, 1, 0, 1]))
    before = values(model.teacher)
    follow(model, [0.0] * 2, skips=[1, 1])
    assert all(torch.equal(value, before[name]) for name, value in values(model.teacher).items())


def test_the_ends_of_the_range_are_exact(device):
    model = build(device)
    before = values(model.teacher)
    follow(model, [1.0] * 3)
    assert all(torch.equal(value, before[name]) for name, value in values(model.teacher).items())
    follow(model, [0.0])
    assert all(torch.equal(a, b) for a, b in zip(model.teacher.parameters(), model.student.parameters(), strict=True))


@pytest.mark.parametrize('momentum', [0.9996, 1 - 1e-5, 1 - 3e-7])
def test_a_teacher_that_has_arrived_does_not_drift(device, momentum):
    """The rounded factors sum to 1, so a teacher equal to its student stays there, however often it is moved."""
    model = build(device)
    model.teacher.load_state_dict(model.student.state_dict())
    for _ in range(2000):
        update_teacher(model.teacher, model.student, momentum)
    for a, b in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=0)


@pytest.mark.parametrize('skips', [None, [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]])
def test_shards_follow_the_same_rule(one_process, skips):
    model = build('cpu')
    mesh = init_device_mesh('cpu', (1,))
    for part in (*model.student.values(), *model.teacher.values()):
        fully_shard(part, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.teacher.parameters())
    assert_follows(model, follow(model, [0.9] * STEPS, skips))


def test_the_update_is_plain_arithmetic(device):
    """No kernel of an optimizer, whose order of sign and decay differs between devices and versions of torch."""
    model = build(device)
    with CallCounter() as counter:
        update_teacher(model.teacher, model.student, 0.9, torch.zeros((), device=device))
    lists = [name for name in counter.names if name.startswith('_')]
    assert lists in (['_foreach_mul_', '_foreach_mul', '_foreach_add_'], ['_foreach_lerp_'])
    assert not any(word in name for name in counter.names for word in ('sgd', 'adam', 'fused'))
    assert not counter.syncs
