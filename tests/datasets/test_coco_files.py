"""COCO files as people bring them: every malformed key and form is one line, whatever a file is used for."""

import json
import logging

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmadclr.datasets import checks
from mmadclr.datasets.checks import DatasetError, check_dataset
from mmadclr.datasets.coco_masks import decompress
from mmadclr.datasets.scenes import run_lengths

pytestmark = pytest.mark.dense
CLASSES = ('cat', 'dog')
LOADS_MASKS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
LOADS_BOXES = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
SQUARE = [[10, 5, 30, 5, 30, 21, 10, 21]]
METRIC = dict(type='CocoMetric', metric=['bbox', 'segm'])


@pytest.fixture(autouse=True)
def _stand_in():
    import mmadclr.ops  # noqa: F401


@pytest.fixture
def said(monkeypatch):
    """What the check logs, with its level."""
    lines = []
    monkeypatch.setattr(checks, 'print_log', lambda text, logger, level: lines.append((text, level)))
    return lines


def content(num_images=4, num_annotations=8):
    """Images of 96x64 pixels with two objects each, in categories 1 and 7."""
    images = [dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in range(num_images)]
    annotations = [
        dict(
            id=i + 1,
            image_id=i % num_images,
            category_id=(1, 7)[i % 2],
            bbox=[10, 5, 20, 16],
            area=320,
            iscrowd=0,
            segmentation=SQUARE,
        )
        for i in range(num_annotations)
    ]
    return dict(images=images, annotations=annotations, categories=[dict(id=1, name='cat'), dict(id=7, name='dog')])


@pytest.fixture
def coco(tmp_path):
    """Returns a function that writes a changed file with its images and checks the data set over it."""
    (tmp_path / 'img').mkdir()
    for i in range(4):
        Image.new('RGB', (96, 64)).save(tmp_path / 'img' / f'{i}.png')

    def check(change=lambda c: None, evaluator=None, raw=None, **kwargs):
        changed = content()
        change(changed)
        (tmp_path / 'a.json').write_text(json.dumps(changed) if raw is None else raw)
        cfg = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img='img/'))
        cfg |= dict(metainfo=dict(classes=CLASSES), pipeline=LOADS_MASKS)
        with DefaultScope.overwrite_default_scope('mmdet'):
            return check_dataset(cfg | kwargs, evaluator=evaluator)

    return check


def problems(check, *args, **kwargs):
    with pytest.raises(DatasetError) as error:
        check(*args, **kwargs)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def first(**changes):
    return lambda c: c['annotations'][0].update(changes)


def each(part, key):
    return lambda c: [record.pop(key) for record in c[part]]


def test_sound_files_pass_for_every_use(coco, said):
    for uses in ({}, dict(test_mode=True), dict(evaluator=METRIC), dict(pipeline=LOADS_BOXES)):
        assert coco(**uses).endswith('all items OK')
    assert not said


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (each('annotations', 'area'), 'record 0 of annotations has no area (annotation 1); write the pixels of the object'),
        (each('annotations', 'bbox'), 'record 0 of annotations has no bbox (annotation 1)'),
        (each('annotations', 'id'), 'record 0 of annotations has no id'),
        (each('annotations', 'segmentation'), 'annotation 1 has no segmentation, but masks are loaded or scored'),
        (each('images', 'file_name'), 'record 0 of images has no file_name (image 0)'),
        (each('images', 'width'), 'record 0 of images has no width (image 0)'),
        (each('categories', 'name'), 'record 0 of categories has no name (category 1)'),
        (first(bbox=None), 'annotation 1 has bbox null, which is not four finite numbers'),
        (first(bbox=[1, 2, 3]), 'annotation 1 has bbox [1, 2, 3], which is not four'),
        (first(bbox=[1, 2, -3, 4]), 'annotation 1 has bbox [1, 2, -3, 4], which is not four'),
        (first(bbox=[1, 2, float('nan'), 4]), 'annotation 1 has bbox [1, 2, NaN, 4], which is not four'),
        (first(bbox=['1', '2', '3', '4']), 'annotation 1 has bbox ["1", "2", "3", "4"], which is not four'),
        (first(bbox=[1, 2, 3, 10**400]), 'annotation 1 has bbox [1, 2, 3, 10000'),
        (first(bbox=dict(x=1)), 'annotation 1 has bbox {"x": 1}, which is not four'),
        (first(area=None), 'annotation 1 has area null, which is not a finite non-negative number'),
        (first(area='320'), 'annotation 1 has area "320", which is not a finite non-negative number'),
        (first(area=-1), 'annotation 1 has area -1, which is not a finite non-negative number'),
        (first(iscrowd=None), 'annotation 1 has iscrowd null, which is not 0 or 1'),
        (first(iscrowd='0'), 'annotation 1 has iscrowd "0", which is not 0 or 1'),
        (first(id='a1'), 'record 0 of annotations has id "a1", which is not an integer'),
        (first(id=2), '2 annotations have the id 2'),
        (first(image_id='0'), 'annotation 1 has image_id "0", which is not an integer, the id of an image'),
        (first(image_id=99), 'annotation 1 has image_id 99, which images does not list'),
        (first(category_id=3), '1 annotations have category_id 3, which categories does not list (annotation 1)'),
        (first(category_id=True), 'annotation 1 has category_id true, which is not an integer'),
        (first(segmentation=[]), 'annotation 1 has an empty segmentation'),
        (first(segmentation={}), 'annotation 1 has an empty segmentation'),
        (first(segmentation=None), 'annotation 1 has no segmentation'),
        (first(segmentation='mask.png'), 'annotation 1 has a segmentation of type str'),
        (first(segmentation=SQUARE[0]), 'annotation 1 has a segmentation that is a single polygon, not a list of polygons'),
        (first(segmentation=[[1, 2, 3, 4]]), 'annotation 1 has a polygon with fewer than 6 numbers'),
        (first(segmentation=[*SQUARE, [1, 2]]), 'annotation 1 has a polygon with fewer than 6 numbers'),
        (first(segmentation=[[]]), 'annotation 1 has a polygon with fewer than 6 numbers'),
        (first(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), 'annotation 1 has a polygon with an odd number of coordinates'),
        (first(segmentation=[['1', '2', '3', '4', '5', '6']]), 'annotation 1 has a polygon that is not a flat list'),
        (first(segmentation=[[1, 2, 3, 4, 5, None]]), 'annotation 1 has a polygon that is not a flat list'),
        (
            first(segmentation=[[1, 2, 3, 4, 5, float('inf')]]),
            'annotation 1 has a polygon with a coordinate that is not finite',
        ),
        (first(segmentation=[[[1, 2], [3, 4], [5, 6]]]), 'annotation 1 has a polygon with nested points'),
        (
            first(segmentation=[[1, 1, 300, 1, 300, 9]]),
            'annotation 1 has a polygon outside its image of 96x64 pixels (0.png)',
        ),
        (first(segmentation=dict(size=[64, 96])), 'annotation 1 has run lengths without size or counts'),
        (
            first(segmentation=dict(size=[96, 64], counts=[0, 6144])),
            'annotation 1 has a mask of 64x96 pixels, but its image 0.png',
        ),
        (
            first(segmentation=dict(size=[64, 96], counts=[0, 9])),
            'annotation 1 has run lengths of 9 pixels in total, but its image',
        ),
        (first(segmentation=dict(size=[64, 96], counts=[6144])), 'annotation 1 has an empty mask'),
        (first(segmentation=dict(size=[64, 96], counts='~~')), 'annotation 1 has run lengths that are neither a list'),
        (first(segmentation=dict(size=[64, 96], counts=[0.5])), 'annotation 1 has run lengths that are neither a list'),
        (first(segmentation=dict(size=64, counts=[0, 6144])), 'annotation 1 has run lengths whose size is not [height'),
        (first(bbox=[200, 2, 5, 5]), 'annotation 1 has a box [200, 2, 5, 5] outside its image of 96x64 pixels'),
        (
            first(bbox=[10, 5, 30, 21]),
            'annotation 1 has a box [10, 5, 30, 21], the corners x1, y1, x2, y2 of its polygon',
        ),
        (lambda c: c['annotations'].append(5), 'record 8 of annotations is 5, not an object'),
        (lambda c: c.update(images=dict(a=1)), 'images is {"a": 1}, not a list of records'),
        (lambda c: c['images'][1].update(id='x'), 'record 1 of images has id "x", which is not an integer'),
        (lambda c: c['images'][1].update(id=0), '2 images have the id 0'),
        (lambda c: c['images'][1].update(width=0), 'image 1 has width 0, which is not a number of pixels'),
        (lambda c: c['images'][1].update(height=64.5), 'image 1 has height 64.5, which is not a number of pixels'),
        (lambda c: c['images'][1].update(file_name=None), 'image 1 has file_name null, which is not a file name'),
        (lambda c: c['images'][1].update(width=50), '1.png has 96x64 pixels, but its annotation has 50x64'),
        (lambda c: c['images'][1].update(file_name='a\0.png'), 'image 1: '),
        (lambda c: c['categories'].append(dict(id=9, name='cat')), 'categories [1, 9] are all named cat'),
        (lambda c: c['categories'].append(dict(id=7, name='cow')), '2 categories have the id 7'),
        (lambda c: c['categories'][0].update(name=3), 'category 1 has name 3, which is not a name'),
        (lambda c: c['categories'][0].update(name='Cat'), 'no category is named cat; the file has Cat, dog'),
        (lambda c: c.pop('categories'), 'empty or without categories'),
    ],
)
def test_what_is_malformed_is_one_line_with_its_record(coco, change, message, test_mode):
    lines = problems(coco, change, test_mode=test_mode)
    (line,) = [line for line in lines if message in line]
    assert 'a.json: ' in line


def test_lines_tell_how_many_more_there_are(coco):
    (line,) = problems(coco, each('annotations', 'area'))
    assert line.endswith('(and 7 more like it)')


@pytest.mark.parametrize('raw', ['[1, 2]', '"text"', '', '{"images": [', '[' * 100_000, '\ufeff{}', 'null'])
def test_files_that_are_no_annotations(coco, raw):
    (line,) = problems(coco, raw=raw)
    assert 'a.json: ' in line


def test_crowds_have_to_be_marked_where_a_file_is_scored(coco):
    """mmdet's loading takes what is not marked for single objects; pycocotools fails in the first validation."""
    drop = each('annotations', 'iscrowd')
    assert coco(drop).endswith('all items OK')
    for uses in (dict(test_mode=True), dict(evaluator=METRIC)):
        (line,) = problems(coco, drop, **uses)
        assert 'record 0 of annotations has no iscrowd (annotation 1); write 0 for single objects' in line


def test_masks_are_needed_by_those_who_load_or_score_them(coco):
    drop = each('annotations', 'segmentation')
    assert coco(drop, pipeline=LOADS_BOXES).endswith('all items OK')
    assert coco(drop, pipeline=LOADS_BOXES, evaluator=dict(METRIC, metric='bbox')).endswith('all items OK')
    for uses in (dict(pipeline=LOADS_MASKS), dict(pipeline=LOADS_BOXES, evaluator=[METRIC])):
        (line,) = problems(coco, drop, **uses)
        assert 'has no segmentation, but masks are loaded or scored' in line
        assert 'and 7 more' in line


def test_run_lengths_of_both_forms_pass_and_need_bitmaps(coco):
    from pycocotools import mask

    bitmap = np.zeros((64, 96), np.uint8, order='F')
    bitmap[5:21, 10:30] = 1
    forms = (dict(size=[64, 96], counts=run_lengths(bitmap.astype(bool))), mask.encode(bitmap))
    for form in forms:
        form = dict(form, counts=form['counts'].decode()) if isinstance(form['counts'], bytes) else form
        assert coco(first(segmentation=form)).endswith('all items OK')
        pipeline = [dict(type='LoadAnnotations', with_mask=True, poly2mask=False)]
        (line,) = problems(coco, first(segmentation=form), pipeline=pipeline)
        assert 'annotation 1 has run lengths, which are ignored with poly2mask=False' in line


def test_compressed_run_lengths_are_those_of_pycocotools():
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for density in np.linspace(0, 1, 40):
        bitmap = rng.random(tuple(rng.integers(1, 150, 2))) < density**3
        text = mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))['counts'].decode()
        assert decompress(text).tolist() == run_lengths(bitmap)
    assert [decompress(text) for text in ('', 'é', 'o', ' ')] == [None] * 4


def test_boxes_given_by_corners_are_found_without_polygons(coco):
    def corners(c):
        for annotation in c['annotations']:
            annotation.update(bbox=[60, 30, 90, 60], segmentation=[])

    (line,) = problems(coco, corners, pipeline=LOADS_BOXES)
    assert '8 boxes extend beyond their images, and all boxes would fit as corners x1, y1, x2, y2' in line
    overhanging = first(bbox=[80, 40, 90, 60], segmentation=[])  # among others that are no corners: a sloppy box
    assert coco(overhanging, pipeline=LOADS_BOXES).endswith('all items OK')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (first(bbox=[10, 5, 0, 0], area=0), 'annotation 1 has a box of 0x0 pixels and area 0: mmdet ignores objects'),
        (first(id=0), 'annotation 0 is never matched: pycocotools treats id 0 as no match'),
        (lambda c: [annotation.update(category_id=1) for annotation in c['annotations']], 'no annotations of dog'),
    ],
)
def test_what_may_be_meant_is_said(coco, change, message, said):
    assert coco(change, test_mode=True).endswith('all items OK')
    ((text, level),) = said
    assert message in text
    assert level == logging.WARNING


def test_annotations_of_no_use_are_refused(coco):
    (line,) = problems(coco, lambda c: [annotation.update(iscrowd=1) for annotation in c['annotations']])
    assert 'no annotation is usable: all are crowds' in line


def test_test_sets_need_annotations_only_where_they_are_scored(coco):
    drop = lambda c: c.pop('annotations')  # noqa: E731
    assert coco(drop, test_mode=True, evaluator=dict(METRIC, format_only=True)).endswith('all items OK')
    (line,) = problems(coco, drop, test_mode=True, evaluator=METRIC)
    assert 'empty or without annotations' in line


def test_metrics_score_against_the_images_of_the_data_set(coco, tmp_path):
    other = tmp_path / 'other.json'
    other.write_text(json.dumps(content(num_images=3)))
    (line,) = problems(coco, test_mode=True, evaluator=dict(METRIC, ann_file=str(other)))
    assert 'other.json, used by CocoMetric, lists 0 images that' in line
    assert 'and lacks 1' in line
    (line,) = problems(coco, test_mode=True, evaluator=dict(METRIC, ann_file=str(tmp_path / 'none.json')))
    assert 'none.json' in line
    assert 'No such file' in line
    other.write_text(json.dumps(content()))
    assert coco(test_mode=True, evaluator=dict(METRIC, ann_file=str(other))).endswith('all items OK')


def photograph(path, orientation, size=(64, 96)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(path, exif=exif)


def test_sizes_are_those_of_images_as_they_are_loaded(coco, tmp_path):
    """Stored as 64x96 pixels and displayed as 96x64."""
    photograph(tmp_path / 'img' / '0.png', 6)
    assert coco().endswith('all items OK')
    as_stored = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation')]
    (line,) = problems(coco, pipeline=as_stored)
    assert (
        '0.png has 64x96 pixels, but its annotation has 96x64: this pipeline does not apply its EXIF orientation 6' in line
    )

    def stored(c):
        c['images'][0].update(width=64, height=96)

    assert coco(stored, pipeline=as_stored).endswith('all items OK')
    (line,) = problems(coco, stored)
    assert 'stored as 64x96 and rotated by its EXIF orientation 6 when loaded. Annotate it as displayed' in line


def test_turns_that_sizes_do_not_show_are_said(coco, tmp_path, said):
    photograph(tmp_path / 'img' / '1.png', 3, size=(96, 64))
    assert coco().endswith('all items OK')
    ((text, _),) = said
    assert '1.png has EXIF orientation 3, and its size does not show' in text
