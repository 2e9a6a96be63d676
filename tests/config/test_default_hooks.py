import copy

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.default_hooks import PRETRAINING, default_hooks
from mmadclr.engine import Runner

RUN = dict(train_cfg=dict(max_epochs=1))


def test_a_pretraining_config_that_names_none_has_all():
    assert default_hooks(RUN) == default_hooks({**RUN, 'default_scope': 'mmadclr', 'default_hooks': None}) == PRETRAINING


def test_arguments_are_changed_one_by_one_and_types_replace_all():
    own = dict(checkpoint=dict(interval=7), runtime_info=dict(type='RuntimeInfoHook'), monitor=None, mine=dict(type='X'))
    own['throughput'] = dict(_delete_=True, type='ThroughputHook', priority=3)
    found = default_hooks({**RUN, 'default_hooks': own})
    assert found['checkpoint'] == dict(type='SafeCheckpointHook', interval=7, minutes=30, max_keep_ckpts=2)
    assert found['runtime_info'] == dict(type='RuntimeInfoHook')
    assert found['monitor'] is None
    assert found['mine'] == dict(type='X')
    assert found['throughput'] == dict(type='ThroughputHook', priority=3)
    assert found['watchdog'] == PRETRAINING['watchdog']


@pytest.mark.parametrize('cfg', [dict(default_scope='mmdet', **RUN), dict(default_scope='mmadclr')], ids=['other', 'no run'])
def test_other_configs_keep_what_they_have(cfg):
    assert default_hooks({**cfg, 'default_hooks': dict(timer=dict(type='IterTimerHook'))}).keys() == {'timer'}


def test_complete_ones_stay_as_they_are_and_nothing_is_changed_in_place():
    before = copy.deepcopy(PRETRAINING)
    once = default_hooks({**RUN, 'default_hooks': dict(checkpoint=dict(interval=7))})
    assert default_hooks({**RUN, 'default_hooks': once}) == once
    once['watchdog']['timeout_s'] = 1
    assert before == PRETRAINING


def test_no_schedule_of_the_tree_repeats_them():
    for path in (REPO / 'configs' / '_base_' / 'schedules').glob('*.py'):
        own = Config.fromfile(path).get('default_hooks', {})
        assert not {name for name, hook in own.items() if hook == PRETRAINING.get(name)}, path


def test_typos_in_hooks_without_a_type_are_found():
    with pytest.raises(ConfigError, match=r'default_hooks\.checkpoint\.intervall: .*did you mean interval\?'):
        check_config({**RUN, 'default_hooks': dict(checkpoint=dict(intervall=3))})


def test_a_run_without_default_hooks_is_guarded_all_the_same(small_config):
    cfg = small_config()
    schedule = cfg.default_hooks.schedule
    cfg.default_hooks = dict(schedule=schedule, monitor=None, watchdog=None)
    names = {type(hook).__name__ for hook in Runner.from_cfg(cfg).hooks}
    kept = {hook['type'] for name, hook in PRETRAINING.items() if name not in ('monitor', 'watchdog')}
    assert kept < names
    assert not names & {'CollapseMonitorHook', 'WatchdogHook', 'CheckpointHook'}
