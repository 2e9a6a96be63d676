"""COCO20k: the boxes that pycocotools gives, rounded."""

import json

import pytest
from benchmark_miniatures import make

from mmadclr.datasets.benchmarks import coco20k, open_benchmark
from mmadclr.evaluation.dense.discovery import corloc

FILE = 'annotations/instances_train2014.json'


def by_name(benchmark):
    return {each.name: each.boxes.tolist() for each in benchmark.images}


def test_boxes_equal_those_of_pycocotools(tmp_path):
    coco = pytest.importorskip('pycocotools.coco').COCO
    benchmark = open_benchmark('coco20k', str(make('coco20k', tmp_path)))
    theirs, compared = coco(str(tmp_path / FILE)), 0
    names = {each['file_name'].removesuffix('.jpg'): each['id'] for each in theirs.loadImgs(theirs.getImgIds())}
    for name, boxes in by_name(benchmark).items():
        notes = theirs.loadAnns(theirs.getAnnIds(imgIds=[names[name]], iscrowd=False))
        corners = [[round(v) for v in (x, y, x + w, y + h)] for x, y, w, h in (note['bbox'] for note in notes)]
        wide = [[x, y, max(right, x + 1), max(bottom, y + 1)] for x, y, right, bottom in corners]
        assert sorted(boxes) == sorted(wide)
        compared += len(boxes)
    assert compared == 7


def test_only_listed_images_in_the_order_of_the_list(tmp_path):
    benchmark = open_benchmark('coco20k', str(make('coco20k', tmp_path)))
    listed = (tmp_path / 'coco_20k_filenames.txt').read_text().split()
    assert [f'train2014/{each.name}.jpg' for each in benchmark.images] == listed
    assert len(listed) == len([*(tmp_path / 'images/train2014').iterdir()]) - 1
    assert not any(each.difficult.any() or each.truncated.any() for each in benchmark.images)


def test_every_box_can_be_scored(tmp_path):
    benchmark = open_benchmark('coco20k', str(make('coco20k', tmp_path)))
    boxes = [each.boxes for each in benchmark.images]
    assert corloc([each[0].tolist() for each in boxes], boxes).value == 1.0
    assert corloc([(0, 0, 16, 16)] * len(boxes), boxes).value < 1.0


def test_annotations_before_images(tmp_path):
    make('coco20k', tmp_path)
    expected, path = by_name(open_benchmark('coco20k', str(tmp_path))), tmp_path / FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in ('annotations', 'categories', 'images', 'info')}))
    assert by_name(open_benchmark('coco20k', str(tmp_path))) == expected


def test_the_file_is_read_once(tmp_path, monkeypatch):
    benchmark, calls = open_benchmark('coco20k', str(make('coco20k', tmp_path))), []
    original = coco20k.json_records
    monkeypatch.setattr(coco20k, 'json_records', lambda *args: calls.append(args) or original(*args))
    for _ in range(2):
        by_name(benchmark)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ('edit', 'words'),
    [
        (lambda content: content['images'].pop(3) and None, r'1 of 4 listed images are not in it: COCO_train2014_0+72'),
        (
            lambda content: content['annotations'][-1].pop('bbox') and None,
            "broken record in annotations: .*KeyError\\('bbox'\\)",
        ),
        (lambda content: content['annotations'][-1].update(bbox=[1, 2, -3, 4]), 'must be x, y, width, height'),
        (lambda content: content['annotations'][-1].update(bbox=[1, 2, float('nan'), 4]), 'must be x, y, width, height'),
        (lambda content: content['images'].insert(0, 5), 'broken record in images: 5'),
        (lambda content: content['annotations'].insert(0, 'x'), 'broken record in annotations: x'),
        (lambda content: content.pop('images') and None, 'has no list of images'),
    ],
)
def test_broken_files_are_named(edit, words, tmp_path):
    benchmark, path = open_benchmark('coco20k', str(make('coco20k', tmp_path))), tmp_path / FILE
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'{path}.*{words}'):
        by_name(benchmark)


def test_the_list_beside_the_folder_of_coco(tmp_path):
    make('coco20k', tmp_path / 'COCO')
    expected = by_name(open_benchmark('coco20k', str(tmp_path)))
    (tmp_path / 'COCO/coco_20k_filenames.txt').rename(tmp_path / 'coco_20k_filenames.txt')
    assert by_name(open_benchmark('coco20k', str(tmp_path))) == expected


def test_listed_images_without_files(tmp_path):
    make('coco20k', tmp_path)
    (tmp_path / 'images/train2014/COCO_train2014_000000000030.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'20k_filenames.txt: 1 of 4 names have no image in .*: COCO_train2014_0+30'):
        open_benchmark('coco20k', str(tmp_path))
