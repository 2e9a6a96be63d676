"""The guides do what they say: their files are written, their configs checked, their commands run."""

import importlib
import io
import json
import pickle
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import guides
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from PIL import Image
from places import REPO
from programs import python_on_ranks

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.components import Places
from mmadclr.config.loading import spell_out
from mmadclr.config.sense import check_sense
from mmadclr.datasets import ImageDataset
from mmadclr.datasets.samplers import SampleKey
from mmadclr.engine import Runner
from mmadclr.evaluation.feature_shards import Shard
from mmadclr.registry import METRICS

GUIDES = ['add_a_method.md', 'add_a_data_set.md', 'add_an_evaluation.md']
CROPS = dict(type='MultiCrop', global_size=32, local_size=16, query_size=8, num_local=2, num_query=2)


@pytest.fixture(scope='module')
def clones(tmp_path_factory):
    """By guide, a folder like the clone with its files, whose modules can be imported, and its config."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for guide in GUIDES:
            folder = tmp_path_factory.mktemp(guide.removesuffix('.md'))
            (config,) = guides.follow(guide, folder)
            patch.syspath_prepend(folder)
            found[guide] = folder, config
        importlib.invalidate_caches()
        yield found


def small_photo(rng):
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((120, 100), Image.Resampling.BICUBIC).save(file, 'JPEG')
    return file.getvalue()


@pytest.fixture(scope='module')
def photos(clones):
    """The clone of the guide to data sets, its config, and its images in data/photos.db and as files of data/images."""
    folder, config = clones['add_a_data_set.md']
    rng = np.random.default_rng(0)
    (folder / 'data').mkdir()
    with closing(sqlite3.connect(folder / 'data/photos.db')) as database, database:
        database.execute('CREATE TABLE images (name TEXT, split TEXT, class TEXT, file BLOB)')
        for number in range(18):
            split, label, file = ('val', 'train', 'train')[number % 3], 'ab'[number // 9], small_photo(rng)
            database.execute('INSERT INTO images VALUES (?, ?, ?, ?)', (f'{number:02d}.jpg', split, label, file))
            path = folder / 'data/images' / split / label / f'{number:02d}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
    return folder, config


@pytest.fixture
def at_photos(photos, monkeypatch):
    monkeypatch.chdir(photos[0])
    return Config.fromfile(photos[1])


def run_of(cfg, work_dir, **changes):
    """Trains a small run of a guide's config; returns its runner."""
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{work_dir.parent.name}_{work_dir.name}'
    cfg.merge_from_dict(changes)
    check_config(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def printed_by(command, folder):
    """The metrics at the end of what a command prints."""
    return json.loads('{' + guides.run(command, folder).rpartition('{')[2])


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


# --- all guides ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('guide', GUIDES)
def test_files_are_short_and_fit_the_page(guide):
    blocks = guides.NAMED_BLOCK.findall(guides.text_of(guide))
    assert len(blocks) >= 2
    for name, text in blocks:
        lines = text.splitlines()
        assert len([line for line in lines if line.strip()]) <= 34, name
        assert max(map(len, lines)) <= 125, name


@pytest.mark.parametrize('guide', GUIDES)
def test_guides_are_found_and_find_what_they_name(guide):
    for place in ('README.md', 'CONTRIBUTING.md'):
        assert f'(docs/{guide})' in (REPO / place).read_text()
    text = re.sub(r'```.*?```', '', guides.text_of(guide), flags=re.DOTALL)
    links = re.findall(r'\]\(([^)#]+)\)', text)
    assert links
    assert [link for link in links if not (REPO / 'docs' / link).exists()] == []


@pytest.mark.parametrize('guide', GUIDES)
def test_a_typo_in_any_part_of_a_config_is_named(clones, guide):
    paths = [path for path in Places(Config.fromfile(clones[guide][1])).all if path]
    assert len(paths) > 15
    cfg = Config.fromfile(clones[guide][1])
    cfg.merge_from_dict({f'{path}.no_such_key': 1 for path in paths})
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    named = re.findall(r'^  (.*)\.no_such_key: [\w.]+ has no such argument', str(caught.value), re.MULTILINE)
    assert sorted(named) == sorted(paths)


# --- data set --------------------------------------------------------------------------------------------------------------


def test_images_of_the_source_are_those_of_files(at_photos):
    source = at_photos.train_dataloader.dataset.source
    ours = ImageDataset(source=source, transform=CROPS, with_label=True)
    files = ImageDataset('data/images/train', CROPS, with_label=True)
    assert ours.labels.tolist() == files.labels.tolist() == [0] * 6 + [1] * 6
    assert ours.metainfo == files.metainfo == dict(classes=('a', 'b'))
    for dataset in (ours, pickle.loads(pickle.dumps(ours))):
        samples, expected = ([part[SampleKey(0, 1, index)] for index in range(12)] for part in (dataset, files))
        for sample, other in zip(samples, expected, strict=True):
            assert sample.keys() == other.keys()
            for name in ('global_views', 'local_views', 'query_views', 'global_photometric', 'global_boxes'):
                assert torch.equal(sample[name], other[name])
            assert sample['label'] == other['label']


@pytest.mark.long
def test_a_run_is_that_of_files_also_with_workers_and_resumed(at_photos, tmp_path):
    whole = run_of(at_photos, tmp_path / 'whole')
    metrics = [json.loads(line) for line in next((tmp_path / 'whole').rglob('scalars.json')).read_text().splitlines()]
    resumed = Config.fromfile(at_photos.filename)
    first = str(tmp_path / 'whole/epoch_1.pth')
    resumed = run_of(resumed, tmp_path / 'resumed', resume=True, load_from=first, **{'train_dataloader.num_workers': 2})
    files = Config.fromfile(at_photos.filename.replace('_photos_db', '_small'))
    files = run_of(files, tmp_path / 'files')
    for other in (resumed, files):
        assert_same_weights(whole.model.state_dict(), other.model.state_dict())
    assert any('knn5_T0.07_top1' in line for line in metrics)
    assert whole.val_loop.evaluate(whole.model) == files.val_loop.evaluate(files.model)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train_dataloader.dataset.source.pth': 1}, r'train_dataloader\.dataset\.source\.pth: .*; did you mean path\?'),
        ({'val_cfg.bank.source.splt': 1}, r'val_cfg\.bank\.source\.splt: .*; did you mean split\?'),
        (
            {'val_dataloader.dataset.source.type': 'SqlImages'},
            r"val_dataloader\.dataset\.source: there is no component 'SqlImages'; did you mean SqliteImages\?",
        ),
    ],
)
def test_typos_in_a_source_are_found_before_anything_is_built(at_photos, change, message):
    at_photos.merge_from_dict(change)
    with pytest.raises(ConfigError, match=message):
        check_config(at_photos)


def test_a_folder_beside_a_source_is_found_before_anything_is_built(at_photos):
    check_sense(at_photos)
    at_photos.train_dataloader.dataset.data_root = 'data/images'
    at_photos.val_cfg.bank.source = dict(split='train')
    with pytest.raises(
        ConfigError,
        match=r"(?s)train_dataloader\.dataset: data_root='data/images' and source=SqliteImages\(.*: set only one of "
        r'them, here data_root=None.*val_cfg\.bank: source=.* has no type',
    ):
        check_sense(at_photos)


def test_one_folder_for_all_does_not_stand_for_sources(at_photos):
    with pytest.raises(ConfigError, match='data_root: no data set of the config has a folder'):
        spell_out(at_photos, {'data_root': 'data'})


def test_databases_that_are_missing_or_empty_are_explained(at_photos):
    def build(**settings):
        return ImageDataset(source=dict(type='SqliteImages', **settings), transform=CROPS)

    with pytest.raises(
        ValueError, match=r"^source SqliteImages\(path='none.db', split='a'\): OperationalError: unable to open"
    ):
        build(path='none.db', split='a')
    with pytest.raises(ValueError, match=r"split='other'\) has no images"):
        build(path='data/photos.db', split='other')
    with pytest.raises(ValueError, match=r"missing a required argument: 'split'"):
        build(path='data/photos.db')


@pytest.mark.slow
def test_commands_for_the_data_set_run_as_written(photos):
    folder = photos[0]
    train, test = guides.commands('add_a_data_set.md')
    guides.run(train, folder)
    assert 'knn5_T0.07_top1' in printed_by(test, folder)


@pytest.mark.slow
def test_two_processes_train_on_the_source(photos, tmp_path):
    folder, config = photos
    path = folder / 'data/photos.db'
    places = ('train_dataloader.dataset', 'val_dataloader.dataset', 'val_cfg.bank')
    options = [f'{place}.source.path={path}' for place in places]
    command = (folder / 'tools/train.py', config, '--launcher', 'pytorch', '--work-dir', tmp_path)
    done = python_on_ranks(2, *command, '--cfg-options', 'train_dataloader.batch_size=2', *options)
    assert 'knn5_T0.07_top1' in done[0].stdout + done[0].stderr
    assert (tmp_path / 'epoch_2.pth').exists()


# --- evaluation ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_evaluation(clones, monkeypatch):
    folder, config = clones['add_an_evaluation.md']
    monkeypatch.chdir(folder)
    importlib.import_module('my_metrics.centroids')
    return Config.fromfile(config)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(count, 8, generator=generator) for count in (40, 13))
    return bank, torch.arange(40) % 3, queries, torch.arange(13) % 4  # of the last class the bank has no image


def test_retrieval_is_the_textbooks(at_evaluation, features):
    bank, bank_labels, queries, labels = features
    precisions = []
    for query, label in zip(F.normalize(queries), labels, strict=True):
        ranked = bank_labels[(F.normalize(bank) @ query).argsort(descending=True)]
        places = [place for place, other in enumerate(ranked, start=1) if other == label]
        precisions.append(np.mean([number / place for number, place in enumerate(places, start=1)] or [0]))
    for chunk in (5, 100):
        found = METRICS.build(dict(type='RetrievalMAP', chunk=chunk))(*features)
        assert found == {'retrieval_map': pytest.approx(100 * np.mean(precisions), abs=1e-4)}


def test_centroids_are_the_means_of_classes(at_evaluation, features):
    bank, bank_labels, queries, labels = features
    means = torch.stack([F.normalize(bank)[bank_labels == label].mean(dim=0) for label in range(3)])
    expected = 100 * (F.cosine_similarity(queries[:, None], means, dim=2).argmax(dim=1) == labels).float().mean().item()
    shards = Shard(bank.half(), torch.arange(40), bank_labels), Shard(queries, torch.arange(13), labels)
    found = METRICS.build(dict(type='NearestCentroid')).of_shards(*shards)
    assert found == {'centroid_top1': pytest.approx(expected)}


def test_centroids_do_not_depend_on_the_number_of_processes(at_evaluation, features, monkeypatch):
    """Two threads stand for two processes."""
    bank, bank_labels, queries, labels = features
    whole = [(bank, torch.arange(40), bank_labels), (queries, torch.arange(13), labels)]
    parts = [[Shard(rows[rank::2], places[rank::2], of_all) for rows, places, of_all in whole] for rank in (0, 1)]
    metric, barrier, sent = METRICS.build(dict(type='NearestCentroid')), threading.Barrier(2), {}
    expected = metric.of_shards(*(Shard(*shard) for shard in whole))

    def all_reduce(tensor):
        sent[threading.get_ident()] = tensor.clone()
        barrier.wait(10)
        tensor.copy_(sum(sent.values()))
        barrier.wait(10)

    monkeypatch.setattr('my_metrics.centroids.dist.all_reduce', all_reduce)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda shards: metric.of_shards(*shards), parts))
    assert found == [expected, expected]


def test_a_run_validates_by_all_evaluators_and_keeps_the_best(at_evaluation, tmp_path):
    at_evaluation.val_evaluator.centroids = dict(type='NearestCentroid')
    runner = run_of(at_evaluation, tmp_path / 'run')
    found = runner.val_loop.evaluate(runner.model)
    assert found.keys() == {'knn20_T0.07_top1', 'knn20_T0.07_top5', 'retrieval_map', 'centroid_top1'}
    assert all(0 < found[name] < 100 for name in ('retrieval_map', 'centroid_top1'))
    for name, value in found.items():
        assert runner.message_hub.get_scalar(f'val/{name}').current() == pytest.approx(value)


def test_a_typo_in_an_evaluator_is_found_before_anything_is_built(at_evaluation):
    at_evaluation.val_evaluator.retrieval['chunks'] = at_evaluation.val_evaluator.retrieval.pop('chunk')
    with pytest.raises(
        ConfigError, match=r'evaluator\.retrieval\.chunks: RetrievalMAP has no such argument; did you mean chunk\?'
    ):
        check_config(at_evaluation)


@pytest.mark.slow
def test_commands_for_the_evaluation_run_as_written(clones):
    folder, _ = clones['add_an_evaluation.md']
    train, test = guides.commands('add_an_evaluation.md')
    guides.run(train, folder)
    work_dirs = folder / 'work_dirs'
    # The same model of a run without the evaluator.
    guides.run(train.replace('_retrieval', ''), folder)
    assert (work_dirs / 'dino_vittiny_shapes_retrieval/epoch_2.pth').exists()
    printed = printed_by(test, folder)
    assert 0 < printed['retrieval_map'] < 100
    assert 'knn20_T0.07_top1' in printed
