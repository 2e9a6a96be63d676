"""iBOT: three complete training steps of the published code, a slow reference of the loss, and the masks' way to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_files import enlarged, watch_gradients
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.engine.hooks import DistillationScheduleHook
from mmadclr.engine.hooks.schedule_hook import temperature_table
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor, split_by_decay
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.registry import MODELS

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
TINY = dict(
    backbone=dict(type='QueryViT', arch=ARCH, img_size=32),
    head=dict(type='DINOHead', out_dim=64, hidden_dim=48, bottleneck_dim=16, norm_last_layer=False),
)
OWN_PROTOTYPES = TINY['head'] | dict(type='IBOTHead', patch_out_dim=20)
heads = pytest.mark.parametrize('head', [TINY['head'], OWN_PROTOTYPES], ids=['shared', 'own prototypes'])


def build(**kwargs):
    settings = dict(type='IBOT', data_preprocessor=dict(type='BaseDataPreprocessor'), **TINY)
    return MODELS.build(settings | kwargs)


def stacked(arrays, prefix):
    """(B, V, ...) of the arrays whose names start so."""
    found = arrays.below(prefix)
    return torch.stack([torch.from_numpy(found[name]) for name in sorted(found)], dim=1)


def ours(published, shared_head=True):
    """A published state in our names: the alias of a shared last layer is none, and the mask token has another name."""
    return {
        name.replace('masked_embed', 'mask_token'): value
        for name, value in published.items()
        if not (shared_head and 'last_layer2' in name)
    }


# --- the published run -----------------------------------------------------------------------------------------------------


def published_schedule(config):
    warmup = config['warmup_teacher_temp_epochs']
    return DistillationScheduleHook(
        warmup_epochs=config['warmup_epochs'],
        min_lr=config['min_lr'],
        weight_decay=(config['weight_decay'], config['weight_decay_end']),
        momentum=(config['momentum_teacher'], 1.0),
        teacher_temp=(config['warmup_teacher_temp'], config['teacher_temp']),
        teacher_temp_warmup_epochs=warmup,
        teacher_temp_of=dict(loss_patch=dict(temp=(config['warmup_teacher_patch_temp'], config['teacher_patch_temp']))),
        freeze_last_layer_epochs=config['freeze_last_layer'],
    )


def stand_in(model, wrapper, epochs, iters_per_epoch):
    """What the hooks ask a runner for."""
    return SimpleNamespace(
        model=model,
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop),
        optim_wrapper=wrapper,
        message_hub=MessageHub('published_ibot_run'),
        max_epochs=epochs,
        max_iters=epochs * iters_per_epoch,
    )


def published_model(arrays, dtype):
    """The model of a golden file, student and teacher as they start."""
    config, sizes = arrays.config, arrays.head('init/head.')
    head = dict(type='DINOHead', **sizes, norm_last_layer=config['norm_last_layer'])
    assert config['patch_out_dim'] == len(arrays['init/head.last_layer2.weight_v'])  # of the alias, if they are shared
    if not config['shared_head']:
        head |= dict(type='IBOTHead', patch_out_dim=config['patch_out_dim'])
    model = build(
        backbone=dict(type='QueryViT', arch=arrays.arch('init/backbone.'), img_size=config['img_size']),
        head=head,
        cls_weight=config['lambda1'],
        patch_weight=config['lambda2'],
    ).to(dtype)
    start = {name: torch.from_numpy(array) for name, array in arrays.below('init/').items()}
    start = ours(start, config['shared_head'])
    model.student.load_state_dict(start)
    model.teacher.load_state_dict({k: v for k, v in start.items() if 'mask_token' not in k})
    return model


def run_published_steps(arrays, model, dtype):
    """Trains on the crops and masks of the fixture; what was seen in each step."""
    config = arrays.config
    optimizer = dict(type='AdamW', lr=config['lr'] * config['batch'] / 256)
    construct = SelfDistillationOptimConstructor(dict(optimizer=optimizer, max_norm=config['clip_grad'], precision='fp32'))
    wrapper = construct(model)
    runner = stand_in(model, wrapper, config['epochs'], config['iters_per_epoch'])
    schedule, norms = published_schedule(config), watch_gradients(model.student)
    schedule.before_run(runner)
    schedule.before_train(runner)
    names = list(ours(dict.fromkeys(arrays['trainable_names'].tolist()), config['shared_head']))
    for step, epoch in enumerate(arrays['epoch']):
        runner.iter, runner.epoch = step, int(epoch)
        schedule.before_train_epoch(runner)
        schedule.before_train_iter(runner, 0)
        views = dict(global_views=stacked(arrays, f'crops/step{step}/global').to(dtype))
        views['local_views'] = views['global_views'][:, :0]
        if config['n_local_crops']:
            views['local_views'] = stacked(arrays, f'crops/step{step}/local').to(dtype)
        check_sizes(config, **views)
        views['masks'] = PatchMasks.of(stacked(arrays, f'masks/step{step}/'))
        losses = model.train_step(dict(views=views), wrapper)
        group = wrapper.optimizer.param_groups[0]
        yield (
            *(losses[name].item() for name in ('loss', 'loss_cls', 'loss_patch')),
            *(group['lr'], group['weight_decay'], model.teacher_momentum),
            *(loss.center.numpy().copy() for loss in (model.loss_cls, model.loss_patch)),
            [norms[name] for name in names],
        )


def check_sizes(config, global_views, local_views):
    assert local_views.shape[:2] == (config['batch'], config['n_local_crops'])
    sides = config['img_size'], config['local_size' if config['n_local_crops'] else 'img_size']
    assert (global_views.shape[-1], local_views.shape[-1]) == sides


@pytest.fixture(scope='module')
def published_run(golden):
    """The fixture, our model after its steps, and what was seen in them."""
    torch.manual_seed(0)
    arrays = golden('ibot_step')
    model = published_model(arrays, torch.float64)
    return arrays, model, list(run_published_steps(arrays, model, torch.float64))


def test_losses_schedules_and_centers_of_the_published_run(published_run):
    arrays, _, log = published_run
    names = ('loss_f64', 'loss_cls_f64', 'loss_patch_f64', 'lr', 'weight_decay', 'momentum', 'center', 'center2')
    for name, column in zip((*names, 'grad_norm_before_clip'), zip(*log, strict=True), strict=True):
        rtol = 1e-9 if name == 'grad_norm_before_clip' else 0
        np.testing.assert_allclose(np.array(column), arrays[name], rtol=rtol, atol=1e-9, err_msg=name)


def test_losses_of_the_published_run_in_single_precision(golden):
    arrays = golden('ibot_step')
    log = list(run_published_steps(arrays, published_model(arrays, torch.float32), torch.float32))
    for column, name in enumerate(('loss_f32', 'loss_cls_f32', 'loss_patch_f32')):
        np.testing.assert_allclose([step[column] for step in log], arrays[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('network', ['student', 'teacher'])
def test_weights_after_the_published_run(published_run, tensors, network):
    arrays, model, _ = published_run
    expected = ours(tensors(arrays, f'{network}_after/', torch.float64), arrays.config['shared_head'])
    state = getattr(model, network).state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


def test_decayed_parameters_are_the_published_ones(golden):
    arrays = golden('ibot_step')
    student = published_model(arrays, torch.float32).student
    names = {id(p): name for name, p in student.named_parameters()}
    decayed, exempt = split_by_decay(student.named_parameters())
    published = dict(zip(arrays['trainable_names'].tolist(), arrays['trainable_decayed'].tolist(), strict=True))
    published = ours(published, arrays.config['shared_head'])
    assert {names[id(p)]: True for p in decayed} | {names[id(p)]: False for p in exempt} == published


def test_a_published_training_checkpoint_fits_and_gives_its_outputs(golden, tensors):
    """Both networks of an official file in our names; masked student tokens and the logits of [CLS] and patches."""
    arrays = golden('checkpoints/ibot_expected')
    published, config = read_checkpoint(golden.path('checkpoints/ibot_checkpoint.pth')), arrays.config
    head = dict(type='DINOHead', **{k: config[k] for k in ('out_dim', 'hidden_dim', 'bottleneck_dim')})
    model = build(
        backbone=dict(type='QueryViT', arch={k: config[k] for k in ARCH}, img_size=config['img_size']),
        head=head | dict(norm_last_layer=False),
    ).eval()
    images = torch.from_numpy(enlarged(arrays))
    for name in ('student', 'teacher'):
        network, expected = getattr(model, name), tensors(arrays, f'{name}/')
        network.load_state_dict({k.removeprefix('module.'): v for k, v in ours(published[name]).items()})
        output = network.backbone(images)
        got = {'cls_logits_224': network.head(output.cls), 'patch_logits_224_first5': network.head(output.patches[:, :5])}
        for key, logits in got.items():
            torch.testing.assert_close(logits, expected[key], rtol=0, atol=3e-5, msg=f'{name}/{key}')
    output = model.student.backbone(images, mask=torch.from_numpy(arrays['mask_224']))
    tokens = torch.cat((output.cls[:, None], output.patches), dim=1)
    expected = torch.from_numpy(arrays['student/tokens_224_masked'])
    torch.testing.assert_close(tokens, expected, rtol=0, atol=3e-5)


# --- the parts -------------------------------------------------------------------------------------------------------------


def test_patch_temperatures_are_the_published_ones(golden):
    arrays = golden('ibot_loss')
    config = arrays.config
    temp, late = (
        [config[f'{kind}teacher_patch_temp'] for kind in ('warmup_', '')],
        config['mim_start_epoch_of_late_schedule'],
    )
    warmup = config['warmup_teacher_temp_epochs']
    for start_epoch, key in ((0, 'teacher_patch_temp_schedule'), (late, 'teacher_patch_temp_schedule_late')):
        table = temperature_table(config['epochs'], temp=temp, warmup_epochs=warmup, start_epoch=start_epoch)
        np.testing.assert_allclose(table, arrays[key], rtol=0, atol=1e-12)


def make_views(num_local=3, batch=3, dtype=torch.float64):
    views = dict(global_views=torch.randn(batch, 2, 3, 32, 32), local_views=torch.randn(batch, num_local, 3, 16, 16))
    return {name: view.to(dtype) for name, view in views.items()}


def make_masks(batch=3):
    """(B, 2, 4, 4), the last image's second view whole."""
    masks = torch.rand(batch, 2, 4, 4) < 0.4
    masks[-1, 1] = False
    return masks


def cross_entropy(teacher, student, loss):
    target = ((teacher - loss.center) / loss.teacher_temp).softmax(-1)
    return -(target * (student / loss.student_temp).log_softmax(-1)).sum(-1)


def definition(model, global_views, local_views, masks):
    """Both terms written out image by image, with the logits of all patches, multiplied by the mask."""

    def logits(network, view, mask=None):
        output, head = network['backbone'](view[None], mask=mask), network['head']
        features = head.project(output.patches[0]).features
        return head(output.cls[0]), getattr(head, 'last_layer2', head.last_layer)(features)

    cls_terms, patch_terms = [], []
    for image, local, mask in zip(global_views, local_views, masks, strict=True):
        with torch.no_grad():
            taught = [logits(model.teacher, view) for view in image]
        learned = [logits(model.student, view, m[None]) for view, m in zip(image, mask, strict=True)]
        every_cls = [cls for cls, _ in learned] + [logits(model.student, view)[0] for view in local]
        for u, (teacher_cls, teacher_patches) in enumerate(taught):
            cls_terms += [cross_entropy(teacher_cls, s, model.loss_cls) for v, s in enumerate(every_cls) if u != v]
            hidden = mask[u].flatten()
            terms = cross_entropy(teacher_patches, learned[u][1], model.loss_patch) * hidden
            patch_terms.append(terms.sum() / hidden.sum().clamp(min=1))
    return torch.stack(cls_terms).mean(), torch.stack(patch_terms).mean()


@heads
@pytest.mark.parametrize('logits_mib', [None, 64, 1e-3], ids=['plain', 'one chunk', 'chunks'])
@pytest.mark.parametrize('num_local', [0, 3])
def test_losses_and_gradients_equal_the_definition(head, logits_mib, num_local):
    losses = dict(teacher_temp=0.5, logits_mib=logits_mib)
    model = build(head=head, loss_cls=losses, loss_patch=losses | dict(teacher_temp=0.3), cls_weight=0.7, patch_weight=1.3)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    for loss in model.distillation_losses():
        loss.center.normal_()
    views, masks = make_views(num_local), make_masks()
    results = []
    for cls, patch in (model.loss(**views, masks=PatchMasks.of(masks)).values(), definition(model, **views, masks=masks)):
        model.zero_grad()
        scale = (1.0, 1.0) if not results else (0.7, 1.3)
        (scale[0] * cls + scale[1] * patch).backward()
        gradients = {name: p.grad.clone() for name, p in model.student.named_parameters()}
        results.append((scale[0] * cls.detach(), scale[1] * patch.detach(), gradients))
        assert all(p.grad is None for p in model.teacher.parameters())
    for got, expected in zip(*(result[:2] for result in results), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    for name, expected in results[1][2].items():
        torch.testing.assert_close(results[0][2][name], expected, rtol=0, atol=1e-9, msg=name)


@heads
def test_the_center_of_patches_is_the_mean_over_hidden_and_visible_ones(head):
    model = build(head=head).double()
    views = make_views()
    model.loss(**views, masks=PatchMasks.of(make_masks()))
    head = model.teacher['head']
    patches = head.project(model.teacher['backbone'](views['global_views'].flatten(0, 1)).patches).features
    expected = getattr(head, 'last_layer2', head.last_layer)(patches).flatten(0, 1).mean(0)
    model.after_step()
    torch.testing.assert_close(model.loss_patch.center, 0.1 * expected, rtol=0, atol=1e-12)


def test_of_the_students_patches_hidden_ones_alone_pass_the_head():
    model, masks, rows = build(), make_masks(), []
    model.student.head.mlp.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    model.loss(**make_views(dtype=torch.float32), masks=PatchMasks.of(masks))
    assert rows == [3 * (2 + 3) + masks.sum().item()]


def test_accumulated_batches_are_the_joint_batch():
    model = build().double()
    views, masks = make_views(batch=4), make_masks(4)
    parts = [{name: x[i : i + 2] for name, x in (views | dict(masks=masks)).items()} for i in (0, 2)]
    results = []
    for batches in ([views | dict(masks=masks)], parts):
        model.zero_grad()
        for loss in model.distillation_losses():
            loss.center.zero_()
        for batch in batches:
            batch = batch | dict(masks=PatchMasks.of(batch['masks']))
            (sum(model.loss(**batch).values()) / len(batches)).backward()
        for loss in model.distillation_losses():
            loss.update_center()
        centers = [loss.center.clone() for loss in model.distillation_losses()]
        results.append([p.grad.clone() for p in model.student.parameters() if p.requires_grad] + centers)
    for joint, accumulated in zip(*results, strict=True):
        torch.testing.assert_close(accumulated, joint, rtol=0, atol=1e-12)


@heads
@pytest.mark.parametrize('logits_mib', [None, 64])
def test_a_batch_without_masked_patches_costs_nothing_and_has_zero_gradients(head, logits_mib):
    model = build(head=head, loss_patch=dict(logits_mib=logits_mib))
    views = make_views(dtype=torch.float32)
    losses = model.loss(**views, masks=PatchMasks.of(torch.zeros(3, 2, 4, 4, dtype=torch.bool)))
    assert losses['loss_patch'].item() == 0
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.student.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in gradients.values())  # none is None: processes need the same ones
    assert not gradients['backbone.mask_token'].any()
    model.after_step()
    assert model.loss_patch.center.any()  # it follows all patches, masked or not


def test_the_mask_token_is_the_students_alone():
    model = build()
    names = {name: set(dict(getattr(model, name).named_parameters())) for name in ('student', 'teacher')}
    assert names['student'] - names['teacher'] == {'backbone.mask_token'}
    assert names['teacher'] < names['student']
    model.init_weights()
    student = model.student.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in model.teacher.state_dict().items())
    with torch.no_grad():
        model.student.backbone.mask_token.fill_(1.0)
    model.after_step()
    assert 'mask_token' not in model.teacher.backbone.state_dict()


@heads
def test_own_prototypes_are_those_of_patches_alone(head):
    model = build(head=head)
    losses = model.loss(**make_views(dtype=torch.float32), masks=PatchMasks.of(make_masks()))
    prototypes = [model.student.head.last_layer.weight_v]
    if head['type'] == 'IBOTHead':
        prototypes.append(model.student.head.last_layer2.weight_v)
    reached = {
        name: [g is not None for g in torch.autograd.grad(loss, prototypes, retain_graph=True, allow_unused=True)]
        for name, loss in losses.items()
    }
    expected = dict(loss_cls=[True], loss_patch=[True])
    if len(prototypes) == 2:
        expected = dict(loss_cls=[True, False], loss_patch=[False, True])
    assert reached == expected


# --- bad input -------------------------------------------------------------------------------------------------------------


def test_masks_and_methods_that_do_not_fit_are_explained():
    views, masks = make_views(dtype=torch.float32), make_masks()
    with pytest.raises(ValueError, match="samples have no masks; set mask=dict\\(type='BlockMasking'\\) of MultiCrop"):
        build().loss(**views)
    with pytest.raises(ValueError, match=r'\(6, 2, 2\): the images have \(6, 4, 4\) patches'):
        build().loss(**views, masks=PatchMasks.of(masks[..., :2, :2]))
    with pytest.raises(ValueError, match='no mask token; set mask_token=True'):
        build(backbone=TINY['backbone'] | dict(mask_token=False)).loss(**views, masks=PatchMasks.of(masks))
    dino = build(type='DINO')
    with pytest.raises(ValueError, match='DINO does not use the masks of the samples'):
        dino(views=views | dict(masks=masks), mode='loss')


def test_temperatures_of_unknown_losses_or_keys_are_explained():
    for settings, message in (
        (dict(loss_patch=dict(temps=(0.1, 0.1))), 'teacher_temp_of.loss_patch: unknown temps; accepted: temp'),
        (dict(loss_patch=dict(temp=(0.0, 0.1))), 'teacher_temp_of.loss_patch=.*both ends must be positive'),
        (dict(loss_patch=(0.04, 0.07)), r'teacher_temp_of.loss_patch=\(0.04, 0.07\) must be a dict'),
        (dict(loss_patch=dict(start_epoch=-1)), 'teacher_temp_of.loss_patch: start_epoch=-1 must not be negative'),
    ):
        with pytest.raises(ValueError, match=message):
            DistillationScheduleHook(teacher_temp_of=settings)
    hook, model = DistillationScheduleHook(warmup_epochs=0, teacher_temp_of=dict(loss_patch=dict())), build(type='DINO')
    runner = stand_in(model, SelfDistillationOptimConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3)))(model), 2, 2)
    hook.before_run(runner)
    with pytest.raises(
        ValueError, match='teacher_temp_of.loss_patch: the model has no loss of this name; available: loss_cls'
    ):
        hook.before_train(runner)
