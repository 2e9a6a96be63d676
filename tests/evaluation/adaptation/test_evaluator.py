"""The measures as evaluator of a run: the teacher's, the original's beside them, and the end of a run by them."""

from pathlib import Path

import pytest
import torch
from programs import python_on_ranks
from small_models import images_of, paint_classes, paint_masks

from mmadclr.checkpoint import read_checkpoint
from mmadclr.config.check import check_config
from mmadclr.config.findings import ConfigError
from mmadclr.engine import Runner
from mmadclr.engine.hooks.worse_hook import StopWhenWorseHook
from mmadclr.evaluation import AdaptationMeasures
from mmadclr.evaluation.adaptation import FolderProbe, drift_of, encoder_of, measure_backbone, sample_images
from mmadclr.evaluation.adaptation.masks import image_counts
from mmadclr.evaluation.adaptation.scores import dense_scores, standard_errors
from mmadclr.hub.opening import open_backbone

MEASURES = ['retrieval', 'patch_agreement', 'alignment', 'uniformity', 'rank', 'knn']
DRIFTS = ['drift_cls_cka', 'drift_cls_cosine', 'drift_patch_cka', 'drift_patch_cosine']


@pytest.fixture
def folder(tmp_path):
    return paint_classes(tmp_path / 'images')


def dataset(folder, **kwargs):
    transform = dict(type='mmadclr.ResizeCenterCrop', resize=32, size=32)
    return dict(data_root=str(folder), with_label=True, transform=transform, **kwargs)


def measuring_run(small_config, folder, hooks=None, work_dir='work', **evaluator):
    cfg = small_config({'train_cfg.val_interval': 1, **(hooks or {})}, work_dir=work_dir)
    cfg.val_evaluator = dict(type='AdaptationMeasures', dataset=dataset(folder), batch_size=7, **evaluator)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def last_value(runner, name):
    return runner.message_hub.get_scalar(f'val/{name}').data[0][-1]


def test_a_run_logs_the_measures_of_its_teacher_beside_those_of_the_original(small_config, train, folder):
    original = Path(train(work_dir='before').work_dir, 'epoch_1.pth')
    runner = measuring_run(small_config, folder, original=str(original), images=20)
    indices, images = sample_images(24, 20), images_of(folder)
    expected = {}
    measured = [
        measure_backbone(encoder_of(open_backbone(path)), images, indices=indices)
        for path in (Path(runner.work_dir, 'epoch_2.pth'), original)
    ]
    expected = measured[0].values() | {f'original/{name}': value for name, value in measured[1].values().items()}
    expected |= drift_of(measured[1].outputs, measured[0].outputs)
    assert list(expected) == [*MEASURES, *(f'original/{name}' for name in MEASURES), *DRIFTS]
    changes = [each.scores['retrieval'].tensors[0] for each in measured]
    expected['error/retrieval'] = (changes[0] - changes[1]).std().item() / 20**0.5
    assert {f'val/error/{name}' for name in MEASURES} & set(runner.message_hub.log_scalars) == {
        f'val/error/{name}' for name in ('retrieval', 'patch_agreement', 'alignment', 'knn')
    }
    assert {name: last_value(runner, name) for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_without_an_original_there_are_only_its_own_measures_and_training_is_not_affected(small_config, train, folder):
    plain = train(work_dir='plain')
    runner = measuring_run(small_config, folder)
    assert last_value(runner, 'rank') > 1
    assert 'val/original/rank' not in runner.message_hub.log_scalars
    states = [torch.load(f'{each.work_dir}/epoch_2.pth', weights_only=False)['state_dict'] for each in (plain, runner)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_a_run_that_becomes_worse_than_the_original_ends(small_config, train, folder):
    original = Path(train(work_dir='before').work_dir, 'epoch_1.pth')
    # An original value that no model reaches: every evaluation is worse.
    stop = dict(type='StopWhenWorseHook', measure='drift_cls_cosine', original=2.0, patience=2)
    keep = dict(type='KeepBestHook', measure='rank')
    hooks = {'default_hooks.worse': stop, 'default_hooks.best': keep, 'train_cfg.max_epochs': 5}
    runner = measuring_run(small_config, folder, hooks, original=str(original))
    assert runner.epoch == 2
    assert next(hook for hook in runner.hooks if isinstance(hook, StopWhenWorseHook)).reason
    assert Path(runner.work_dir, 'best_rank.pth').is_file()


def test_settings_are_checked_before_the_run(folder):
    with pytest.raises(FileNotFoundError, match=r'none\.pth'):
        AdaptationMeasures(dataset(folder), original='/none.pth')
    with pytest.raises(ValueError, match='images=3 of AdaptationMeasures must be at least 4'):
        AdaptationMeasures(dataset(folder), images=3)
    with pytest.raises(FileNotFoundError):
        AdaptationMeasures(dataset(folder / 'nowhere'))


@pytest.mark.slow
def test_two_processes_keep_the_best_and_stop_together_also_if_the_model_is_sharded(small_config, train, folder):
    original = str(Path(train(work_dir='before').work_dir, 'epoch_1.pth'))
    (folder / 'class1' / '004.png').write_bytes(b'no image')
    configs = {}
    for name, sharding in (('whole', None), ('sharded', 'fsdp')):
        cfg = small_config({'train_cfg.max_epochs': 5, 'train_cfg.val_interval': 1}, work_dir=name)
        cfg.train_dataloader.batch_size = 2
        cfg.sharding = sharding
        cfg.val_evaluator = dict(
            type='AdaptationMeasures', dataset=dataset(folder), batch_size=2, original=original, images=21
        )
        stop = dict(type='StopWhenWorseHook', measure='drift_cls_cosine', original=2.0, patience=2)
        cfg.custom_hooks = [dict(type='KeepBestHook', measure='rank'), stop]
        configs[name] = Path(cfg.work_dir).with_suffix('.py')
        cfg.dump(configs[name])
    python_on_ranks(2, 'tests/engine/distributed_runs.py', *configs.values())
    for path in configs.values():
        work_dir = path.with_suffix('')
        assert [(work_dir / f'epoch_{epoch}.pth').exists() for epoch in (2, 3)] == [True, False]
        best = read_checkpoint(work_dir / 'best_rank.pth')
        record = best['message_hub']['runtime_info']['best_rank']
        assert record['iteration'] == best['meta']['iter']
        # The score is that of the weights in the file, measured by one process.
        encoder = encoder_of(open_backbone(work_dir / 'best_rank.pth'))
        values = measure_backbone(encoder, images_of(folder), indices=sample_images(24, 21)).values()
        assert record['score'] == pytest.approx(values['rank'], rel=1e-4)


def test_masks_are_measured_beside_the_original_with_the_error_of_the_difference(small_config, train, folder, tmp_path):
    paint_masks(tmp_path / 'masked')
    original = str(Path(train(work_dir='before').work_dir, 'epoch_1.pth'))
    masks = dict(data_root=str(tmp_path / 'masked'), size=32, max_images=6)
    keep = dict(type='KeepBestHook', measure='patch_linear_miou')
    hooks = {'default_hooks.best': keep, 'default_hooks.worse': dict(type='StopWhenWorseHook', measure='patch_linear_miou')}
    runner = measuring_run(small_config, folder, hooks, original=original, masks=masks)
    check_config(runner.cfg)
    probe = FolderProbe(**masks)
    models = [open_backbone(path) for path in (Path(runner.work_dir, 'epoch_2.pth'), original)]
    counts = [image_counts(probe, encoder_of(opened)) for opened in models]
    found, before = (dense_scores(each) for each in counts)
    errors = standard_errors(found, before)
    for name, score in found.items():
        assert last_value(runner, name) == pytest.approx(score.value, rel=1e-3)
        assert last_value(runner, f'original/{name}') == pytest.approx(before[name].value, rel=1e-3)
        assert last_value(runner, f'error/{name}') == pytest.approx(errors[name], rel=1e-2, abs=1e-3)
    assert Path(runner.work_dir, 'best_patch_linear_miou.pth').is_file()
    runner.cfg.val_evaluator.masks.data_rot = 'elsewhere'
    with pytest.raises(ConfigError, match=r'masks\.data_rot: FolderProbe has no such argument; did you mean data_root'):
        check_config(runner.cfg)
