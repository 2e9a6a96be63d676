"""Runs of the published training scripts go on here where they stopped."""

import pytest
import torch
from mmengine.hooks import Hook
from places import GOLDEN_CHECKPOINTS

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.conversion import convert
from mmadclr.engine import Runner

SIZES = {
    'model.backbone.arch': dict(embed_dim=12, depth=2, num_heads=3, patch_size=16),
    'model.backbone.img_size': 224,
    'model.head.out_dim': 64,
    'model.head.hidden_dim': 32,
    'model.head.bottleneck_dim': 16,
    'model.head.norm_last_layer': False,
    'train_cfg.max_epochs': 3,
}
OWN = {
    'ibot': {'train_dataloader.dataset.transform.mask.patch_size': 16},
    # Two patches a side: of a single one there are no neighbours.
    'selfpatch': {
        'model.head.norm_last_layer': True,
        'model.patch_head.out_dim': 32,
        'train_dataloader.dataset.transform.local_size': 32,
    },
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
    with pytest.raises(ValueError, match=r'holds no message_hub, meta, state_dict.*tools/convert\.py --to mmadclr'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('system', ['dino', 'ibot', 'selfpatch'])
def test_official_runs_go_on(system, small_config, tmp_path):
    convert(GOLDEN_CHECKPOINTS / f'{system}_checkpoint.pth', tmp_path / 'start.pth', 'mmadclr', num_heads=3)
    own = OWN.get(system, {})
    config = f'configs/demo/{system}_vittiny_shapes.py'
    resume = {'resume': True, 'load_from': str(tmp_path / 'start.pth')}
    runner = Runner.from_cfg(small_config({**SIZES, **own, **resume}, config=config))
    witness = Witness()
    runner.register_hook(witness)
    runner.train()
    converted = read_checkpoint(tmp_path / 'start.pth')
    assert witness.epoch == 2
    assert max(witness.steps) == converted['meta']['iter']  # prototypes stood still for an epoch
    assert witness.weights.keys() == converted['state_dict'].keys()
    assert all(torch.equal(tensor, converted['state_dict'][name]) for name, tensor in witness.weights.items())
    assert (runner.epoch, runner.iter) == (3, 9)
    assert not torch.equal(runner.model.state_dict()['loss_cls.centre'], witness.weights['loss_cls.centre'])
