"""Which commands a comparison consists of."""

import json
from argparse import Namespace

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.compare.methods import load_methods, untrained
from mmadclr.compare.plan import Settings, identity_of, plan, read_measurement, seeded
from mmadclr.compare.suite import samples_of, suite_arguments

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
    assert jobs['pretraining'].command[1:7] == ['-P', '-m', 'mmadclr', 'train', str(folder / 'config.py'), '--resume']
    cfg = jobs['pretraining'].config
    assert (cfg.randomness.seed, cfg.train_cfg.max_epochs, cfg.model.query_weight) == (5, 7, 0.25)
    assert jobs['knn'].command[4:6] == ['knn', str(folder / 'epoch_7.pth')]
    assert jobs['knn'].needs is jobs['pretraining']


def test_dumped_config_is_the_config(tmp_path):
    (method,) = methods('pqcl')
    file = tmp_path / 'config.py'
    file.write_text(seeded(method.cfg, 3).pretty_text)
    assert Config.fromfile(file).to_dict() == seeded(method.cfg, 3).to_dict()


def test_evaluations_repeat_the_validation_of_the_config(tmp_path):
    (method,) = methods('dino', options={'val_evaluator.knn.k': [10, 20]})
    jobs = plan(method, 1, Settings(tmp_path, {}), ('knn', 'linear', 'dense'))
    knn, linear, dense = (arguments(jobs[part]) for part in ('knn', 'linear', 'dense'))
    assert (knn['--train'], knn['--val']) == (['data/shapes/train'], ['data/shapes/val'])
    assert (knn['--k'], knn['--temperature'], knn['--resize'], knn['--size']) == (['10', '20'], ['0.07'], ['32'], ['32'])
    assert linear['--seed'] == ['1']
    assert (dense['--train'], dense['--val']) == (['train', 'semantic/train'], ['val', 'semantic/val'])
    assert (dense['--num-classes'], dense['--max-images'], dense['--bank-size']) == (['11'], ['300'], ['2000'])


def test_lists_and_shards_of_labeled_images_are_passed_on(tmp_path):
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


def test_sources_of_ones_own_are_refused_before_anything_is_trained(tmp_path):
    (method,) = methods('dino')
    method.cfg.val_cfg.bank = dict(data_root=None, source=dict(type='Own'))
    for part in ('knn', 'linear'):
        with pytest.raises(ValueError, match=r'val_cfg\.bank has a source: leave these parts out of --parts'):
            plan(method, 0, Settings(tmp_path, {}), ('pretraining', part))


def test_dense_tasks_start_from_the_teacher_and_have_its_tokens(tmp_path):
    arch = dict(embed_dim=64, depth=3, num_heads=8, patch_size=8)
    task = Config(dict(model=dict(backbone=dict(type='mmadclr.DenseViT', arch=arch, init_cfg=dict(checkpoint=None)))))
    for method, has_token in zip(methods('dino', 'selfpatch'), (True, False), strict=True):
        job = plan(method, 2, Settings(tmp_path, {'detection': task}), ('detection',))['detection']
        backbone = job.config.model.backbone
        assert backbone.init_cfg.checkpoint == str(tmp_path / method.name / 'seed2/pretraining/epoch_50.pth')
        assert backbone.class_token is has_token
        assert job.config.randomness.seed == 2
    assert task.model.backbone.init_cfg.checkpoint is None


def test_the_dense_suite_evaluates_the_teacher_and_is_a_column_for_each_protocol(tmp_path):
    given = dict(suite='voc,folder=aerial', suite_data_root='data', suite_protocols=None, suite_size=64)
    given = suite_arguments(Namespace(**given, suite_set={'hummingbird.memory': 200}))
    job = plan(methods('dino')[0], 1, Settings(tmp_path, {}, tuple(given)), ('suite',))['suite']
    folder = tmp_path / 'dino_vittiny_shapes/seed1/suite'
    assert job.command[4:] == [
        *('dense', str(tmp_path / 'dino_vittiny_shapes/seed1/pretraining/epoch_50.pth'), '--suite', 'voc,folder=aerial'),
        *('--data-root', 'data', '--size', '64', '--set', 'hummingbird.memory=200', '--out', str(folder / 'out')),
    ]
    record = dict(
        metrics={'patch_knn_64_mIoU': dict(value=12.5), 'accuracy': {}}, samples={'patch_knn_64_mIoU': [1.0, None]}
    )
    (folder / 'out/results').mkdir(parents=True)
    (folder / 'out/results/voc.patch-knn.json').write_text(json.dumps(record))
    assert job.read(folder, 0.0) == {'suite voc patch_knn_64_mIoU': 12.5}
    assert samples_of(folder)['suite voc patch_knn_64_mIoU'].tolist() == [1.0, pytest.approx(float('nan'), nan_ok=True)]
    assert suite_arguments(Namespace(suite=None)) == []


def test_untrained_network_is_a_row_of_its_own(tmp_path):
    row = untrained(methods('adclr')[0])
    jobs = plan(row, 0, Settings(tmp_path, {}), KNN)
    assert jobs['pretraining'].command[1:4] == ['-P', '-m', 'mmadclr.cli.baselines']
    assert jobs['knn'].command[5].endswith('random_initialization/seed0/pretraining/random.pth')


def test_untrained_network_does_not_depend_on_how_long_others_train(tmp_path):
    def fingerprint(**kwargs):
        row = untrained(methods('adclr', **kwargs)[0])
        return plan(row, 0, Settings(tmp_path, {}), KNN)['knn'].fingerprint()

    assert fingerprint() == fingerprint(epochs=3)
    assert fingerprint() != fingerprint(options={'model.backbone.arch.depth': 4})


def test_where_results_go_does_not_decide_them(tmp_path):
    (method,) = methods('dino')
    here, there = (plan(method, 0, Settings(tmp_path / name, {}), KNN) for name in 'ab')
    other = plan(method, 1, Settings(tmp_path / 'a', {}), KNN)
    for part in KNN:
        assert here[part].fingerprint() == there[part].fingerprint() != other[part].fingerprint()
    assert 'work_dir' not in identity_of(method.cfg)


def test_a_finished_run_is_measured_as_it_is(tmp_path):
    run = tmp_path / 'run/epoch_50.pth'
    run.parent.mkdir()
    run.write_bytes(b'weights')
    (method,) = methods('adclr')
    jobs = plan(method._replace(run=run), 1, Settings(tmp_path / 'out', {}), KNN)
    assert jobs['pretraining'].command is None
    assert jobs['knn'].command[4:6] == ['knn', str(run)]
    before = jobs['knn'].fingerprint()
    run.write_bytes(b'other weights')
    assert plan(method._replace(run=run), 1, Settings(tmp_path / 'out', {}), KNN)['knn'].fingerprint() != before


def test_knn_with_20_neighbors_is_the_one_reported(tmp_path):
    measured = {'knn10_T0.07_top1': 1.0, 'knn10_T0.07_top5': 2.0, 'knn20_T0.07_top1': 3.0, 'features': 'cls'}
    (tmp_path / 'metrics.json').write_text(json.dumps(measured))
    assert read_measurement('knn', tmp_path, 0.0) == {'knn': 3.0, 'knn_features': 'cls'}
    del measured['knn20_T0.07_top1']
    (tmp_path / 'metrics.json').write_text(json.dumps(measured))
    assert read_measurement('knn', tmp_path, 0.0)['knn'] == 1.0


def test_dense_tasks_made_for_another_network_are_refused(tmp_path):
    task = Config(dict(model=dict(backbone=dict(arch=dict(embed_dim=96, depth=3, num_heads=4, patch_size=8)))))
    with pytest.raises(
        ValueError, match='part segmentation: dino_vittiny_shapes trains a network with embed_dim=64, .*has 96'
    ):
        plan(methods('dino')[0], 0, Settings(tmp_path, {'segmentation': task}), ('segmentation',))


def test_bad_requests(tmp_path):
    (method,) = methods('dino', options={'val_evaluator.dense': None})
    with pytest.raises(ValueError, match='part dense: val_evaluator has no DenseProbe'):
        plan(method, 0, Settings(tmp_path, {}), ('dense',))
    method.cfg.val_cfg = None
    with pytest.raises(ValueError, match='part knn: the config of dino_vittiny_shapes has no val_cfg'):
        plan(method, 0, Settings(tmp_path, {}), KNN)
