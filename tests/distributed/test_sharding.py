"""Choices of ``sharding`` and DDP settings; what shards compute is in ``test_distributed.py``."""

import pytest
import torch
from torch import nn

from mmadclr.config.check import check_config
from mmadclr.distributed.shards import full_norms, local_tensors
from mmadclr.engine import Runner
from mmadclr.models.sharding import shard_model


def test_sharding_is_a_key_of_a_run():
    check_config({'sharding': 'fsdp'}, overrides=['sharding'])


def test_unknown_sharding(small_config):
    with pytest.raises(ValueError, match="sharding='zero3': choose 'fsdp', 'fsdp-grad-op', or None"):
        Runner.from_cfg(small_config({'sharding': 'zero3'}))


def test_sharding_and_a_wrapper(small_config):
    overrides = {'sharding': 'fsdp', 'model_wrapper_cfg': dict(type='MMDistributedDataParallel')}
    with pytest.raises(ValueError, match="sharding='fsdp' and model_wrapper_cfg cannot be combined: remove one"):
        Runner.from_cfg(small_config(overrides))


def test_sharding_of_another_model():
    with pytest.raises(ValueError, match='requires a pretraining method, not Linear: remove the key'):
        shard_model(nn.Linear(2, 2), 'fsdp')


def test_single_process_says_that_sharding_has_no_effect(small_config):
    runner = Runner.from_cfg(small_config({'sharding': 'fsdp'}))
    assert not runner.sharded
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert "sharding='fsdp' has no effect with a single process: parameters are not sharded" in log


def test_norms_and_parts_of_whole_tensors():
    tensors = [torch.tensor([3.0, 4.0]), torch.full((2, 2), 2.0), torch.empty(0)]
    assert [norm.item() for norm in full_norms(tensors)] == [5.0, 4.0, 0.0]
    assert all(part is tensor for part, tensor in zip(local_tensors(tensors), tensors, strict=True))
