"""COCO files with any value at any depth: the check passes what mmdet and pycocotools then load, or names the record."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.registry import DefaultScope
from PIL import Image
from strategies import JSON, Refusal, damaged, mutated, outcome

from mmadclr.datasets.checks import check_dataset
from mmadclr.datasets.coco_masks import decompress, mask_problem

pytestmark = pytest.mark.dense
WIDTH, HEIGHT = 24, 16
SQUARE = [[2, 1, 10, 1, 10, 9, 2, 9]]
RUNS = dict(size=[HEIGHT, WIDTH], counts=[20, 12, HEIGHT * WIDTH - 32])
PACKED = dict(size=[HEIGHT, WIDTH], counts='d0<P;')  # the same, compressed by pycocotools
CLASSES = ('cat', 'dog')


def annotation(number, segmentation, **kwargs):
    sides = dict(bbox=[2, 1, 8, 8], area=64, iscrowd=0, segmentation=segmentation)
    return dict(id=number, image_id=number % 2, category_id=(1, 7)[number % 2], **sides | kwargs)


VALID = dict(
    info={},
    images=[dict(id=number, file_name=f'{number}.png', width=WIDTH, height=HEIGHT) for number in range(2)],
    annotations=[annotation(1, SQUARE), annotation(2, RUNS), annotation(3, PACKED), annotation(4, RUNS, iscrowd=1)],
    categories=[dict(id=1, name='cat'), dict(id=7, name='dog')],
)
BYTES = {
    'plain': json.dumps(VALID).encode(),
    'marked': b'\xef\xbb\xbf' + json.dumps(VALID).encode(),
    'wide': json.dumps(VALID).encode('utf-16'),
}
USES = {
    'boxes': dict(with_bbox=True),
    'masks': dict(with_bbox=True, with_mask=True),
    'polygons': dict(with_bbox=True, with_mask=True, poly2mask=False),
}
METRICS = {'none': None, 'bbox': ['bbox'], 'segm': ['bbox', 'segm']}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    import mmadclr.ops  # noqa: F401

    root = tmp_path_factory.mktemp('coco')
    for number in range(2):
        Image.new('RGB', (WIDTH, HEIGHT)).save(root / f'{number}.png')
    return root


def configs(root, use, metric):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', **USES[use])]
    dataset = dict(type='CocoDataset', data_root=str(root), ann_file='a.json', data_prefix=dict(img='./'))
    dataset |= dict(metainfo=dict(classes=CLASSES), pipeline=pipeline, test_mode=metric != 'none')
    evaluator = dict(type='CocoMetric', ann_file=str(root / 'a.json'), metric=METRICS[metric])
    return dataset, None if metric == 'none' else evaluator


def check(root, data, use, metric):
    (root / 'a.json').write_bytes(data)
    dataset, evaluator = configs(root, use, metric)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return outcome(lambda: check_dataset(dataset, evaluator=evaluator), 'a.json', lines=True)


def load(root, use, metric):
    """What a run does with a file that the check passed: all samples, and a score of its own objects."""
    from mmdet.registry import DATASETS
    from mmdet.registry import METRICS as REGISTRY

    dataset, evaluator = configs(root, use, metric)
    with DefaultScope.overwrite_default_scope('mmdet'), contextlib.redirect_stdout(io.StringIO()):
        built = DATASETS.build(dataset | dict(test_mode=False, filter_cfg=None))
        for number in range(len(built)):
            sample = built[number]
            assert sample['img'].shape == (HEIGHT, WIDTH, 3)
            assert np.isfinite(sample['gt_bboxes'].tensor.numpy()).all()
            assert set(sample['gt_bboxes_labels'].tolist()) <= {0, 1}
            if USES[use].get('with_mask'):
                assert len(sample['gt_masks']) == len(sample['gt_bboxes'])
        if evaluator is not None:
            REGISTRY.build(evaluator)
            score(root / 'a.json', METRICS[metric])


def score(path: Path, kinds):
    """pycocotools on results equal to the annotations."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(path))
    boxes = [
        dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=0.5) for a in truth.anns.values()
    ]
    for kind in kinds:
        results = boxes
        if kind == 'segm':
            masks = {number: truth.annToRLE(a) for number, a in truth.anns.items()}
            results = [dict(box, segmentation=mask) for box, mask in zip(boxes, masks.values(), strict=True)]
            results = [{key: value for key, value in result.items() if key != 'bbox'} for result in results]
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert np.isfinite(evaluation.stats).all()


CHOICES = dict(use=st.sampled_from(sorted(USES)), metric=st.sampled_from(sorted(METRICS)))


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('use', ['boxes', 'masks'])
def test_the_sound_file_passes(folder, use, metric):
    assert not isinstance(check(folder, BYTES['plain'], use, metric), Refusal)
    load(folder, use, metric)


@given(content=mutated(VALID), **CHOICES)
def test_any_value_at_any_place(folder, content, use, metric):
    """What passes is loaded, and scored, by the libraries that the check speaks for."""
    end = check(folder, json.dumps(content).encode(), use, metric)
    if not isinstance(end, Refusal):
        load(folder, use, metric)


@given(data=damaged(BYTES).map(lambda file: file[1]), **CHOICES)
def test_damaged_files(folder, data, use, metric):
    end = check(folder, data, use, metric)
    if not isinstance(end, Refusal):
        load(folder, use, metric)


NUMBERS = st.integers(-(2**70), 2**70) | st.integers(0, HEIGHT * WIDTH) | st.floats() | st.booleans()
FORMS = st.one_of(
    JSON,
    st.lists(st.lists(NUMBERS, max_size=8), max_size=3),
    st.fixed_dictionaries(dict(size=st.just([HEIGHT, WIDTH]), counts=st.lists(NUMBERS, max_size=5) | st.text(max_size=12))),
    mutated(RUNS),
    mutated(SQUARE),
)


@example(form=PACKED, poly2mask=True)
@given(form=FORMS, poly2mask=st.booleans())
def test_segmentations_that_pass_are_masks_of_the_image(form, poly2mask):
    from pycocotools import mask

    image = dict(id=1, file_name='0.png', width=WIDTH, height=HEIGHT)
    problem = outcome(lambda: mask_problem(form, image, wanted=True, poly2mask=poly2mask))
    assert not isinstance(problem, Refusal)
    if problem is not None:
        assert all(isinstance(part, str) and part for part in problem)
        return
    if isinstance(form, list):
        packed = mask.merge(mask.frPyObjects(form, HEIGHT, WIDTH))
    else:
        packed = form if isinstance(form['counts'], str) else mask.frPyObjects(form, HEIGHT, WIDTH)
    assert mask.decode(packed).shape == (HEIGHT, WIDTH)


@given(st.text(max_size=20) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=40))
def test_compressed_text_of_any_kind(text):
    runs = outcome(lambda: decompress(text))
    assert runs is None or (runs.dtype == np.int64 and runs.size <= len(text))
