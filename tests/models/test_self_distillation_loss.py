"""SelfDistillationLoss against DINO's published loss, the query fixtures, and an explicit loop."""

import itertools

import numpy as np
import pytest
import torch

from mmadclr.engine.schedules import linear_warmup
from mmadclr.models.heads.dino_head import DINOHead
from mmadclr.models.losses.self_distillation import (
    Projection,
    SelfDistillationLoss,
    cross_view_pairs,
    same_view_pairs,
)


def logits(values):
    """Logits as they are, in place of features and prototypes."""
    return Projection(values, torch.nn.Identity())


def run(case, batch, temperatures, epochs, dtype):
    """Losses, student gradients and centres of three calls in a row."""
    student, teacher = (torch.from_numpy(case[k]).to(dtype) for k in ('student', 'teacher'))
    loss_fn = SelfDistillationLoss(student.shape[-1]).to(dtype)
    results = []
    for s, t, epoch in zip(student, teacher, epochs, strict=True):
        loss_fn.teacher_temp = temperatures[epoch]
        s = s.unflatten(0, (-1, batch)).requires_grad_()
        loss = loss_fn(logits(s), logits(t.unflatten(0, (-1, batch))))
        loss.backward()
        loss_fn.update_centre()
        results.append((loss.detach(), s.grad.flatten(0, 1), loss_fn.centre.clone()))
    return [torch.stack(part) for part in zip(*results, strict=True)]


@pytest.mark.parametrize('name', ['multicrop', 'two_views'])
def test_equals_published_dino_loss(golden, name):
    arrays = golden('dino_loss')
    case = {k.split('/')[1]: v for k, v in arrays.items() if k.startswith(f'{name}/')}
    temperatures = linear_warmup(0.04, 0.07, 10, 5)
    np.testing.assert_allclose(temperatures, arrays['teacher_temp_schedule'], rtol=0, atol=1e-12)
    losses, gradients, centres = run(case, 3, temperatures, case['epoch'], torch.float32)
    torch.testing.assert_close(losses, torch.from_numpy(case['loss']), rtol=3e-6, atol=1e-5)
    torch.testing.assert_close(gradients, torch.from_numpy(case['grad_student']), rtol=0, atol=1e-6)
    torch.testing.assert_close(centres, torch.from_numpy(case['center'])[:, 0], rtol=0, atol=1e-6)
    losses, _, _ = run(case, 3, temperatures, case['epoch'], torch.float64)
    np.testing.assert_allclose(losses.numpy(), case['loss_f64'], rtol=0, atol=1e-10)


def test_cross_view_query_term(golden):
    """Float64 reference of ADCLR's query term: teacher view u against student view v != u, mean over tokens."""
    arrays = golden('query_loss')
    loss_fn = SelfDistillationLoss(48).double()
    temperatures = linear_warmup(0.03, 0.05, 9, 4)
    for call, epoch in enumerate(arrays['epoch']):
        loss_fn.teacher_temp = temperatures[epoch]
        student, teacher = (
            torch.from_numpy(arrays[k][call]).double().unflatten(0, (2, 2))
            for k in ('student_query', 'teacher_query_per_view')
        )
        loss = loss_fn(logits(student), logits(teacher))
        loss_fn.update_centre()
        expected = {k.rsplit('/', 1)[1]: v[call] for k, v in arrays.items() if k.startswith('ref64/cross_view/')}
        value = next(v for k, v in expected.items() if k.startswith('loss'))
        assert loss.item() == pytest.approx(float(value), abs=1e-10)
        centre = next(v for k, v in expected.items() if k.startswith('center'))
        np.testing.assert_allclose(loss_fn.centre.numpy(), centre.ravel(), rtol=0, atol=1e-10)


def test_released_query_term(golden):
    """The authors' released pairing, one target for both views, is the cross-view one with equal teacher views."""
    arrays = golden('query_loss')
    loss_fn = SelfDistillationLoss(48)
    temperatures = linear_warmup(0.03, 0.05, 9, 4)
    for call, epoch in enumerate(arrays['epoch']):
        loss_fn.teacher_temp = temperatures[epoch]
        student = torch.from_numpy(arrays['student_query'][call]).unflatten(0, (2, 2)).requires_grad_()
        teacher = torch.from_numpy(arrays['teacher_query'][call]).expand(2, -1, -1, -1)
        loss = loss_fn(logits(student), logits(teacher))
        loss.backward()
        loss_fn.update_centre()
        assert loss.item() == pytest.approx(float(arrays['official/loss_query'][call]), abs=1e-5)
        expected = arrays['official/grad_student_query'][call]
        np.testing.assert_allclose(student.grad.flatten(0, 1).numpy(), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(loss_fn.centre.numpy(), arrays['official/center3'][call].ravel(), rtol=0, atol=1e-6)


def slow_loss(student, teacher, centre, student_temp, teacher_temp, keep):
    """The definition: every pair, image and token by itself."""
    terms = []
    for u, v in itertools.product(range(len(teacher)), range(len(student))):
        if not keep(u, v):
            continue
        for index in itertools.product(*map(range, student.shape[1:-1])):
            target = ((teacher[u][index] - centre) / teacher_temp).softmax(-1)
            terms.append(-(target * (student[v][index] / student_temp).log_softmax(-1)).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize('pairing', ['cross-view', 'same-view'])
@pytest.mark.parametrize('views', [(2, 2), (2, 5), (3, 3)])
@pytest.mark.parametrize('tokens', [(), (4,)])
def test_equals_explicit_loop(pairing, views, tokens):
    num_teacher, num_student = views
    student = torch.randn(num_student, 3, *tokens, 7, dtype=torch.float64)
    teacher = torch.randn(num_teacher, 3, *tokens, 7, dtype=torch.float64)
    loss_fn = SelfDistillationLoss(7, student_temp=0.2, teacher_temp=0.3, pairing=pairing).double()
    loss_fn.centre.normal_()
    keep = (lambda u, v: u != v) if pairing == 'cross-view' else (lambda u, v: u == v)
    expected = slow_loss(student, teacher, loss_fn.centre, 0.2, 0.3, keep)
    torch.testing.assert_close(loss_fn(logits(student), logits(teacher)), expected, rtol=0, atol=1e-12)


def test_uniform_outputs_cost_ln_k():
    loss_fn = SelfDistillationLoss(50)
    assert loss_fn(logits(torch.zeros(2, 4, 50)), logits(torch.zeros(2, 4, 50))).item() == pytest.approx(
        np.log(50), abs=1e-5
    )


def test_centre_over_accumulated_batches_is_that_of_the_joint_batch():
    teacher = torch.randn(2, 8, 5)
    joint, parts = SelfDistillationLoss(5), SelfDistillationLoss(5)
    joint.remember(logits(teacher))
    joint.update_centre()
    for part in teacher.split((2, 6), dim=1):  # of unequal size, on purpose
        parts.remember(logits(part))
    parts.update_centre()
    torch.testing.assert_close(parts.centre, joint.centre)
    torch.testing.assert_close(joint.centre, 0.1 * teacher.mean(dim=(0, 1)))


def test_centre_stays_without_teacher_rows_and_in_evaluation():
    loss_fn = SelfDistillationLoss(5)
    loss_fn.centre.normal_()
    before = loss_fn.centre.clone()
    loss_fn.update_centre()
    loss_fn.eval()
    loss_fn.remember(logits(torch.randn(2, 3, 5)))
    loss_fn.update_centre()
    assert torch.equal(loss_fn.centre, before)


def test_targets_carry_no_gradient_and_centre_is_saved():
    loss_fn = SelfDistillationLoss(5)
    teacher = torch.randn(2, 3, 5, requires_grad=True)
    loss_fn(logits(torch.randn(2, 3, 5, requires_grad=True)), logits(teacher)).backward()
    assert teacher.grad is None
    assert set(loss_fn.state_dict()) == {'centre'}


def test_bf16_logits_are_evaluated_in_fp32():
    student, teacher = torch.randn(2, 3, 500), torch.randn(2, 3, 500)
    loss_fn = SelfDistillationLoss(500)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_fn(logits(student.bfloat16()), logits(teacher.bfloat16()))
    assert loss.dtype == torch.float32
    expected = loss_fn(logits(student.bfloat16().float()), logits(teacher.bfloat16().float()))
    torch.testing.assert_close(loss, expected)


def test_pairings():
    assert cross_view_pairs(2, 4).tolist() == [[0, 1, 1, 1], [1, 0, 1, 1]]
    assert same_view_pairs(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="pairing='crossview'"):
        SelfDistillationLoss(5, pairing='crossview')
    with pytest.raises(ValueError, match='1 teacher and 1 student views is empty'):
        SelfDistillationLoss(5)(logits(torch.zeros(1, 2, 5)), logits(torch.zeros(1, 2, 5)))
    with pytest.raises(ValueError, match='chunk_size=0'):
        SelfDistillationLoss(5, chunk_size=0)


@pytest.mark.parametrize('chunk_size', [1, 2, 5, 100])
@pytest.mark.parametrize('tokens', [(), (3,)])
def test_chunks_change_neither_value_nor_gradients_nor_centre(chunk_size, tokens):
    heads = [DINOHead(6, 40, hidden_dim=8, bottleneck_dim=5, norm_last_layer=False).double() for _ in range(2)]
    student = torch.randn(4, 5, *tokens, 6, dtype=torch.float64)
    teacher = torch.randn(2, 5, *tokens, 6, dtype=torch.float64)
    results = []
    for size in (None, chunk_size):
        heads[0].zero_grad()
        x = student.clone().requires_grad_()
        loss_fn = SelfDistillationLoss(40, chunk_size=size).double()
        loss = loss_fn(heads[0].project(x), heads[1].project(teacher))
        loss.backward()
        loss_fn.update_centre()
        results.append([loss.detach(), x.grad, loss_fn.centre, *(p.grad.clone() for p in heads[0].parameters())])
    for plain, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][2], 0.1 * heads[1](teacher).flatten(0, -2).mean(0), rtol=0, atol=1e-12)


def test_chunks_hold_fewer_logits():
    """Bytes kept for the backward pass: with one image at a time, less than a quarter of all logits of eight images."""
    head = DINOHead(6, 4096, hidden_dim=8, bottleneck_dim=5)
    kept = {}
    for size in (None, 1):
        saved = {}

        def pack(tensor, saved=saved):
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            SelfDistillationLoss(4096, chunk_size=size)(
                head.project(torch.randn(4, 8, 6)), head.project(torch.randn(2, 8, 6))
            )
        kept[size] = sum(saved.values())
    assert kept[None] > 4 * 8 * 4096 * 4
    assert kept[1] < kept[None] / 4
