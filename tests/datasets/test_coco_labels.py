"""mmdet's labels follow the names of the class list, whatever the order of categories in a file."""

import json

import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from programs import python

from mmadclr.datasets.coco_labels import by_name, category_ids

pytestmark = pytest.mark.dense
CLASSES = ('cat', 'dog', 'emu')
# Neither the order of the class list nor ascending.
CATEGORIES = [dict(id=5, name='emu'), dict(id=2, name='dog'), dict(id=9, name='cat')]
BOX = [10, 5, 20, 16]


def test_ids_stand_in_the_order_of_the_names():
    assert category_ids(CATEGORIES, CLASSES) == [9, 2, 5]
    assert category_ids(CATEGORIES, ('emu',)) == [5]
    with pytest.raises(ValueError, match=r'named cow \(metainfo\.classes\); the file has emu, dog, cat'):
        category_ids(CATEGORIES, ('cat', 'cow'))
    with pytest.raises(ValueError, match=r'categories \[9, 3\] are all named cat'):
        category_ids([*CATEGORIES, dict(id=3, name='cat')], CLASSES)


@pytest.fixture
def ann_file(tmp_path):
    """Image i holds one object, of class i."""
    Image.new('RGB', (96, 64)).save(tmp_path / 'a.png')
    ids = category_ids(CATEGORIES, CLASSES)
    annotations = [
        dict(id=i + 1, image_id=i, category_id=ids[i], bbox=BOX, area=320, iscrowd=0, segmentation=[]) for i in range(3)
    ]
    images = [dict(id=i, file_name='a.png', width=96, height=64) for i in range(3)]
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=CATEGORIES)))
    return path


@pytest.fixture
def mmdet():
    import mmadclr.ops  # noqa: F401

    by_name()
    by_name()  # once is enough, and twice does not matter
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield pytest.importorskip('mmdet')


def data_set(ann_file, **kwargs):
    from mmdet.datasets import CocoDataset

    settings = dict(data_prefix=dict(img=''), metainfo=dict(classes=CLASSES), pipeline=[])
    return CocoDataset(ann_file=str(ann_file), **settings, **kwargs)


@pytest.mark.parametrize('test_mode', [False, True])
def test_labels_of_a_data_set_are_those_of_the_names(mmdet, ann_file, test_mode):
    dataset = data_set(ann_file, test_mode=test_mode)
    assert [dataset[i]['instances'][0]['bbox_label'] for i in range(3)] == [0, 1, 2]
    assert dataset.cat2label == {9: 0, 2: 1, 5: 2}


def score(ann_file, labels):
    """A metric's results for one sure detection of a label in the place of every object."""
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(ann_file=str(ann_file), metric='bbox', classwise=True)
    metric.dataset_meta = dict(classes=CLASSES)
    box = torch.tensor([[10.0, 5.0, 30.0, 21.0]])
    for i, label in enumerate(labels):
        found = dict(bboxes=box, scores=torch.ones(1), labels=torch.tensor([label]))
        metric.process({}, [dict(pred_instances=found, img_id=i, ori_shape=(64, 96))])
    return metric.evaluate(size=3)


def test_a_metric_takes_labels_for_the_same_classes(mmdet, ann_file):
    for _ in range(2):
        results = score(ann_file, [0, 1, 2])
        assert results['coco/bbox_mAP'] == 1
    wrong = score(ann_file, [0, 2, 1])  # dog and emu exchanged
    assert wrong['coco/bbox_mAP'] == pytest.approx(1 / 3, abs=1e-3)
    # The table by class names those it means, although pycocotools sorts by id: dog 2, emu 5, cat 9.
    assert [wrong[f'coco/{name}_precision'] for name in CLASSES] == [1, 0, 0]


def test_a_metric_keeps_its_classes_over_several_evaluations(mmdet, ann_file):
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(ann_file=str(ann_file), metric='bbox')
    metric.dataset_meta = dict(classes=CLASSES)
    box = torch.tensor([[10.0, 5.0, 30.0, 21.0]])
    for _ in range(2):
        for i in range(3):
            found = dict(bboxes=box, scores=torch.ones(1), labels=torch.tensor([i]))
            metric.process({}, [dict(pred_instances=found, img_id=i, ori_shape=(64, 96))])
        assert metric.evaluate(size=3)['coco/bbox_mAP'] == 1


def test_classes_a_file_lacks_shift_no_labels(mmdet, ann_file):
    content = json.loads(ann_file.read_text())
    content['categories'][1]['name'] = 'cow'
    ann_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'no category is named dog'):
        data_set(ann_file)


PROGRAM = """
import sys
{start}
assert not any(name.startswith(('mmdet', 'pycocotools')) for name in sys.modules), 'imported before it is used'
import mmadclr.ops
from mmdet.datasets import CocoDataset
settings = dict(data_prefix=dict(img=''), metainfo=dict(classes=('cat', 'dog', 'emu')), pipeline=[])
print(CocoDataset(ann_file=sys.argv[1], **settings).cat2label)
"""
STARTS = {
    'called': 'from mmadclr.datasets.coco_labels import by_name; by_name()',
    'unchecked run': 'from mmadclr.engine import Runner; from types import SimpleNamespace; '
    "Runner.check_data(SimpleNamespace(cfg=dict(dataset_check=None)), 'train')",
}


@pytest.mark.parametrize('start', STARTS)
def test_mmdet_is_put_right_when_it_is_imported_later(ann_file, start):
    """A run does so whatever the type of its data sets, and whether or not it checks them."""
    program = ann_file.with_name('program.py')
    program.write_text(PROGRAM.format(start=STARTS[start]))
    done = python(program, ann_file)
    assert done.stdout.splitlines()[-1] == '{9: 0, 2: 1, 5: 2}'
