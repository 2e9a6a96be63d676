"""Changes of the recipe by ``--cfg-options``: which are refused, which hold, and that the plan tells what is trained."""

import pytest
from mmengine.config import Config
from places import REPO
from public_folders import write_folder

from mmadclr.adaptation.changes import FIXED, as_built, as_texts, check_changes, with_changes
from mmadclr.adaptation.plan import choose_sizes, make_plan
from mmadclr.cli.main import main
from mmadclr.cli.parsers import command_parser

MANY = {
    'model.anchor': 'None',
    'model.frozen_blocks': '0',
    'model.head.out_dim': '96',
    'optim_wrapper.optimizer.lr': '0.0005',
    'optim_wrapper.max_norm': '3.0',
    'train_cfg.max_epochs': '2',
    'train_cfg.val_interval': '1',
    'default_hooks.schedule.freeze_backbone_epochs': '1',
    'train_dataloader.batch_size': '4',
    'train_dataloader.dataset.transform.local_size': '14',
    'train_dataloader.dataset.transform.num_local': '2',
}


@pytest.fixture
def arguments(image_folder, tmp_path):
    """The arguments of the command; other options by name."""

    def make(**options):
        folder = tmp_path / 'images'
        folder = folder if folder.exists() else image_folder(count=20, size=(40, 44))
        given = dict(weights=tmp_path / 'weights', data=folder, size=28, budget='10m', workers=0)
        given['weights'].exists() or write_folder(given['weights'])
        given |= {'work-dir': tmp_path / 'out'} | options
        return ['adapt', *(str(part) for name, value in given.items() for part in (f'--{name}', value))]

    return make


def as_options(changes):
    return ['--cfg-options', *(f'{key}={value}' for key, value in changes.items())]


def test_what_the_command_decides_is_refused_with_what_to_use_instead():
    for key, why in FIXED.items():
        for changed in (key, f'{key}.x', key.rpartition('.')[0] or key):
            with pytest.raises(ValueError, match='is not possible in adapt: ') as caught:
                check_changes({'model.anchor': None, changed: 1})
            assert changed in str(caught.value)
        if changed == key:
            assert why in str(caught.value)
    check_changes(dict.fromkeys(MANY, 1))
    for key in ('train_cfg.max_epochs', 'train_cfg.val_interval', 'train_dataloader.batch_size'):
        for number in (0, 2.5, None, 'ten', True):
            with pytest.raises(ValueError, match=f'{key}={number} must be a whole number of at least 1'):
                check_changes({key: number})


def test_arguments_of_the_command_are_not_settings_as_well():
    """Each argument that is a part of the config is refused as a change of it, with its name."""
    named = {why.rpartition('--')[2].split(':')[0] for why in FIXED.values() if '--' in why}
    parser = command_parser('adapt', 'mmadclr adapt')
    options = {action.option_strings[0].removeprefix('--') for action in parser._actions}
    assert named <= options
    others = {'masks', 'labels', 'budget', 'cfg-options', 'dry-run', 'gpus', 'local_rank', '-h'}
    others |= {'which', 'prefix', 'num-heads', 'fact'}  # how the weights are read
    assert options - others == named


def test_a_change_replaces_what_the_plan_sets_below_it():
    options = {'a.b': 1, 'a.b2': 2, 'c.d.e': 3}
    assert with_changes(options, {'a.b': 5, 'c.d': None}) == {'a.b': 5, 'a.b2': 2, 'c.d': None}
    assert as_texts({'b': (1, 2), 'a': None, 'c': 'x'}) == ['a=None', 'b=(1, 2)', "c='x'"]


def test_the_plan_tells_what_is_changed(arguments, capsys):
    main([*arguments(), '--dry-run', *as_options(MANY)])
    told = {line[:9].strip(): line[9:] for line in capsys.readouterr().out.splitlines()}
    assert told['length'] == '10 steps of 4 images = 2 epochs'
    assert told['views'].startswith('28 and 14 pixels')
    assert told['heads'] == '96 prototypes; alone for the first 50% of the steps'
    assert told['backbone'] == 'peak rate 0.0005; the first 0 blocks are frozen'
    assert '2 times in the run' in told['measures']
    assert 'model.anchor=None' in told['changed']


def value_at(node, key):
    for part in key.split('.'):
        node = node[part]
    return node


@pytest.mark.parametrize(
    ('interval', 'begin', 'expected'), [(1, 1, 7), (2, 1, 4), (7, 1, 1), (9, 1, 1), (2, 4, 3), (1, 8, 0)]
)
def test_evaluations_are_counted_as_the_loop_makes_them(interval, begin, expected):
    plan = make_plan(choose_sizes(14, (518, 518), None), 1000, 64, dict(embed_dim=384, depth=12), 0.1, 600, epochs=7)
    cfg = Config.fromfile(REPO / 'configs/adapt/dino.py')
    cfg.train_cfg.update(val_interval=interval, val_begin=begin)
    built = as_built(plan, cfg)
    assert built.evaluations == expected
    assert (built.prototypes, built.lr, built.frozen_blocks, built.heads_epochs) == (1024, 5e-5, 0, 4)


@pytest.mark.slow
def test_changes_are_trained_recorded_and_compared_with_those_of_a_continued_run(arguments, tmp_path, capsys):
    main([*arguments(method='dino'), *as_options(MANY)])
    cfg = Config.fromfile(tmp_path / 'out' / 'adapt.py')
    for key, value in MANY.items():
        assert str(value_at(cfg, key)) == value
    log = next((tmp_path / 'out').glob('2*/vis_data/scalars.json')).read_text()
    assert 'loss_anchor' not in log
    capsys.readouterr()
    main([*arguments(method='dino'), *as_options(dict(reversed(MANY.items())))])
    assert 'continuing the run' in capsys.readouterr().out
    for changes in ({}, MANY | {'model.frozen_blocks': '1'}):
        with pytest.raises(SystemExit, match='has a run with --cfg-options .*model.frozen_blocks=0.*, not ') as caught:
            main([*arguments(method='dino'), *(as_options(changes) if changes else [])])
        assert '\n' not in str(caught.value.code)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model.anchr': 'None'}, 'did you mean anchor'),
        ({'data_root': 'x'}, 'error: --cfg-options data_root=x is not possible in adapt: the images are those of --data'),
        (
            {'train_dataloader.batch_size': '21'},
            r'batch_size=21 on 1 process\(es\) is more than the 20 images in .*: at most 20',
        ),
        ({'train_dataloader.dataset.transform.local_size': '15'}, 'local_size=15 must be a multiple of the patch size 7'),
        ({'default_hooks.schedule.momentum': '(2.0,2.0)'}, 'momentum'),
    ],
)
def test_changes_that_cannot_be_are_refused_before_anything_is_measured(changes, message, arguments, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main([*arguments(), *as_options(changes)])
    assert not (tmp_path / 'out').exists()


def test_masks_with_an_untrained_token_are_told(arguments, capsys):
    options = ['--dry-run', '--cfg-options', 'model.mask_student=True', 'train_cfg.max_epochs=1']
    main([*arguments(method='ibot'), *options])
    assert 'its mask token was never trained, but patches are masked all the same' in capsys.readouterr().out
