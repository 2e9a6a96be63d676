"""DINO: three complete training steps of the published code, and the teacher's contract."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_files import watch_gradients
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop

from mmadclr.engine.hooks import DistillationScheduleHook
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor, split_by_decay
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.selfsup import update_teacher
from mmadclr.registry import MODELS

TINY = dict(
    backbone=dict(type='QueryViT', arch=dict(embed_dim=24, depth=2, num_heads=3, patch_size=8), img_size=32),
    head=dict(type='DINOHead', out_dim=64, hidden_dim=48, bottleneck_dim=16, norm_last_layer=False),
)


def build(**kwargs):
    return MODELS.build(dict(type='DINO', data_preprocessor=dict(type='BaseDataPreprocessor'), **TINY) | kwargs)


def crops(arrays, step, kind):
    found = arrays.below(f'crops/step{step}/{kind}')
    if not found:  # no local crops
        return crops(arrays, step, 'global')[:, :0]
    return torch.stack([torch.from_numpy(found[number]) for number in sorted(found)], dim=1)


def published_model(arrays, tensors, dtype):
    """The model of a golden file, student and teacher as they start."""
    config = arrays.config
    sides = {image.shape[-1] for key, image in arrays.below('crops/step0/').items() if key.startswith('global')}
    assert sides == {config['img_size']}
    model = build(
        backbone=dict(type='QueryViT', arch=arrays.arch('init/backbone.'), img_size=config['img_size']),
        head=dict(type='DINOHead', **arrays.head('init/head.'), norm_last_layer=config['norm_last_layer']),
    ).to(dtype)
    model.student.load_state_dict(tensors(arrays, 'init/'))
    model.teacher.load_state_dict(model.student.state_dict())
    return model


def published_schedule(config):
    return DistillationScheduleHook(
        warmup_epochs=config['warmup_epochs'],
        min_lr=config['min_lr'],
        weight_decay=(config['weight_decay'], config['weight_decay_end']),
        momentum=(config['momentum_teacher'], 1.0),
        teacher_temp=(config['warmup_teacher_temp'], config['teacher_temp']),
        teacher_temp_warmup_epochs=config['warmup_teacher_temp_epochs'],
        freeze_last_layer_epochs=config['freeze_last_layer'],
    )


def run_published_steps(arrays, model, dtype):
    """Trains on the crops of the fixture; what was seen in each step."""
    config = arrays.config
    optimizer = dict(type='AdamW', lr=config['lr'] * config['batch'] / 256)
    construct = SelfDistillationOptimConstructor(dict(optimizer=optimizer, max_norm=config['clip_grad'], precision='fp32'))
    wrapper = construct(model)
    runner = SimpleNamespace(
        model=model,
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop),
        optim_wrapper=wrapper,
        message_hub=MessageHub('published_run'),
        iter=0,
        epoch=0,
        max_epochs=config['epochs'],
        max_iters=config['epochs'] * config['iters_per_epoch'],
    )
    schedule, norms = published_schedule(config), watch_gradients(model.student)
    schedule.before_run(runner)
    schedule.before_train(runner)
    for step, epoch in enumerate(arrays['epoch']):
        runner.iter, runner.epoch = step, int(epoch)
        schedule.before_train_epoch(runner)
        schedule.before_train_iter(runner, 0)
        views = {f'{kind}_views': crops(arrays, step, kind).to(dtype) for kind in ('global', 'local')}
        assert views['local_views'].shape[:2] == (config['batch'], config['n_local_crops'])
        assert views['local_views'].shape[-1] == config['local_size' if config['n_local_crops'] else 'img_size']
        loss = model.train_step(dict(views=views), wrapper)['loss']
        decayed, exempt = wrapper.optimizer.param_groups
        assert exempt['weight_decay'] == 0
        yield (
            *(loss.item(), decayed['lr'], exempt['lr'], decayed['weight_decay'], model.teacher_momentum),
            *(model.loss_cls.center.numpy().copy(), [norms[name] for name in arrays['trainable_names'].tolist()]),
        )


@pytest.fixture(scope='module')
def published_run(golden, tensors):
    """The fixture, our model after its steps, and what was seen in them."""
    arrays = golden('dino_step')
    model = published_model(arrays, tensors, torch.float64)
    return arrays, model, list(run_published_steps(arrays, model, torch.float64))


def test_losses_schedules_and_center_of_the_published_run(published_run):
    arrays, _, log = published_run
    losses, lr, lr_undecayed, weight_decay, momentum, center, norms = map(np.array, zip(*log, strict=True))
    np.testing.assert_allclose(losses, arrays['loss_f64'], rtol=0, atol=1e-9)
    for got, key in ((lr, 'lr'), (lr_undecayed, 'lr'), (weight_decay, 'weight_decay'), (momentum, 'momentum')):
        np.testing.assert_allclose(got, arrays[key], rtol=0, atol=1e-12)
    np.testing.assert_allclose(center, arrays['center'], rtol=0, atol=1e-9)
    np.testing.assert_allclose(norms, arrays['grad_norm_before_clip'], rtol=1e-9, atol=1e-9)


def test_losses_of_the_published_run_in_single_precision(golden, tensors):
    arrays = golden('dino_step')
    log = run_published_steps(arrays, published_model(arrays, tensors, torch.float32), torch.float32)
    np.testing.assert_allclose([step[0] for step in log], arrays['loss_f32'], rtol=0, atol=1e-5)


@pytest.mark.parametrize('network', ['student', 'teacher'])
def test_weights_after_the_published_run(published_run, tensors, network):
    arrays, model, _ = published_run
    expected = tensors(arrays, f'{network}_after/', torch.float64)
    state = getattr(model, network).state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


def test_decayed_parameters_are_the_published_ones(golden, tensors):
    arrays = golden('dino_step')
    student = published_model(arrays, tensors, torch.float32).student
    decayed, exempt = split_by_decay(student.named_parameters())
    names = {id(p): name for name, p in student.named_parameters()}
    published = dict(zip(arrays['trainable_names'].tolist(), arrays['trainable_decayed'].tolist(), strict=True))
    ours = {names[id(p)]: True for p in decayed} | {names[id(p)]: False for p in exempt}
    assert ours == published


def test_teacher_starts_as_a_copy_that_shares_nothing():
    model = build()
    for (name, student), teacher in zip(model.student.named_parameters(), model.teacher.parameters(), strict=True):
        assert torch.equal(student, teacher), name
        assert student.data_ptr() != teacher.data_ptr(), name
        assert not teacher.requires_grad, name


def test_init_weights_draws_anew_and_keeps_teacher_and_student_equal():
    model = build()
    before = model.student.backbone.cls_token.clone()
    model.init_weights()
    assert not torch.equal(model.student.backbone.cls_token, before)
    assert all(torch.equal(s, t) for s, t in zip(model.student.parameters(), model.teacher.parameters(), strict=True))


def test_teacher_never_drops_paths():
    model = build(backbone=TINY['backbone'] | dict(drop_path_rate=0.9)).train()
    images = torch.randn(4, 3, 32, 32)
    assert model.student.training
    assert torch.equal(model.teacher.backbone(images).cls, model.teacher.backbone(images).cls)
    assert not torch.equal(model.student.backbone(images).cls, model.student.backbone(images).cls)


def test_teacher_follows_the_closed_form():
    """After n updates with fixed students s_i: m^n t + (1 - m) sum_i m^(n - 1 - i) s_i."""
    momentum, start = 0.9, 2.0
    student, teacher = torch.nn.Linear(3, 2).double(), torch.nn.Linear(3, 2).double()
    torch.nn.init.constant_(teacher.weight, start)
    students = torch.randn(5, 2, 3, dtype=torch.float64)
    for weights in students:
        student.weight.data.copy_(weights)
        update_teacher(teacher, student, momentum)
    powers = momentum ** torch.arange(4, -1, -1, dtype=torch.float64)
    expected = momentum**5 * start + (1 - momentum) * (powers[:, None, None] * students).sum(0)
    torch.testing.assert_close(teacher.weight, expected, rtol=0, atol=1e-14)


def test_no_gradient_reaches_the_teacher():
    model = build()
    views = dict(global_views=torch.randn(2, 2, 3, 32, 32), local_views=torch.randn(2, 1, 3, 16, 16))
    model.loss(**views)['loss_cls'].backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters() if p.requires_grad)


def test_features_are_the_teachers_final_normed_cls():
    model = build()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images=images, mode='tensor'), model.teacher.backbone(images).cls, rtol=0, atol=1e-6)


def test_centers_of_losses_inside_other_modules_move_too():
    model = build()
    model.more = torch.nn.ModuleDict({'a': SelfDistillationLoss(4)})
    assert model.distillation_losses() == [model.loss_cls, model.more['a']]
