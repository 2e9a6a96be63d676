"""The parts that behave differently on a GPU; skipped without one."""

import pytest
import torch

from mmadclr.datasets import MultiCrop, collate_samples
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.models.backbones.query_block import has_fused_attention
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.heads import DINOHead
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.registry import MODELS

pytestmark = pytest.mark.gpu


@pytest.fixture
def batch():
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    transform = MultiCrop(global_size=32, local_size=16, num_local=3, query_size=8, num_query=2, local=dict(blur=0.5))
    images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(8)]
    samples = [transform(dict(image=image, rng=rng, index=i)) | dict(unreadable=[]) for i, image in enumerate(images)]
    return collate_samples(samples)


def build(joint_resolutions=None, **overrides):
    torch.manual_seed(0)
    arch = dict(embed_dim=48, depth=2, num_heads=3, patch_size=8)
    backbone = dict(type='QueryViT', arch=arch, img_size=32, joint_resolutions=joint_resolutions)
    head = dict(type='DINOHead', out_dim=64, hidden_dim=48, bottleneck_dim=16)
    return MODELS.build(dict(type='ADCLR', backbone=backbone, head=head, loss_cls=dict(logits_mib=0.01), **overrides))


def test_augmented_views_are_those_of_the_cpu(batch):
    cpu, gpu = ViewPreprocessor(), ViewPreprocessor().cuda()
    expected, got = cpu(batch, True)['views'], gpu(batch, True)['views']
    for name, value in expected.items():
        assert got[name].is_cuda
        torch.testing.assert_close(got[name].cpu(), value, rtol=0, atol=1e-5)


def test_compiled_colors_are_those_of_the_cpu_and_wait_for_nothing(batch):
    cpu, gpu = ViewPreprocessor(), ViewPreprocessor().cuda()
    gpu.compile_colors()
    expected = cpu(batch, True)['views']
    pinned = {name: value.pin_memory() if name.endswith('_views') else value for name, value in batch.items()}
    first = gpu(pinned, True)['views']
    torch.cuda.set_sync_debug_mode('error')
    try:
        second = gpu(pinned, True)['views']
    finally:
        torch.cuda.set_sync_debug_mode('default')
    for name, value in expected.items():
        torch.testing.assert_close(first[name].cpu(), value, rtol=0, atol=2e-4)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize('arithmetic', ['float', 'pillow'])
@pytest.mark.parametrize('there', [False, True])  # as a prefetcher leaves it: crops on the device, parameters not
def test_augmentation_does_not_wait_for_the_gpu(batch, arithmetic, there):
    preprocessor = ViewPreprocessor(arithmetic=arithmetic).cuda()
    batch = {
        name: value if not name.endswith('_views') else value.cuda() if there else value.pin_memory()
        for name, value in batch.items()
    }
    first = preprocessor(batch, True)['views']  # constants are made once
    torch.cuda.set_sync_debug_mode('error')
    try:
        second = preprocessor(batch, True)['views']
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_losses_and_gradients_are_those_of_the_cpu(batch):
    cpu, gpu = build(), build().cuda()
    for model in (cpu, gpu):
        views = model.data_preprocessor(batch, True)['views']
        losses = model.loss(**views)
        sum(losses.values()).backward()
        model.losses = {name: value.detach().cpu() for name, value in losses.items()}
    for name, value in cpu.losses.items():
        torch.testing.assert_close(gpu.losses[name], value, rtol=0, atol=1e-4)
    for (name, a), b in zip(cpu.student.named_parameters(), gpu.student.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=0, atol=1e-3, msg=name)


def test_bf16_step_keeps_the_teacher_in_fp32(batch):
    model = build().cuda()
    with torch.autocast('cuda', dtype=torch.bfloat16):
        losses = model.loss(**model.data_preprocessor(batch, True)['views'])
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    model.after_step()
    assert all(p.dtype == torch.float32 for p in model.teacher.parameters())
    assert all(loss.center.isfinite().all() for loss in model.distillation_losses())


def test_a_step_never_waits_for_the_device(batch):
    model = build().cuda()
    wrapper = SelfDistillationOptimConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3), max_norm=1.0))(model)
    batch = {name: value.pin_memory() if name.endswith('_views') else value for name, value in batch.items()}
    model.train_step(batch, wrapper)  # memory and kernels of the first time
    before = [
        tensor.clone() for tensor in (model.teacher.backbone.pos_embed, model.loss_cls.center, model.loss_query.center)
    ]
    torch.cuda.set_sync_debug_mode('error')  # any wait raises
    try:
        losses = model.train_step(batch, wrapper)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    after = (model.teacher.backbone.pos_embed, model.loss_cls.center, model.loss_query.center)
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # and it was a whole step
    assert all(loss.is_cuda for loss in losses.values())


def test_chunks_in_bf16_are_as_exact_as_fp32_logits_make_them(batch):
    """Products accumulate in single precision, so chunks differ from fp32 by the rounding of their inputs alone."""
    torch.manual_seed(0)
    features = [torch.randn(views, 8, 24, device='cuda') for views in (4, 2)]
    heads = [DINOHead(24, 4096, hidden_dim=32, bottleneck_dim=64).cuda() for _ in range(2)]
    losses = []
    for low in (False, True):
        projections = [head.project(x) for head, x in zip(heads, features, strict=True)]
        with torch.autocast('cuda', dtype=torch.bfloat16, enabled=low):
            losses.append(SelfDistillationLoss(4096, logits_mib=0.5).cuda()(*projections))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)


@pytest.fixture
def compiler():
    """Anew for each test, and with errors raised: by default, what does not compile runs as it is."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def compile_strictly(model, setting):
        assert compile_blocks(model, setting) == bool(setting)
        torch._dynamo.config.suppress_errors = False

    yield compile_strictly
    torch._dynamo.reset()


def test_compiled_blocks_change_nothing(batch, compiler):
    plain, compiled = build().cuda(), build().cuda()
    compiler(compiled, 'auto')
    views = plain.data_preprocessor(batch, True)['views']
    for name, value in plain.loss(**views).items():
        torch.testing.assert_close(compiled.loss(**views)[name], value, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0


@pytest.mark.parametrize('setting', [dict(mode='reduce-overhead'), dict(scope='backbone'), True])
@pytest.mark.parametrize('accumulated', [1, 2])
def test_compiled_training_is_that_of_plain_blocks(batch, compiler, setting, accumulated):
    """Several steps, so that CUDA graphs are recorded, replayed and overwritten, also between accumulated batches."""
    networks = []
    for compiled in (False, setting):
        model = build().cuda()
        compiler(model, compiled)
        settings = dict(optimizer=dict(type='AdamW', lr=1e-3), precision='fp32', accumulative_counts=accumulated)
        wrapper = SelfDistillationOptimConstructor(settings)(model)
        wrapper.initialize_count_status(model, 0, 6)
        losses = [model.train_step(batch, wrapper)['loss'].item() for _ in range(6)]
        networks.append((losses, [p.detach().cpu() for p in model.teacher.parameters()]))
    (plain, teacher), (got, other) = networks
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    assert not torch._dynamo.utils.counters['inductor']['cudagraph_skips']
    assert got == pytest.approx(plain, abs=2e-3)
    for a, b in zip(other, teacher, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


@pytest.mark.parametrize('lever', [dict(teacher_copies=True), dict(joint_resolutions=False)])
def test_levers_give_the_same_losses_and_wait_for_nothing(batch, lever):
    losses = []
    for overrides in ({}, lever):
        model = build(**overrides).cuda()
        wrapper = SelfDistillationOptimConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3)))(model)
        pinned = {name: value.pin_memory() if name.endswith('_views') else value for name, value in batch.items()}
        for _ in range(2):
            model.train_step(pinned, wrapper)
        torch.cuda.set_sync_debug_mode('error')
        try:
            loss = model.train_step(pinned, wrapper)['loss']
        finally:
            torch.cuda.set_sync_debug_mode('default')
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=2e-2)


@pytest.mark.parametrize('task', ['mask-rcnn', 'upernet'])
def test_dense_tasks_train_in_bf16(task, tmp_path):
    pytest.importorskip({'mask-rcnn': 'mmdet', 'upernet': 'mmseg'}[task])
    from mmengine.config import Config
    from places import REPO

    from mmadclr.engine import Runner

    cfg = Config.fromfile(REPO / f'configs/benchmarks/demo/{task}_shapes.py')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].update(batch_size=2, num_workers=0, persistent_workers=False)
        cfg[name].dataset.update(data_root=str(tmp_path / 'data'), num_train=10, num_val=10)
    if task == 'mask-rcnn':
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{tmp_path}/data/annotations/instances_val.json'
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), f'{tmp_path.name}_{task}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.optim_wrapper.dtype is torch.bfloat16
    for name, parameter in runner.model.named_parameters():
        assert parameter.is_cuda, name
        assert torch.isfinite(parameter).all(), name


def test_attention_has_a_fused_kernel():
    assert has_fused_attention(64, torch.device('cuda'), torch.bfloat16)
    assert has_fused_attention(64, torch.device('cuda'), torch.float32)
