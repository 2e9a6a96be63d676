"""Which commands a comparison consists of."""

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.comparison.plan import Settings, identity_of, load_methods, plan, seeded, untrained

DEMO = REPO / 'configs/demo'
KNN = ('pretraining', 'knn')


def methods(*names, options=None, epochs=None):
    return load_methods([str(DEMO / f'{name}_vittiny_shapes.py') for name in names], options or {}, epochs)


def arguments(job):
    """Option -> values of a command line."""
    found, name = {}, ''
    for word in job.command:
        if word.startswith('--'):
            name = word
        found.setdefault(name, []).extend([] if word.startswith('--') else [word])
    return found


def test_pretraining_trains_the_resolved_config_with_its_seed(tmp_path):
    (method,) = methods('adclr', options={'model.query_weight': 0.25}, epochs=7)
    jobs = plan(method, 5, Settings(tmp_path, {}), KNN)
    folder = tmp_path / 'adclr_vittiny_shapes/seed5/pretraining'
    assert jobs['pretraining'].command[1:4] == [str(REPO / 'tools/train.py'), str(folder / 'config.py'), '--resume']
    cfg = jobs['pretraining'].config
    assert (cfg.randomness.seed, cfg.train_cfg.max_epochs, cfg.model.query_weight) == (5, 7, 0.25)
    assert jobs['knn'].command[2] == str(folder / 'epoch_7.pth')
    assert jobs['knn'].needs is jobs['pretraining']


def test_dumped_config_is_the_config(tmp_path):
    (method,) = methods('pqcl')
    file = tmp_path / 'config.py'
    file.write_text(seeded(method.cfg, 3).pretty_text)
    assert Config.fromfile(file).to_dict() == seeded(method.cfg, 3).to_dict()


def test_evaluations_repeat_the_validation_of_the_config(tmp_path):
    (method,) = methods('dino', options={'val_evaluator.k': [10, 20]})
    jobs = plan(method, 1, Settings(tmp_path, {}), ('knn', 'linear', 'dense'))
    knn, linear, dense = (arguments(jobs[part]) for part in ('knn', 'linear', 'dense'))
    assert (knn['--train'], knn['--val']) == (['data/shapes/train'], ['data/shapes/val'])
    assert (knn['--k'], knn['--temperature'], knn['--resize'], knn['--size']) == (['10', '20'], ['0.07'], ['32'], ['32'])
    assert linear['--seed'] == ['1']
    assert (dense['--train'], dense['--val']) == (['train', 'semantic/train'], ['val', 'semantic/val'])
    assert (dense['--num-classes'], dense['--max-images'], dense['--bank-size']) == (['11'], ['300'], ['2000'])


def test_lists_and_shards_of_labelled_images_are_passed_on(tmp_path):
    (method,) = methods('dino')
    method.cfg.val_dataloader.dataset = dict(
        type='ImageDataset',
        data_root='photos/val',
        ann_file='val.txt',
        shards='*.tar',
        transform=method.cfg.val_dataloader.dataset.transform,
    )
    method.cfg.val_cfg.bank = dict(data_root='photos/train', ann_file='train.txt')
    knn = arguments(plan(method, 0, Settings(tmp_path, {}), KNN)['knn'])
    assert (knn['--train'], knn['--train-list']) == (['photos/train'], ['train.txt'])
    assert (knn['--val'], knn['--val-list'], knn['--shards']) == (['photos/val'], ['val.txt'], ['*.tar'])


def test_dense_tasks_start_from_the_teacher_and_have_its_tokens(tmp_path):
    task = Config(dict(model=dict(backbone=dict(type='mmadclr.DenseViT', init_cfg=dict(checkpoint=None)))))
    for method, has_token in zip(methods('dino', 'selfpatch'), (True, False), strict=True):
        job = plan(method, 2, Settings(tmp_path, {'detection': task}), ('detection',))['detection']
        backbone = job.config.model.backbone
        assert backbone.init_cfg.checkpoint == str(tmp_path / method.name / 'seed2/pretraining/epoch_50.pth')
        assert backbone.class_token is has_token
        assert job.config.randomness.seed == 2
    assert task.model.backbone.init_cfg.checkpoint is None


def test_untrained_network_is_a_row_of_its_own(tmp_path):
    row = untrained(methods('adclr')[0])
    jobs = plan(row, 0, Settings(tmp_path, {}), KNN)
    assert jobs['pretraining'].command[1:3] == ['-m', 'mmadclr.comparison.baselines']
    assert jobs['knn'].command[2].endswith('random_initialisation/seed0/pretraining/random.pth')


def test_untrained_network_does_not_depend_on_how_long_others_train(tmp_path):
    def fingerprint(**kwargs):
        row = untrained(methods('adclr', **kwargs)[0])
        return plan(row, 0, Settings(tmp_path, {}), KNN)['knn'].fingerprint()

    assert fingerprint() == fingerprint(epochs=3)
    assert fingerprint() != fingerprint(options={'model.backbone.arch.depth': 4})


def test_parameters_are_those_that_train():
    dino, selfpatch = methods('dino', 'selfpatch')
    width, patch, tokens = 64, 3 * 8 * 8, 17
    block = 2 * 2 * width + 4 * width * width + 4 * width + 8 * width * width + 5 * width
    backbone = width * patch + width + width + tokens * width + 3 * block + 2 * width
    head = (64 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 32 + 64 * 32  # norms of the prototypes are fixed
    assert dino.parameters == backbone + head
    assert selfpatch.parameters > dino.parameters  # another head and two blocks of class attention
    assert (dino.class_token, selfpatch.class_token) == (True, False)


def test_where_results_go_does_not_decide_them(tmp_path):
    (method,) = methods('dino')
    here, there = (plan(method, 0, Settings(tmp_path / name, {}), KNN) for name in 'ab')
    other = plan(method, 1, Settings(tmp_path / 'a', {}), KNN)
    for part in KNN:
        assert here[part].fingerprint() == there[part].fingerprint() != other[part].fingerprint()
    assert 'work_dir' not in identity_of(method.cfg)


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match='two configs are called dino_vittiny_shapes'):
        methods('dino', 'dino')
    (method,) = methods('dino', options={'val_cfg.dense_probe': None})
    with pytest.raises(ValueError, match='part dense: val_cfg has no dense_probe'):
        plan(method, 0, Settings(tmp_path, {}), ('dense',))
    method.cfg.val_cfg = None
    with pytest.raises(ValueError, match='part knn: the config of dino_vittiny_shapes has no val_cfg'):
        plan(method, 0, Settings(tmp_path, {}), KNN)


@pytest.mark.dense
@pytest.mark.parametrize('file', ['benchmarks/demo/upernet_shapes.py', 'mmpretrain/mae_vittiny_shapes.py'])
def test_configs_of_other_things_are_refused(file):
    with pytest.raises(ValueError, match=f'{file}: no config of pretraining with one of our methods'):
        load_methods([str(REPO / 'configs' / file)], {}, None)
