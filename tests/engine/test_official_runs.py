"""Runs of the published training scripts go on here where they stopped."""

import pytest
import torch
from mmengine.hooks import Hook
from places import GOLDEN_CHECKPOINTS

from mmadclr.checkpoint import read_checkpoint
from mmadclr.engine import Runner
from mmadclr.hub.conversion import convert


def sizes_of(system, config):
    """Settings of our config that fit a published file."""
    epochs, patch = config['epoch'], config['patch_size']
    own = {
        'ibot': {'train_dataloader.dataset.transform.mask.patch_size': patch},
        # Two patches a side: of a single one there are no neighbors.
        'selfpatch': {
            'model.head.norm_last_layer': True,
            'model.patch_head.out_dim': config.get('out_dim_selfpatch'),
            'train_dataloader.dataset.transform.local_size': 2 * patch,
        },
    }
    return {
        'model.backbone.arch': {k: config[k] for k in ('embed_dim', 'depth', 'num_heads', 'patch_size')},
        'model.backbone.img_size': config['img_size'],
        **{f'model.head.{k}': config[k] for k in ('out_dim', 'hidden_dim', 'bottleneck_dim')},
        'model.head.norm_last_layer': False,
        'train_cfg.max_epochs': epochs + 1,
        **own.get(system, {}),
    }


class Witness(Hook):
    """Keeps the state that the first iteration meets."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if not hasattr(self, 'epoch'):
            self.epoch = runner.epoch
            self.weights = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
            self.steps = {int(state['step']) for state in runner.optim_wrapper.optimizer.state.values()}


def test_official_files_are_pointed_to_the_converter(small_config):
    cfg = small_config({'resume': True, 'load_from': str(GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth')})
    with pytest.raises(ValueError, match=r'has no message_hub, meta, state_dict.*mmadclr convert --to mmadclr'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('system', ['dino', 'ibot', 'selfpatch'])
def test_official_runs_go_on(golden, system, small_config, tmp_path):
    published = golden(f'checkpoints/{system}_expected').config
    path = golden.path(f'checkpoints/{system}_checkpoint.pth')
    convert(path, tmp_path / 'start.pth', 'mmadclr', num_heads=published['num_heads'])
    config = f'configs/demo/{system}_vittiny_shapes.py'
    resume = {'resume': True, 'load_from': str(tmp_path / 'start.pth')}
    runner = Runner.from_cfg(small_config({**sizes_of(system, published), **resume}, config=config))
    witness = Witness()
    runner.register_hook(witness)
    runner.train()
    converted = read_checkpoint(tmp_path / 'start.pth')
    assert witness.epoch == published['epoch']
    assert max(witness.steps) == converted['meta']['iter']  # prototypes stood still for an epoch
    assert witness.weights.keys() == converted['state_dict'].keys()
    assert all(torch.equal(tensor, converted['state_dict'][name]) for name, tensor in witness.weights.items())
    assert (runner.epoch, runner.iter) == (published['epoch'] + 1, 3 * (published['epoch'] + 1))  # 12 images, 4 a batch
    assert not torch.equal(runner.model.state_dict()['loss_cls.center'], witness.weights['loss_cls.center'])
