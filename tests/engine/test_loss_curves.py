"""A change that should not alter numbers shows the same losses: short training runs of every method, as committed.

``pytest tests/engine/test_loss_curves.py --record-curves`` writes the file anew, after a change that should.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from places import DATA

FILE = DATA / 'loss_curves.json'
METHODS = ['dino', 'adclr', 'ibot', 'adclr_ibot', 'selfpatch', 'pqcl', 'mocov3', 'adclr_mocov3']
# Large steps of everything that moves: in twelve of them a fault of any part shows in the losses.
SETTINGS = {
    'train_cfg.max_epochs': 4,
    'train_cfg.val_interval': 100,
    'optim_wrapper.max_norm': 0.3,
    'model.backbone.drop_path_rate': 0.2,
    'default_hooks.schedule.momentum': (0.9, 1.0),
    'default_hooks.checkpoint.interval': 100,
}
# Another processor or version of torch rounds otherwise; a fault of a formula is larger.
TOLERANCE = 1e-3


def machine():
    """What decides how sums are rounded: the processor, by name, family, model and what torch uses of it, and torch."""
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        text = ''
    processor = dict(re.findall(r'^(model name|cpu family|model|stepping)\s*: (.*)$', text, re.MULTILINE))
    return {**processor, 'instructions': torch.backends.cpu.get_cpu_capability(), 'torch': torch.__version__}


def curve_of(runner):
    scalars = runner.message_hub.log_scalars
    return {name.removeprefix('train/'): scalars[name].data[0].tolist() for name in sorted(scalars) if 'loss' in name}


def draws_as_recorded():
    torch.manual_seed(0)
    drawn = torch.nn.init.trunc_normal_(torch.empty(3), std=0.02)
    return torch.allclose(drawn, torch.tensor([-0.0002, 0.0147, -0.0270]), rtol=0, atol=1e-4)


@pytest.mark.parametrize('method', METHODS)
def test_losses_are_those_committed(train, method, request):
    found = curve_of(train(SETTINGS, config=f'configs/demo/{method}_vittiny_shapes.py'))
    known = json.loads(FILE.read_text()) if FILE.exists() else {'curves': {}}
    if request.config.getoption('record_curves'):
        known |= {'machine': machine(), 'curves': known['curves'] | {method: found}}
        FILE.write_text(json.dumps(known, indent=1) + '\n')
        pytest.skip(f'written to {FILE.name}')
    if not draws_as_recorded():
        pytest.skip(f'torch {torch.__version__} draws other initial weights')
    expected = known['curves'][method]
    assert found.keys() == expected.keys()
    assert {len(values) for values in found.values()} == {12}
    exact = known['machine'] == machine()
    for name, values in expected.items():
        assert found[name] == (values if exact else pytest.approx(values, rel=TOLERANCE)), name
