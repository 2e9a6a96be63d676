"""bf16 copies of the teacher's matrices: the losses and weights of training without them, to the bit."""

import copy
import math

import pytest
import torch
from comparisons import assert_same_state
from counters import CallCounter
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from places import REPO
from torch import distributed, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine import Runner
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.sharding import shard_model
from mmadclr.registry import MODELS

ARCH = dict(embed_dim=24, depth=3, num_heads=3, patch_size=8)
METHODS = ['dino', 'adclr', 'ibot', 'adclr_ibot', 'pqcl', 'selfpatch', 'mocov3', 'adclr_mocov3']
BF16 = torch.autocast('cpu', torch.bfloat16)


def build(method='adclr', teacher_copies=True, depth=3, **options):
    cfg = Config.fromfile(REPO / f'configs/demo/{method}_vittiny_shapes.py').model
    cfg.backbone.arch, cfg.data_preprocessor = {**ARCH, 'depth': depth}, dict(type='BaseDataPreprocessor')
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build({**cfg, 'teacher_copies': teacher_copies, **options}))


def draw_views(method='adclr', seed=1):
    torch.manual_seed(seed)
    views = dict(
        global_views=torch.randn(2, 2, 3, 32, 32),
        local_views=torch.randn(2, 0 if 'mocov3' in method else 3, 3, 16, 16),
        query_crops=torch.randn(2, 2, 0 if method in ('dino', 'ibot', 'selfpatch', 'mocov3') else 2, 3, 16, 16),
    )
    if method in ('ibot', 'adclr_ibot', 'pqcl'):
        views['masks'] = PatchMasks.of(torch.rand(2, 2, 4, 4) < 0.3)
    if method == 'pqcl':
        views['query_boxes'] = torch.rand(2, 2, 2, 4)
    return views


def steps_of(model, precision='bf16'):
    """A function that makes a training step, and the model."""
    inner = unwrapped(model)
    optimizer = dict(optimizer=dict(type='AdamW', lr=1e-2), precision=precision, max_norm=1.0)
    wrapper = SelfDistillationOptimConstructor(optimizer)(model)
    inner.teacher_momentum = 0.7
    return lambda views: model.train_step(dict(views=views), wrapper)


def train(model, method='adclr', number=4, skipped=()):
    step, losses = steps_of(model), []
    for i in range(number):
        views = draw_views(method, seed=i)
        if i in skipped:
            views['global_views'][0, 0, 0, 0, 0] = math.nan
        losses.append(step(views))
    return losses


def assert_same_training(losses, models):
    for ours, plain in zip(*losses, strict=True):
        for name in plain:
            torch.testing.assert_close(ours[name], plain[name], rtol=0, atol=0, equal_nan=True)
    assert_same_state(*(model.state_dict() for model in models))


@pytest.mark.parametrize('method', METHODS)
def test_losses_and_weights_of_several_steps_are_equal_to_the_bit(method):
    models = [build(method, choice) for choice in (True, False)]
    start = copy.deepcopy(models[0].teacher.state_dict())
    assert_same_training([train(model, method) for model in models], models)
    assert any(not torch.equal(start[name], value) for name, value in models[0].teacher.state_dict().items())
    assert models[0].copies.copies  # they were used


@pytest.mark.parametrize('method', ['adclr', 'ibot'])
def test_a_skipped_step_changes_nothing(method):
    models = [build(method, choice) for choice in (True, False)]
    losses = [train(model, method, skipped=(1,)) for model in models]
    assert losses[0][1]['loss'].isnan()
    assert losses[0][3]['loss'].isfinite()
    assert_same_training(losses, models)


@pytest.mark.parametrize('options', [dict(teacher_queries='alone'), dict(shared_head=False)], ids=str)
def test_whatever_the_teacher_is_asked(options):
    models = [build(teacher_copies=choice, **options) for choice in (True, False)]
    assert_same_training([train(model) for model in models], models)


class Dtypes:
    """Of the parameters that a forward pass computes with."""

    def __init__(self, network):
        self.seen = {}
        for name, module in network.named_modules():
            module.register_forward_pre_hook(lambda module, args, name=name: self.note(name, module))

    def note(self, name, module):
        self.seen |= {f'{name}.{key}': p.dtype for key, p in module.named_parameters(recurse=False)}


def test_matrices_alone_are_low_and_only_for_the_loss():
    model = build()
    memory = {name: p.data_ptr() for name, p in model.named_parameters()}
    student, teacher = Dtypes(model.student), Dtypes(model.teacher)
    with BF16:
        model(draw_views(), mode='loss')
    layers = {name for name, module in model.teacher.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    low = {name for name, dtype in teacher.seen.items() if dtype == torch.bfloat16}
    read_without_a_call = {'backbone.blocks.2.attn.qkv', 'backbone.patch_embed.proj'}
    assert read_without_a_call < layers
    assert {name.rpartition('.')[0] for name in low} == layers - read_without_a_call
    assert teacher.seen['backbone.norm.weight'] == teacher.seen['backbone.pos_embed'] == torch.float32
    assert set(student.seen.values()) == {torch.float32}
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == memory
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with BF16:
        model(images=torch.randn(2, 3, 32, 32))
    assert teacher.seen['backbone.blocks.0.mlp.fc1.weight'] == torch.float32  # features come from the masters


def test_masters_are_back_when_the_loss_raises():
    model = build()
    model.loss_cls.register_forward_hook(lambda *_: 1 / 0)
    with BF16, pytest.raises(ZeroDivisionError):
        model(draw_views(), mode='loss')
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize('context', [torch.autocast('cpu', torch.float16), torch.autocast('cpu', enabled=False)])
def test_under_other_precisions_nothing_happens(context):
    model, plain = (build(teacher_copies=choice) for choice in (True, False))
    seen = Dtypes(model.teacher).seen
    with context:
        losses = model(draw_views(), mode='loss')
        for name, value in plain(draw_views(), mode='loss').items():
            assert torch.equal(losses[name], value)
    assert set(seen.values()) == {torch.float32}
    assert not model.copies.copies


CHANGES = {
    'data': lambda model: [p.data.mul_(1.5) for p in model.teacher.parameters()],
    'drawn': lambda model: (torch.manual_seed(5), model.init_weights()),
    'loaded': lambda model: model.load_state_dict({k: 1.5 * v for k, v in model.state_dict().items()}),
    'assigned': lambda model: model.load_state_dict({k: 1.5 * v for k, v in model.state_dict().items()}, assign=True),
}


@pytest.mark.parametrize('change', CHANGES)
def test_there_are_no_stale_copies(change):
    """However the teacher changes between two batches, also behind the back of torch's version counters."""
    models, values = [build(teacher_copies=choice) for choice in (True, False)], []
    for model in models:
        with BF16:
            before = model(draw_views(), mode='loss')
            CHANGES[change](model)
            values.append(model(draw_views(), mode='loss'))
        assert not torch.equal(before['loss_cls'], values[-1]['loss_cls'])
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[1])


def test_copies_follow_to_another_device():
    """Here that of no memory, and back."""
    model = build()
    with BF16:
        model(draw_views(), mode='loss')
    state = model.state_dict()
    model.copies.copies = [value.to('meta') for value in model.copies.copies]  # as if the model had been elsewhere
    with BF16:
        losses = model(draw_views(), mode='loss')
        plain = build(teacher_copies=False)
        plain.load_state_dict(state)
        assert torch.equal(losses['loss_cls'], plain(draw_views(), mode='loss')['loss_cls'])
    assert {value.device.type for value in model.copies.copies} == {'cpu'}


def test_checkpoints_and_copies_of_the_model_do_not_know_of_them():
    models = [build(teacher_copies=choice) for choice in (True, False)]
    with BF16:
        models[0](draw_views(), mode='loss')
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert len([*models[0].parameters()]) == len([*models[1].parameters()])
    other = copy.deepcopy(models[0])
    with torch.no_grad():
        for parameter in other.teacher.parameters():
            parameter.zero_()
    with BF16:  # each has copies of its own teacher
        assert torch.equal(*(model(draw_views(), mode='loss')['loss_cls'] for model in models))
    assert other.copies.network is other.teacher


class NaNPixel(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            self.handle = runner.model.data_preprocessor.register_forward_hook(self.poison)

    def poison(self, preprocessor, args, output):
        output['views']['global_views'][0, 0, 0, 0, 0] = math.nan
        self.handle.remove()


def run(tmp_path, name, method, teacher_copies, **settings):
    """Two epochs of three batches in bf16; the second step is skipped."""
    cfg = Config.fromfile(REPO / f'configs/demo/{method}_vittiny_shapes.py')
    cfg.merge_from_dict(
        {
            'model.backbone.arch': ARCH,
            'model.teacher_copies': teacher_copies,
            'optim_wrapper.precision': 'bf16',
            'train_cfg.max_epochs': 2,
            'train_dataloader': dict(batch_size=4, num_workers=0, persistent_workers=False),
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
            'default_hooks.schedule': dict(warmup_epochs=1, momentum=(0.7, 0.9)),
            'default_hooks.checkpoint': dict(interval=1, max_keep_ckpts=-1),
            **settings,
        }
    )
    cfg.train_dataloader.dataset.update(data_root=str(tmp_path / 'shapes'), num_train=12, num_val=10, image_size=32)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir, cfg.experiment_name = str(tmp_path / name), f'{tmp_path.name}_{name}'
    runner = Runner.from_cfg(cfg)
    if not settings:
        runner.register_hook(NaNPixel())
    runner.train()
    assert runner.message_hub.get_info('skipped_steps') == 1
    return runner


@pytest.mark.parametrize('method', ['adclr', 'ibot'])
def test_runs_are_equal_and_go_on_from_either_kind_of_checkpoint(tmp_path, method):
    with_copies, plain = (run(tmp_path, f'copies_{choice}', method, choice) for choice in (True, False))
    state = plain.model.state_dict()
    assert_same_state(with_copies.model.state_dict(), state)
    for choice, source in ((True, plain), (True, with_copies), (False, with_copies)):
        resume = dict(resume=True, load_from=f'{source.work_dir}/epoch_1.pth')
        resumed = run(tmp_path, f'resumed_{choice}_{source is plain}', method, choice, **resume)
        assert_same_state(resumed.model.state_dict(), state)


def test_fewer_operations_are_dispatched():
    """Of each of its parameters the teacher has one cast less, and all of them have one operation instead.

    Weight and bias of the last block's qkv are cast in two halves.
    """
    counts = []
    for choice in (True, False):
        step = steps_of(build('dino', choice))
        step(draw_views('dino'))
        with CallCounter() as counter:
            step(draw_views('dino'))
        counts.append(counter)
    casts = 2 * (1 + 4 * ARCH['depth'] + 3) + 2  # patches, blocks, head
    assert counts[1].operations - counts[0].operations == casts - 1
    assert counts[1].names.count('_to_copy') - counts[0].names.count('_to_copy') == casts


@pytest.mark.long
@pytest.mark.parametrize('scope', ['block', 'backbone'])
def test_compiled_teachers_are_compiled_once(scope):
    torch._dynamo.reset()
    numbers, values = [], []
    for choice in (True, False):
        counter, model = CompileCounterWithBackend('aot_eager'), build(teacher_copies=choice, depth=2)
        assert compile_blocks(model, dict(backend=counter, scope=scope))
        values.append(train(model, number=1))
        numbers.append(counter.frame_count)
        values[-1] += train(model, number=2)
        assert counter.frame_count == numbers[-1]
        torch._dynamo.reset()
    assert numbers[0] == numbers[1]
    assert all(torch.equal(a['loss'], b['loss']) for a, b in zip(*values, strict=True))


@pytest.fixture
def one_process(tmp_path):
    """A process group of one."""
    distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_under_data_parallel_training_too(one_process):
    models = [build(teacher_copies=choice) for choice in (True, False)]
    wrapped = MMDistributedDataParallel(models[0], broadcast_buffers=False, static_graph=True, gradient_as_bucket_view=True)
    assert_same_training([train(model) for model in (wrapped, models[1])], models)


def test_shards_are_refused(one_process):
    model = build()
    shard_model(model, 'fsdp')
    with pytest.raises(ValueError, match='teacher_copies=True cannot be combined with sharding: remove one of them'):
        model(draw_views(), mode='loss')
