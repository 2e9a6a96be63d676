"""Runs with the trackers themselves, without a network: everything that the run has logged is read back from their files."""

import importlib.util
import io
import json
import struct
import sys

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmengine.registry import VISBACKENDS
from PIL import Image
from programs import python

from mmadclr.cli.main import main
from mmadclr.engine import trackers
from mmadclr.show.sheets import GAP, HEIGHT

pytestmark = pytest.mark.all_hooks

NEEDS = {'WandbVisBackend': ('wandb',), 'MLflowVisBackend': ('mlflow', 'sqlalchemy', 'alembic'), 'AimVisBackend': ('aim',)}
SMALL = (
    *('train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=4', 'val_evaluator.dense=None'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'val_evaluator.knn.k=5'),
    *('train_dataloader.dataset.num_train=12', 'train_dataloader.dataset.num_val=10', 'default_hooks.logger.interval=1'),
    *('val_dataloader.dataset.num_train=12', 'val_dataloader.dataset.num_val=10', 'default_hooks.schedule.warmup_epochs=1'),
    *('model.backbone.arch.embed_dim=24', 'model.backbone.arch.num_heads=3', 'val_dataloader.num_workers=0'),
    'val_dataloader.persistent_workers=False',
)
FEATURES = 3 * (HEIGHT + GAP), 4 * (HEIGHT + GAP)  # three columns for each of four images
BLOCK, HEADER = 32768, 7  # of wandb's files, which are logs as of LevelDB


def skip_without(tracker):
    missing = [name for name in NEEDS[tracker] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f'{tracker} needs {", ".join(missing)}')


def train(folder, tracker, *more, **environment):
    """Trains with the override that the documentation tells; the scalars that mmengine has written, by name and step."""
    options = ('--cfg-options', f'visualizer.vis_backends.1.type={tracker}', *more, *SMALL)
    command = ('train', 'demo/adclr_vittiny_shapes', '--work-dir', 'work', *options)
    done = python('-m', 'mmadclr', *command, check=False, cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob('work/*/vis_data/scalars.json')
    found = {}
    for record in map(json.loads, file.read_text().splitlines()):
        step = record.pop('step')
        for name, value in record.items():
            found.setdefault(name, []).append((step, value))
    assert len(found['loss']) == 6
    assert len(found['knn5_T0.07_top1']) == 2
    return found


def is_picture(image):
    """Whether this is the sheet of four images of 32 pixels, not an empty one."""
    pixels = np.asarray(image.convert('RGB'))
    return len(pixels) == 4 * 34 and pixels[:32, :32].std() > 0


def assert_table(table, wanted):
    """That both validations are in it."""
    rows = [dict(zip(table['columns'], row, strict=True)) for row in table['data']]
    assert [(row['epoch'], row['iter']) for row in rows] == [(1, 3), (2, 6)]
    assert [(row['epoch'], row['knn5_T0.07_top1']) for row in rows] == wanted['knn5_T0.07_top1']


def records_of_wandb(file):
    """Records of an offline run: after 7 bytes, blocks with parts of records, each with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), HEADER, b''
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack('<HB', content[place + 4 : place + HEADER])
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b''
            yield record


def test_tensorboard_which_runs_have_by_default(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = train(tmp_path, 'TensorboardVisBackend')
    (file,) = tmp_path.glob('work/*/vis_data/events.out.tfevents.*')
    events = EventAccumulator(str(file), size_guidance={'images': 0, 'tensors': 0, 'scalars': 0}).Reload()
    assert [each.step for each in events.Scalars('loss')] == [step for step, _ in wanted['loss']]
    (crops,) = events.Images('crops')
    assert is_picture(Image.open(io.BytesIO(crops.encoded_image_string)))
    features = events.Images('features')
    assert [each.step for each in features] == list(range(7))
    assert (features[-1].height, features[-1].width) == (FEATURES[1], FEATURES[0])
    rows = events.Tensors('validations/text_summary')
    texts = [each.tensor_proto.string_val[0].decode() for each in rows]
    assert [each.step for each in rows] == [3, 6]
    assert all(f'| {value} |' in text for text, (_, value) in zip(texts, wanted['knn5_T0.07_top1'], strict=True))
    assert all(len(text.splitlines()) == 3 for text in texts)


def test_wandb_offline(tmp_path):
    skip_without('WandbVisBackend')
    wanted = train(tmp_path, 'WandbVisBackend', 'visualizer.vis_backends.1.init_kwargs.project=mine', WANDB_MODE='offline')
    (file,) = tmp_path.glob('work/*/vis_data/wandb/offline-run-*/*.wandb')
    records = list(records_of_wandb(file))
    rows = [
        {item.key or '/'.join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof('record_type') == 'history'
    ]
    for name in ('loss', 'lr', 'knn5_T0.07_top1', 'monitor/teacher_norm'):
        assert [row[name] for row in rows if name in row] == [value for _, value in wanted[name]]
    assert [row['iter'] for row in rows if 'loss' in row] == [step for step, _ in wanted['loss']]
    assert [row['iter'] for row in rows if 'knn5_T0.07_top1' in row] == [3, 6]  # placed among the losses
    metrics = [record.metric for record in records if record.WhichOneof('record_type') == 'metric']
    assert ('*', 'iter') in {(metric.glob_name, metric.step_metric) for metric in metrics}
    assert {record.run.project for record in records if record.WhichOneof('record_type') == 'run'} == {'mine'}
    configs = [update for record in records for part in (record.config, record.run.config) for update in part.update]
    assert any(update.key == 'model' and json.loads(update.value_json)['type'] == 'ADCLR' for update in configs)
    (picture,) = file.parent.glob('files/media/images/crops*.png')
    assert is_picture(Image.open(picture))
    pictures = file.parent.glob('files/media/images/features*.png')
    assert {Image.open(picture).size for picture in pictures} == {FEATURES}
    tables = [json.loads(path.read_text()) for path in file.parent.glob('files/media/table/validations*.json')]
    assert_table(max(tables, key=lambda table: len(table['data'])), wanted)


def test_mlflow_in_a_database(tmp_path):
    skip_without('MLflowVisBackend')
    import mlflow

    wanted = train(tmp_path, 'MLflowVisBackend', 'visualizer.vis_backends.1.exp_name=mine')
    client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
    (run,) = client.search_runs([client.get_experiment_by_name('mine').experiment_id])
    for name in ('loss', 'lr', 'knn5_T0.07_top1', 'monitor/teacher_norm'):
        assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)] == wanted[name]
    assert run.info.status == 'FINISHED'
    assert run.data.params['model.type'] == 'ADCLR'
    folder = tmp_path / run.info.artifact_uri.removeprefix('file://')
    assert is_picture(Image.open(folder / 'crops_0.png'))
    assert [Image.open(folder / f'features_{step}.png').size for step in range(7)] == 7 * [FEATURES]
    assert_table(json.loads((folder / 'validations.json').read_text()), wanted)
    assert "type='ADCLR'" in (folder / 'config.py').read_text()


@pytest.mark.parametrize('given', ['variable', 'key'])
def test_another_database_of_mlflow(tmp_path, monkeypatch, given):
    skip_without('MLflowVisBackend')
    import mlflow

    monkeypatch.chdir(tmp_path)
    uri = f'sqlite:///{tmp_path}/{given}.db'
    monkeypatch.setenv('MLFLOW_TRACKING_URI', uri if given == 'variable' else 'sqlite:///not.db')
    MMLogger.get_instance('mlflow')  # the backend asks for the current one
    backend = trackers.MLflowVisBackend(str(tmp_path), **(dict(tracking_uri=uri) if given == 'key' else {}))
    backend.add_scalar('loss', 2.5, 7)
    backend.experiment.end_run()
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(['0'])
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, 'loss')] == [(7, 2.5)]
    assert not (tmp_path / 'not.db').exists()


def test_aim_in_a_folder(tmp_path):
    skip_without('AimVisBackend')
    from aim import Repo, Run
    from aim.storage.context import Context

    (tmp_path / 'runs').mkdir()
    wanted = train(tmp_path, 'AimVisBackend', 'visualizer.vis_backends.1.init_kwargs.repo=runs')
    repo = Repo(str(tmp_path / 'runs'))
    (name,) = repo.list_all_runs()
    run = Run(name, repo=repo)
    found = {metric.name: metric.data.view(('step', 'val')).items_list() for metric in run.metrics()}
    for name in ('loss', 'lr', 'knn5_T0.07_top1', 'monitor/teacher_norm'):
        steps, (values,) = found[name]
        assert sorted(zip(steps, values, strict=True)) == wanted[name]
    assert run['hparams']['model']['type'] == 'ADCLR'
    steps, ((picture,),) = run.get_image_sequence('crops', Context({})).data.view(('step', 'val')).items_list()
    assert steps == [0]
    assert is_picture(picture.to_pil_image())
    _, (pictures,) = run.get_image_sequence('features', Context({})).data.view(('step', 'val')).items_list()
    assert {picture.to_pil_image().size for picture in pictures} == {FEATURES}
    steps, (texts,) = run.get_text_sequence('validations', Context({})).data.view(('step', 'val')).items_list()
    assert steps == [3, 6]
    for text, (_, value) in zip(texts, wanted['knn5_T0.07_top1'], strict=True):
        assert f'knn5_T0.07_top1: {value}' in text.data


@pytest.mark.parametrize(('tracker', 'module'), [(name, modules[0]) for name, modules in NEEDS.items()])
def test_a_missing_package_is_one_line(tracker, module, small_config, tmp_path, monkeypatch):
    """Before any image is read."""
    monkeypatch.setitem(sys.modules, module, None)
    cfg = small_config(work_dir=tracker)
    cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    cfg.dump(tmp_path / 'mine.py')
    with pytest.raises(SystemExit) as ended:
        main(['train', str(tmp_path / 'mine.py'), '--cfg-options', f'visualizer.vis_backends.1.type={tracker}'])
    assert ended.value.code == f"error: {module} cannot be imported: install it: pip install 'mmadclr[{module}]'"


@pytest.mark.parametrize('name', ['WandbVisBackend', 'MLflowVisBackend'])
def test_configs_of_other_libraries_name_ours_with_the_scope(name, tmp_path):
    assert type(VISBACKENDS.build(dict(type=f'mmadclr.{name}', save_dir=str(tmp_path)))) is getattr(trackers, name)
