"""What must be alike, found by what the configs say."""

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.compare.protocol import ASPECTS, check_alike

DEMO = REPO / 'configs/demo'


def load(*files):
    return {file: Config.fromfile(DEMO / f'{file}.py') for file in files}


def changed(changes):
    configs = load('dino_vittiny_shapes', 'adclr_vittiny_shapes')
    configs['adclr_vittiny_shapes'].merge_from_dict(changes)
    return configs


def test_methods_of_the_demo_differ_in_the_method_alone():
    files = [path.stem for path in sorted(DEMO.glob('*.py')) if 'mocov3' not in path.stem]
    assert len(files) >= 6
    assert check_alike(load(*files), allowed=()) == []


def test_ablations_differ_in_the_method_alone():
    files = [f'ablations/{path.stem}' for path in sorted((DEMO / 'ablations').glob('*.py')) if 'local' not in path.stem]
    assert len(files) >= 12
    assert check_alike(load('adclr_vittiny_shapes', *files), allowed=()) == []


def test_other_local_views_are_refused_or_noted():
    configs = load('adclr_vittiny_shapes', 'mocov3_vittiny_shapes', 'ablations/no_local_crops')
    with pytest.raises(ValueError, match=r'mocov3.* and adclr.* differ in local_views: .*num_local is 0 vs\. 2.*--allow'):
        check_alike(configs, allowed=['data'])
    notes = check_alike(configs, allowed=['local_views'])
    assert [note.split()[0] for note in notes] == ['mocov3_vittiny_shapes', 'ablations/no_local_crops']


@pytest.mark.parametrize(
    ('aspect', 'key', 'value'),
    [
        ('data', 'train_dataloader.dataset.data_root', 'elsewhere'),
        ('data', 'train_dataloader.dataset.num_train', 100),
        ('batch', 'train_dataloader.batch_size', 32),
        ('batch', 'optim_wrapper.accumulative_counts', 2),
        ('epochs', 'train_cfg.max_epochs', 51),
        ('network', 'model.backbone.arch.depth', 4),
        ('network', 'model.backbone.img_size', 64),
        ('global_views', 'train_dataloader.dataset.transform.global_scale', (0.2, 1.0)),
        ('global_views', 'train_dataloader.dataset.transform.global_2.hue', 0.1),
        ('local_views', 'train_dataloader.dataset.transform.local_size', 24),
        ('evaluation', 'val_evaluator.knn.k', 10),
        ('evaluation', 'val_evaluator.dense.bank_size', 10),
    ],
)
def test_every_aspect_is_looked_at(aspect, key, value):
    others = [name for name in ASPECTS if name != aspect]
    with pytest.raises(ValueError, match=f'differ in {aspect}: {key} is '):
        check_alike(changed({key: value}), allowed=others)
    (note,) = check_alike(changed({key: value}), allowed=[aspect])
    assert note.startswith(f'adclr_vittiny_shapes differs from dino_vittiny_shapes in {aspect}: {key} is ')


@pytest.mark.parametrize('key', ['optim_wrapper.optimizer.lr', 'model.head.out_dim'])
def test_settings_of_a_method_are_its_own(key):
    assert check_alike(changed({key: 5}), allowed=()) == []
