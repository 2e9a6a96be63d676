"""A training step under a wrapper asks the device for nothing, whatever the method.

Wrappers move what lies on the CPU to the device before the model sees it, so what the model fetches from its inputs counts,
too. On a CPU, operations that would wait are counted; on a GPU, torch raises at the first one.
"""

import numpy as np
import pytest
import torch
from counters import CallCounter
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from PIL import Image
from places import REPO
from torch import distributed

from mmadclr.datasets import MultiCrop, collate_samples
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.models.sharding import shard_model
from mmadclr.registry import MODELS

METHODS = ['dino', 'adclr', 'ibot', 'adclr_ibot', 'pqcl', 'selfpatch', 'mocov3', 'adclr_mocov3']
ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
methods = pytest.mark.parametrize('method', METHODS)


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, as torchrun would make it."""
    backend = 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo'
    distributed.init_process_group(backend, init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def build(method, device):
    cfg = Config.fromfile(REPO / f'configs/demo/{method}_vittiny_shapes.py')
    cfg.model.backbone.arch = ARCH
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device)
    return model, cfg.train_dataloader.dataset.transform


def draw_batch(transform, pinned):
    """What a loader yields: uint8 crops, parameters, boxes and masks, on the CPU."""
    rng = np.random.default_rng(0)
    draw = MultiCrop(**{name: value for name, value in transform.items() if name != 'type'})
    images = [Image.fromarray(p) for p in rng.integers(0, 256, (4, 60, 70, 3), dtype=np.uint8)]
    samples = [draw(dict(image=image, rng=rng, index=i, epoch=9)) for i, image in enumerate(images)]
    batch = collate_samples([sample | dict(unreadable=[]) for sample in samples])
    return {k: v.pin_memory() if pinned and torch.is_tensor(v) else v for k, v in batch.items()}


def optimizer_of(model):
    return SelfDistillationOptimConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3), max_norm=1.0))(model)


def step(model, wrapper, views):
    """What follows the preprocessor in ``MMDistributedDataParallel.train_step``."""
    with wrapper.optim_context(model):
        losses = model(**views, mode='loss')
    loss, logged = unwrapped(model).parse_losses(losses)
    wrapper.update_params(loss)
    return logged


@methods
@pytest.mark.parametrize('wrap', ['ddp', 'none'])
def test_a_step_fetches_nothing(one_process, method, wrap):
    model, transform = build(method, 'cpu')
    data = unwrapped(model).data_preprocessor(draw_batch(transform, pinned=False), True)
    wrapper = optimizer_of(model)
    if wrap == 'ddp':
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    step(model, wrapper, data)  # what is made once
    with CallCounter() as counter:
        step(model, wrapper, data)
    assert not counter.syncs, counter.syncs
    assert not counter.from_numbers
    assert counter.operations > 100


@methods
@pytest.mark.gpu
@pytest.mark.parametrize('wrap', ['ddp', 'fsdp'])
def test_a_step_under_a_wrapper_never_waits_for_the_gpu(one_process, method, wrap):
    model, transform = build(method, 'cuda')
    if wrap == 'fsdp':
        shard_model(model, 'fsdp')
    wrapper = optimizer_of(model)
    if wrap == 'ddp':
        model = MMDistributedDataParallel(model, device_ids=[0], broadcast_buffers=False, static_graph=True)
    *first, last = [draw_batch(transform, pinned=True) for _ in range(4)]
    for batch in first:  # memory, kernels and plans of the first times; with a static graph, DDP plans in the third
        step(model, wrapper, unwrapped(model).data_preprocessor(batch, True))
    torch.cuda.set_sync_debug_mode('error')  # any wait raises
    try:
        losses = step(model, wrapper, unwrapped(model).data_preprocessor(last, True))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(loss.is_cuda and loss.isfinite() for loss in losses.values())
