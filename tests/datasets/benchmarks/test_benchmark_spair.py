"""SPair-71k: pairs against a plain reading of their files, points that are missing, and broken annotations."""

import json
from pathlib import Path

import pytest
import torch
from benchmark_miniatures import make
from PIL import Image

from mmadclr.datasets.benchmarks import open_benchmark
from mmadclr.evaluation.dense.spair import pair_errors, summarize_pairs

PAIRS, LIST = 'SPair-71k/PairAnnotation/test', 'SPair-71k/Layout/large/test.txt'


@pytest.fixture(autouse=True)
def _miniature(tmp_path):
    make('spair', tmp_path)


def opened(tmp_path):
    return open_benchmark('spair', str(tmp_path))


def files(tmp_path):
    return sorted((tmp_path / PAIRS).glob('*.json'))


def test_pairs_equal_a_plain_reading(tmp_path):
    benchmark = opened(tmp_path)
    assert benchmark.categories == ('aeroplane', 'cow', 'tvmonitor')
    names = (tmp_path / LIST).read_text().split()
    assert len(names) == len(benchmark.pairs) == 5
    for name, pair in zip(names, benchmark.pairs, strict=True):
        record = json.loads((tmp_path / PAIRS / f'{name}.json').read_text())
        images = tmp_path / 'SPair-71k/JPEGImages' / record['category']
        assert (pair.name, pair.category, pair.viewpoint) == (name, record['category'], record['viewpoint_variation'])
        assert (pair.source, pair.target) == (str(images / record['src_imname']), str(images / record['trg_imname']))
        assert (pair.source_points.tolist(), pair.target_points.tolist()) == (record['src_kps'], record['trg_kps'])
        assert (pair.source_box.tolist(), pair.target_box.tolist()) == (record['src_bndbox'], record['trg_bndbox'])
        assert [*pair.source_size, 3] == record['src_imsize']
        assert [*pair.target_size, 3] == record['trg_imsize']
        assert pair.point_ids == tuple(record['kps_ids'])
        assert Image.open(pair.source).size == pair.source_size


def test_points_mark_the_same_place_of_the_object(tmp_path):
    """Colors of the miniature tell points apart."""
    for pair in opened(tmp_path).pairs:
        source, target = Image.open(pair.source), Image.open(pair.target)
        for point, other in zip(pair.source_points.int().tolist(), pair.target_points.int().tolist(), strict=True):
            colors = torch.tensor([source.getpixel(tuple(point)), target.getpixel(tuple(other))]).float()
            assert (colors[0] - colors[1]).abs().max() < 90


def test_a_pair_without_common_points_is_kept_and_left_out_of_the_mean(tmp_path):
    pairs = opened(tmp_path).pairs
    last = pairs[-1]
    assert (last.source_points.shape, last.target_points.shape, last.point_ids) == ((0, 2), (0, 2), ())
    errors = [
        pair_errors(each.target_points, each.target_points, torch.ones(len(each.target_points)), 1.0, each.category)
        for each in pairs
    ]
    assert summarize_pairs(errors).left_out == 1


def test_points_without_position_are_not_common(tmp_path):
    path = files(tmp_path)[0]
    record = json.loads(path.read_text())
    source, target, ids = record['src_kps'], record['trg_kps'], record['kps_ids']
    record |= dict(src_kps=[None, *source], trg_kps=[[1, 1], *target], kps_ids=['9', *ids])
    path.write_text(json.dumps(record))
    pair = opened(tmp_path).pairs[0]
    assert (pair.source_points.tolist(), pair.target_points.tolist(), pair.point_ids) == (source, target, tuple(ids))


def test_without_a_list_pairs_are_ordered_by_name(tmp_path):
    expected = [pair.name for pair in opened(tmp_path).pairs]
    (tmp_path / LIST).unlink()
    assert [pair.name for pair in opened(tmp_path).pairs] == expected


def test_the_order_is_that_of_the_list(tmp_path):
    names = (tmp_path / LIST).read_text().split()[::-2]
    (tmp_path / LIST).write_text('\n'.join(names))
    assert [pair.name for pair in opened(tmp_path).pairs] == names


def test_pairs_in_folders_of_categories(tmp_path):
    expected = [pair.name for pair in opened(tmp_path).pairs]
    for path in files(tmp_path):
        folder = path.parent / path.stem.partition(':')[2]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    assert [pair.name for pair in opened(tmp_path).pairs] == expected


@pytest.mark.parametrize('mark', ['_', '%3A'])
def test_systems_without_colons_in_names(mark, tmp_path):
    expected = [pair.name for pair in opened(tmp_path).pairs]
    for path in files(tmp_path):
        path.rename(path.with_name(path.name.replace(':', mark)))
    benchmark = opened(tmp_path)
    assert [pair.name for pair in benchmark.pairs] == expected
    (tmp_path / LIST).unlink()
    benchmark = opened(tmp_path)
    assert [pair.name for pair in benchmark.pairs] == expected
    assert benchmark.categories == ('aeroplane', 'cow', 'tvmonitor')
    assert [pair.category for pair in benchmark.pairs] == ['aeroplane'] * 2 + ['cow'] * 2 + ['tvmonitor']


def test_names_without_category(tmp_path):
    (tmp_path / LIST).unlink()
    for number, path in enumerate(files(tmp_path)):
        path.rename(path.with_name(f'{number}.json'))
    assert opened(tmp_path).categories == ('aeroplane', 'cow', 'tvmonitor')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda record: record.pop('trg_kps') and None, 'has no trg_kps'),
        (
            lambda record: record.update(src_kps=record['src_kps'][1:]),
            'src_kps and trg_kps must be lists of the same length',
        ),
        (lambda record: record.update(src_kps=5), 'src_kps and trg_kps must be lists of the same length'),
        (lambda record: record.update(kps_ids=['1']), 'kps_ids must name the 3 points'),
        (
            lambda record: record['src_kps'].__setitem__(0, [70, 5]),
            r'src_kps: point \[70, 5\] is outside its image of 64x48',
        ),
        (lambda record: record['trg_kps'].__setitem__(0, [3, -1]), r'trg_kps: point \[3, -1\] is outside'),
        (lambda record: record['trg_kps'].__setitem__(0, [3]), r'trg_kps: point \[3\] is outside'),
        (lambda record: record['trg_kps'].__setitem__(0, ['3', 4]), 'trg_kps: .* must be a list of numbers'),
        (lambda record: record.update(trg_bndbox=[30, 5, 30, 20]), r'trg_bndbox \[30, 5, 30, 20\] must be left, top'),
        (lambda record: record.update(src_bndbox=[3, 5, 30]), 'src_bndbox .* must be left, top'),
        (lambda record: record.update(src_bndbox=None), 'src_bndbox: None must be a list of numbers'),
        (lambda record: record.update(trg_imsize=[100, 64, 3]), r'trg_imsize is \[100, 64\], but .* has 48x64 pixels'),
        (lambda record: record.update(viewpoint_variation=3), 'viewpoint_variation 3 must be 0, 1 or 2'),
        (lambda record: record.pop('viewpoint_variation') and None, 'viewpoint_variation None must be 0, 1 or 2'),
    ],
)
def test_broken_pairs_are_named(change, words, tmp_path):
    path = files(tmp_path)[0]
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    benchmark = opened(tmp_path)
    assert len(benchmark.pairs[1].source_points)
    with pytest.raises(ValueError, match=f'{path}:? ?.*{words}'):
        benchmark.pairs[0]


@pytest.mark.parametrize('text', ['', '{"src_kps": [', '[1]', 'null', '\x00'])
def test_files_that_are_no_pairs(text, tmp_path):
    path = files(tmp_path)[0]
    path.write_text(text)
    with pytest.raises(ValueError, match=f'{path} (cannot be read|has no category)'):
        opened(tmp_path).pairs[0]


def test_missing_image(tmp_path):
    pair = opened(tmp_path).pairs[0]
    Path(pair.target).unlink()
    with pytest.raises(FileNotFoundError, match=f'{pair.name}.json: trg_imname: no image {pair.target}'):
        opened(tmp_path).pairs[0]


def test_unreadable_image(tmp_path):
    pair = opened(tmp_path).pairs[0]
    Path(pair.target).write_bytes(b'')
    with pytest.raises(ValueError, match=f'{pair.name}.json: trg_imname: image {pair.target} cannot be read'):
        opened(tmp_path).pairs[0]


def test_listed_pairs_without_file(tmp_path):
    for path in files(tmp_path)[:2]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match='test.txt: 2 of 5 names have no annotation in .*: 000001-'):
        opened(tmp_path)


def test_missing_categories(tmp_path):
    for name in ('cow', 'tvmonitor'):
        (tmp_path / 'SPair-71k/JPEGImages' / name).rename(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='JPEGImages has no folder for the categories cow, tvmonitor'):
        opened(tmp_path)
