"""SelfDistillationLoss against the published losses of DINO and iBOT, the query fixtures, and an explicit loop."""

import itertools

import numpy as np
import pytest
import torch
from counters import PeakBytes

from mmadclr.models.heads.dino_head import DINOHead, PrototypeLayer
from mmadclr.models.losses.chunked_cross_entropy import even_chunks
from mmadclr.models.losses.self_distillation import (
    ProjectedFeatures,
    SelfDistillationLoss,
    cross_view_pairs,
    same_view_pairs,
)
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.schedules import linear_warmup

FORMS = pytest.mark.parametrize('logits_mib', [None, 64, 1e-3], ids=['plain', 'one chunk', 'chunks'])


def logits(values):
    """Logits as they are: one prototype along every axis."""
    prototypes = PrototypeLayer(values.shape[-1], values.shape[-1], learn_norm=False).to(values.dtype)
    with torch.no_grad():
        prototypes.weight_v.copy_(torch.eye(values.shape[-1]))
    return ProjectedFeatures(values, prototypes)


def published_loss(config, logits_mib, momentum='center_momentum', **kwargs):
    """The loss with the settings of a golden file."""
    settings = dict(student_temp=config['student_temp'], center_momentum=config[momentum])
    return SelfDistillationLoss(**settings, logits_mib=logits_mib, **kwargs)


def published_temperatures(arrays, kind='', schedule='teacher_temp_schedule'):
    """Temperatures by epoch, equal to the published ones."""
    config = arrays.config
    ends = config[f'warmup_teacher_{kind}temp'], config[f'teacher_{kind}temp']
    temperatures = linear_warmup(*ends, config['epochs'], config['warmup_teacher_temp_epochs'])
    np.testing.assert_allclose(temperatures, arrays[schedule], rtol=0, atol=1e-12)
    return temperatures


def run(case, config, temperatures, dtype, logits_mib):
    """Losses, student gradients and centers of the calls in a row."""
    student, teacher = (torch.from_numpy(case[k]).to(dtype) for k in ('student', 'teacher'))
    batch = config['batch']
    assert len(student[0]) == batch * case['n_crops']
    loss_fn = published_loss(config, logits_mib, out_dim=config['out_dim']).to(dtype)
    results = []
    for s, t, epoch in zip(student, teacher, case['epoch'], strict=True):
        loss_fn.teacher_temp = temperatures[epoch]
        s = s.unflatten(0, (-1, batch)).requires_grad_()
        loss = loss_fn(logits(s), logits(t.unflatten(0, (-1, batch))))
        loss.backward()
        loss_fn.update_center()
        results.append((loss.detach(), s.grad.flatten(0, 1), loss_fn.center.clone()))
    return [torch.stack(part) for part in zip(*results, strict=True)]


@FORMS
@pytest.mark.golden_names('name', 'dino_loss', '(.+)/student')
def test_equals_published_dino_loss(golden, name, logits_mib):
    arrays = golden('dino_loss')
    case, temperatures = arrays.below(f'{name}/'), published_temperatures(arrays)
    losses, gradients, centers = run(case, arrays.config, temperatures, torch.float32, logits_mib)
    torch.testing.assert_close(losses, torch.from_numpy(case['loss']), rtol=3e-6, atol=1e-5)
    torch.testing.assert_close(gradients, torch.from_numpy(case['grad_student']), rtol=0, atol=1e-6)
    torch.testing.assert_close(centers, torch.from_numpy(case['center'])[:, 0], rtol=0, atol=1e-6)
    losses, _, _ = run(case, arrays.config, temperatures, torch.float64, logits_mib)
    np.testing.assert_allclose(losses.numpy(), case['loss_f64'], rtol=0, atol=1e-10)


@FORMS
def test_cross_view_query_term(golden, logits_mib):
    """Float64 reference of ADCLR's query term: teacher view u against student view v != u, mean over tokens."""
    arrays = golden('query_loss')
    loss_fn = published_loss(arrays.config, logits_mib, out_dim=arrays.config['out_dim']).double()
    temperatures = published_temperatures(arrays, 'query_', 'teacher_temp_schedule_query')
    for call, epoch in enumerate(arrays['epoch']):
        loss_fn.teacher_temp = temperatures[epoch]
        student, teacher = (
            torch.from_numpy(arrays[k][call]).double().unflatten(0, (2, -1))
            for k in ('student_query', 'teacher_query_per_view')
        )
        assert student.shape[1:3] == (arrays.config['batch'], arrays.config['num_queries'])
        loss = loss_fn(logits(student), logits(teacher))
        loss_fn.update_center()
        assert loss.item() == pytest.approx(float(arrays['ref64/cross_view/loss_query'][call]), abs=1e-10)
        center = arrays['ref64/cross_view/center'][call]
        np.testing.assert_allclose(loss_fn.center.numpy(), center.ravel(), rtol=0, atol=1e-10)


@FORMS
def test_released_query_term(golden, logits_mib):
    """The authors' released pairing, one target for both views, is the cross-view one with equal teacher views."""
    arrays = golden('query_loss')
    loss_fn = published_loss(arrays.config, logits_mib, out_dim=arrays.config['out_dim'])
    temperatures = published_temperatures(arrays, 'query_', 'teacher_temp_schedule_query')
    weight = arrays.config['lambda3']
    for call, epoch in enumerate(arrays['epoch']):
        loss_fn.teacher_temp = temperatures[epoch]
        student = torch.from_numpy(arrays['student_query'][call]).unflatten(0, (2, -1)).requires_grad_()
        teacher = torch.from_numpy(arrays['teacher_query'][call]).expand(2, -1, -1, -1)
        loss = weight * loss_fn(logits(student), logits(teacher))
        loss.backward()
        loss_fn.update_center()
        assert loss.item() == pytest.approx(float(arrays['official/loss_query'][call]), abs=1e-5)
        expected = arrays['official/grad_student_query'][call]
        np.testing.assert_allclose(student.grad.flatten(0, 1).numpy(), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(loss_fn.center.numpy(), arrays['official/center3'][call].ravel(), rtol=0, atol=1e-6)


def ibot_losses(config, logits_mib):
    cls = published_loss(config, logits_mib, out_dim=config['out_dim'])
    momentum = 'center_momentum2' if 'center_momentum2' in config else 'center_momentum'
    return cls, published_loss(config, logits_mib, momentum, out_dim=config['patch_out_dim'], pairing='same-view')


@FORMS
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.golden_names('name', 'ibot_loss', '(.+)/student_cls')
def test_equals_published_ibot_loss(golden, tensors, name, logits_mib, dtype):
    arrays = golden('ibot_loss')
    case, config = tensors(arrays, f'{name}/'), arrays.config
    batch = config['batch']
    loss_cls, loss_patch = (loss.to(dtype) for loss in ibot_losses(config, logits_mib))
    suffix, atol = ('', 1e-5) if dtype == torch.float32 else ('_f64', 1e-10)
    for call, epoch in enumerate(case['epoch']):
        loss_cls.teacher_temp = published_temperatures(arrays)[epoch]
        loss_patch.teacher_temp = published_temperatures(arrays, 'patch_', 'teacher_patch_temp_schedule')[epoch]
        names = [k for k in ('student_cls', 'student_local_cls', 'student_patch') if k in case]
        leaves = {k: case[k][call].to(dtype).requires_grad_() for k in names}
        views = torch.cat([leaves[k].unflatten(0, (-1, batch)) for k in names if k != 'student_patch'])
        assert len(views) == 2 + case['n_local_crops']
        cls = config['lambda1'] * loss_cls(logits(views), logits(case['teacher_cls'][call].to(dtype).unflatten(0, (2, -1))))
        _, rows, weights = PatchMasks.of(case['masks'][call].transpose(0, 1))
        assert case['masks'].shape[-2:] == (config['grid'], config['grid'])
        student, teacher = (x.flatten(0, 1)[None] for x in (leaves['student_patch'], case['teacher_patch'][call].to(dtype)))
        patch = loss_patch(logits(student[:, rows]), logits(teacher[:, rows]), weights, center_from=logits(teacher))
        patch = config['lambda2'] * patch
        (cls + patch).backward()
        loss_cls.update_center()
        loss_patch.update_center()
        for got, key in ((cls, 'loss_cls'), (patch, 'loss_patch'), (cls + patch, 'loss')):
            assert got.item() == pytest.approx(case[f'{key}{suffix}'][call].item(), rel=0, abs=atol), key
        for got, key in ((loss_cls.center, 'center'), (loss_patch.center, 'center2')):
            torch.testing.assert_close(got, case[key][call].flatten().to(dtype), rtol=0, atol=1e-6, msg=key)
        for key, leaf in leaves.items():
            torch.testing.assert_close(leaf.grad, case[f'grad_{key}'][call].to(dtype), rtol=0, atol=1e-6, msg=key)


def slow_loss(student, teacher, center, student_temp, teacher_temp, keep):
    """The definition: every pair, image and token by itself."""
    terms = []
    for u, v in itertools.product(range(len(teacher)), range(len(student))):
        if not keep(u, v):
            continue
        for index in itertools.product(*map(range, student.shape[1:-1])):
            target = ((teacher[u][index] - center) / teacher_temp).softmax(-1)
            terms.append(-(target * (student[v][index] / student_temp).log_softmax(-1)).sum())
    return torch.stack(terms).mean()


@FORMS
@pytest.mark.parametrize('pairing', ['cross-view', 'same-view'])
@pytest.mark.parametrize('views', [(2, 2), (2, 5), (3, 3)])
@pytest.mark.parametrize('tokens', [(), (4,)])
def test_equals_explicit_loop(pairing, views, tokens, logits_mib):
    num_teacher, num_student = views
    student = torch.randn(num_student, 3, *tokens, 7, dtype=torch.float64)
    teacher = torch.randn(num_teacher, 3, *tokens, 7, dtype=torch.float64)
    loss_fn = SelfDistillationLoss(7, student_temp=0.2, teacher_temp=0.3, pairing=pairing, logits_mib=logits_mib).double()
    loss_fn.center.normal_()
    keep = (lambda u, v: u != v) if pairing == 'cross-view' else (lambda u, v: u == v)
    expected = slow_loss(student, teacher, loss_fn.center, 0.2, 0.3, keep)
    torch.testing.assert_close(loss_fn(logits(student), logits(teacher)), expected, rtol=0, atol=1e-12)


def test_uniform_outputs_cost_ln_k():
    loss_fn = SelfDistillationLoss(50)
    assert loss_fn(logits(torch.zeros(2, 4, 50)), logits(torch.zeros(2, 4, 50))).item() == pytest.approx(
        np.log(50), abs=1e-5
    )


def test_center_over_accumulated_batches_is_that_of_the_joint_batch():
    teacher = torch.randn(2, 8, 5)
    joint, parts = SelfDistillationLoss(5), SelfDistillationLoss(5)
    joint(logits(teacher), logits(teacher))
    joint.update_center()
    for part in teacher.split((2, 6), dim=1):  # of unequal size, on purpose
        parts(logits(part), logits(part))
    parts.update_center()
    torch.testing.assert_close(parts.center, joint.center)
    torch.testing.assert_close(joint.center, 0.1 * teacher.mean(dim=(0, 1)))


def test_center_stays_without_teacher_rows_and_in_evaluation():
    loss_fn = SelfDistillationLoss(5)
    loss_fn.center.normal_()
    before = loss_fn.center.clone()
    loss_fn.update_center()
    loss_fn.eval()
    loss_fn(logits(torch.randn(2, 3, 5)), logits(torch.randn(2, 3, 5)))
    loss_fn.update_center()
    assert torch.equal(loss_fn.center, before)


def test_targets_carry_no_gradient_and_center_is_saved():
    loss_fn = SelfDistillationLoss(5)
    teacher = torch.randn(2, 3, 5, requires_grad=True)
    loss_fn(logits(torch.randn(2, 3, 5, requires_grad=True)), logits(teacher)).backward()
    assert teacher.grad is None
    assert set(loss_fn.state_dict()) == {'center'}


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
    with pytest.raises(ValueError, match='logits_mib=0 must be above 0'):
        SelfDistillationLoss(5, logits_mib=0)


def both_heads():
    heads = [DINOHead(6, 40, hidden_dim=8, bottleneck_dim=5, norm_last_layer=False).double() for _ in range(2)]
    for head in heads:
        torch.nn.init.normal_(head.last_layer.weight_g)  # of both signs
    return heads


@FORMS
@pytest.mark.parametrize('pairing', ['cross-view', 'same-view'])
def test_weights_are_those_of_a_sum_over_rows(logits_mib, pairing):
    """Equal ones give the mean; one row's alone gives the loss of that row; both linear in between."""
    student, teacher = torch.randn(3, 4, 2, 7, dtype=torch.float64), torch.randn(2, 4, 2, 7, dtype=torch.float64)
    loss_fn = SelfDistillationLoss(7, pairing=pairing, logits_mib=logits_mib).double()
    weights = torch.rand(4, 2, dtype=torch.float64)
    rows = [
        loss_fn(logits(student[:, i : i + 1, j : j + 1]), logits(teacher[:, i : i + 1, j : j + 1]))
        for i, j in itertools.product(range(4), range(2))
    ]
    x = student.clone().requires_grad_()
    got = loss_fn(logits(x), logits(teacher), weights)
    torch.testing.assert_close(got, (torch.stack(rows) * weights.flatten()).sum(), rtol=0, atol=1e-12)
    mean = loss_fn(logits(student), logits(teacher))
    equal = loss_fn(logits(student), logits(teacher), torch.full((4, 2), 1 / 8))
    torch.testing.assert_close(equal, mean, rtol=0, atol=1e-12)
    loss_fn(logits(x), logits(teacher), torch.zeros(4, 2)).backward()
    assert not x.grad.any()


@FORMS
def test_no_rows_at_all_cost_nothing(logits_mib):
    head = both_heads()[0]
    loss_fn = SelfDistillationLoss(40, pairing='same-view', logits_mib=logits_mib).double()
    nothing, seen = torch.empty(1, 0, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    loss = loss_fn(head.project(nothing), head.project(nothing), torch.empty(0), center_from=head.project(seen))
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in head.parameters())
    loss_fn.update_center()
    torch.testing.assert_close(loss_fn.center, 0.1 * head(seen).mean((0, 1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('logits_mib', [1e-4, 0.01, 0.02, 64])
@pytest.mark.parametrize('tokens', [(), (3,)])
@pytest.mark.parametrize('pairing', ['cross-view', 'same-view'])
def test_chunks_change_neither_value_nor_gradients_nor_center(logits_mib, tokens, pairing, weighted):
    heads = both_heads()
    weights = torch.rand(5, *tokens) if weighted else None
    student = torch.randn(4, 5, *tokens, 6, dtype=torch.float64)
    teacher = torch.randn(2, 5, *tokens, 6, dtype=torch.float64)
    results = []
    for size in (None, logits_mib):
        heads[0].zero_grad()
        x = student.clone().requires_grad_()
        loss_fn = SelfDistillationLoss(40, logits_mib=size, pairing=pairing).double()
        loss_fn.center.normal_(generator=torch.Generator().manual_seed(1))
        loss = loss_fn(heads[0].project(x), heads[1].project(teacher), weights)
        (3 * loss).backward()
        loss_fn.update_center()
        results.append([loss.detach(), x.grad, loss_fn.center, *(p.grad.clone() for p in heads[0].parameters())])
        assert all(p.grad is None for p in heads[1].parameters())
    for plain, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-12, atol=1e-12)


def test_center_is_the_mean_of_the_logits():
    heads = both_heads()
    teacher = torch.randn(2, 5, 3, 6, dtype=torch.float64)
    loss_fn = SelfDistillationLoss(40).double()
    loss_fn(heads[0].project(teacher), heads[1].project(teacher))
    loss_fn.update_center()
    torch.testing.assert_close(loss_fn.center, 0.1 * heads[1](teacher).flatten(0, -2).mean(0), rtol=0, atol=1e-12)


def test_second_backward_pass_is_refused():
    x = torch.randn(2, 3, 5, requires_grad=True)
    loss = SelfDistillationLoss(5)(logits(x), logits(torch.randn(2, 3, 5)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='set logits_mib=None'):
        loss.backward()


def test_products_in_bf16_stay_close_to_single_precision():
    heads = [DINOHead(16, 300, hidden_dim=32, bottleneck_dim=24) for _ in range(2)]
    x, teacher = torch.randn(4, 6, 16), torch.randn(2, 6, 16)
    results = {}
    for mib in (None, 0.05):
        for low in (False, True):
            projections = heads[0].project(x), heads[1].project(teacher)
            heads[0].zero_grad()
            with torch.autocast('cpu', dtype=torch.bfloat16, enabled=low):
                loss = SelfDistillationLoss(300, logits_mib=mib)(*projections)
            loss.backward()
            results[mib, low] = loss.detach(), heads[0].last_layer.weight_v.grad.clone()
            assert loss.dtype == torch.float32
    for exact, low in ((results[0.05, False], results[0.05, True]), (results[None, True], results[0.05, True])):
        torch.testing.assert_close(low[0], exact[0], rtol=2e-3, atol=0)
        torch.testing.assert_close(low[1], exact[1], rtol=0, atol=0.02 * exact[1].abs().max().item())


def live_bytes(logits_mib, batch, prototypes):
    """Most bytes of tensors that exist at a time during forward and backward, beyond the heads and their inputs."""
    heads = [DINOHead(6, prototypes, hidden_dim=8, bottleneck_dim=5) for _ in range(2)]
    projections = heads[0].project(torch.randn(4, batch, 6)), heads[1].project(torch.randn(2, batch, 6))
    with PeakBytes() as peak:
        SelfDistillationLoss(prototypes, logits_mib=logits_mib)(*projections).backward()
    return peak.most


@pytest.mark.parametrize('logits_mib', [None, 64, 1e-3], ids=['plain', 'one chunk', 'chunks'])
@pytest.mark.parametrize(('tokens', 'weights'), [(5, 4), (5, 1), (5, 10), (1, 5)])
def test_weights_and_tokens_that_do_not_belong_together_are_refused(logits_mib, tokens, weights):
    head = DINOHead(8, 300, hidden_dim=8, bottleneck_dim=6)
    features = torch.randn(1, tokens, 8)
    loss = SelfDistillationLoss(300, pairing='same-view', logits_mib=logits_mib)
    message = f'weights of shape \\({weights},\\) must match the tokens \\({tokens},\\)'
    with pytest.raises(ValueError, match=message):
        loss(head.project(features), head.project(features), torch.rand(weights))
    with pytest.raises(ValueError, match='tokens of the student .* and of the teacher .* must match'):
        loss(head.project(features), head.project(features[:, :1].expand(-1, tokens + 1, -1)))


def test_memory_grows_neither_with_the_batch_nor_with_more_logits_than_allowed():
    few, many = live_bytes(2, 16, 4096), live_bytes(2, 128, 4096)
    # The rows and their gradients; and both copies of the prototypes and their gradient, which many rows need at a time.
    assert many < few + 112 * 6 * 5 * 4 * 4 + 3 * 5 * 4096 * 4
    assert few < 2 * 2**20 + 5 * 4096 * 5 * 4  # the allowance and a few arrays of the prototypes' size
    assert live_bytes(None, 128, 4096) > 10 * many


@pytest.mark.parametrize(('number', 'most'), [(0, 4), (1, 4), (64, 26), (64, 64), (640, 128), (37, 5), (7, 1)])
def test_chunks_hold_all_rows_and_are_alike_where_they_can_be(number, most):
    rows = even_chunks(number, most)
    assert 1 <= rows <= most
    assert -(-number // rows) <= 2 * -(-number // most)
    if number == 64:
        assert number % rows == 0
