"""COCO's label maps: coarse classes against the published tables, and panoptic masks against a conversion by segment."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from benchmark_miniatures import make
from PIL import Image

from mmadclr.datasets.benchmarks import listing, open_benchmark
from mmadclr.datasets.benchmarks.coco import stuff_meaning
from mmadclr.datasets.benchmarks.coco_categories import (
    PANOPTIC_STUFF,
    STUFF,
    THING_CLASSES,
    THING_NAMES,
    THINGS,
    coarse_stuff,
    coarse_things,
)

# Of cocodataset/panopticapi, panoptic_coco_categories.json: supercategories of the stuff classes that are not merged.
PUBLISHED_STUFF = {
    'textile': (92, 93, 109, 141, 168),
    'building': (95, 128, 151, 166),
    'raw-material': (100,),
    'furniture-stuff': (107, 112, 130, 133, 156, 161),
    'floor': (118,),
    'plant': (119,),
    'food-stuff': (122,),
    'ground': (125, 144, 145, 147, 149, 154, 159),
    'structural': (138,),
    'water': (148, 155, 178),
    'wall': (171, 175, 176, 177),
    'window': (180, 181),
}
# Words in names of classes that say the group.
GROUPS = {
    **{name: name for name in ('building', 'ceiling', 'floor', 'ground', 'plant', 'sky', 'solid', 'structural', 'textile')},
    'food': 'food-stuff',
    'furniture': 'furniture-stuff',
    **{name: name for name in ('wall', 'water', 'window')},
}


def items_of(benchmark):
    return chain(benchmark.train, benchmark.val)


def test_few_images_without_pixel_map_are_left_out_with_a_word(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(listing, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(listing, 'FEW', 0.3)  # of 4 images
    root = make('coco_stuff', tmp_path, 'pixelmaps')
    before = open_benchmark('coco_stuff', str(root))
    Path(before.val[0].mask).unlink()
    after = open_benchmark('coco_stuff', str(root))
    assert list(after.val) == list(before.val[1:])
    assert f'1 of {len(before.val)} images have no mask' in ''.join(said)
    monkeypatch.setattr(listing, 'FEW', 0.01)
    with pytest.raises(FileNotFoundError, match='1 of 4 names have no mask'):
        open_benchmark('coco_stuff', str(root))


def test_supercategories_are_the_published_ones():
    assert sorted(chain(*STUFF.values())) == list(range(92, 183))
    assert len(STUFF) == 15
    for name, ids in PUBLISHED_STUFF.items():
        assert set(ids) <= set(STUFF[name])
    assert set(chain(*PUBLISHED_STUFF.values())) == {each for each in PANOPTIC_STUFF if each < 183}
    assert len(PANOPTIC_STUFF) == 53
    assert (len(THINGS), len(THING_NAMES)) == (12, 80)


def test_labels_are_in_alphabetical_order():
    for groups, labels in ((STUFF, coarse_stuff()), (THINGS, coarse_things())):
        names = sorted(groups)
        assert {each: names[label] for each, label in labels.items()} == {c: name for name in groups for c in groups[name]}


@pytest.mark.dense
def test_names_and_ids_are_those_of_mmsegmentation_and_mmdetection():
    from mmdet.datasets import CocoDataset
    from mmseg.datasets import COCOStuffDataset

    things, stuff = COCOStuffDataset.METAINFO['classes'][:80], COCOStuffDataset.METAINFO['classes'][80:]
    assert tuple(name for _, name in sorted(THING_NAMES.items())) == things == CocoDataset.METAINFO['classes']
    groups = {category: name for name, ids in STUFF.items() for category in ids}
    said = {92 + number: GROUPS[name.split('-')[0]] for number, name in enumerate(stuff) if name.split('-')[0] in GROUPS}
    assert len(said) > 25
    assert {category: groups[category] for category in said} == said


def test_both_kinds_of_stuff_maps_give_the_same_classes(tmp_path):
    maps = {
        kind: open_benchmark('coco_stuff', str(make('coco_stuff', tmp_path / kind, kind)))
        for kind in ('pixelmaps', 'stuffthingmaps')
    }
    for item, other in zip(items_of(maps['pixelmaps']), items_of(maps['stuffthingmaps']), strict=True):
        assert np.array_equal(maps['pixelmaps'].read_labels(item), maps['stuffthingmaps'].read_labels(other))


def test_stuff_maps_pixel_by_pixel(tmp_path):
    benchmark = open_benchmark('coco_stuff', str(make('coco_stuff', tmp_path, 'pixelmaps')))
    groups = {category: name for name, ids in STUFF.items() for category in ids}
    for item in items_of(benchmark):
        stored, labels = np.array(Image.open(item.mask)), benchmark.read_labels(item)
        for value, label in zip(stored.ravel().tolist(), labels.ravel().tolist(), strict=True):
            assert label == (255 if value in (0, 183) else benchmark.classes.index(groups[value]))


@pytest.mark.parametrize('kind', ['pixelmaps', 'stuffthingmaps'])
def test_every_label_of_stuff_maps_has_a_meaning(kind):
    meaning, things = stuff_meaning(kind), 91
    stuff = {value: label for value, label in meaning.items() if label != 255}
    assert set(meaning) == ({0, *range(92, 184)} if kind == 'pixelmaps' else {*range(182), 255})
    assert len(stuff) == 91
    assert {*stuff.values()} == {*range(15)}
    assert min(stuff) == (92 if kind == 'pixelmaps' else things)


@pytest.mark.parametrize('name', ['coco_thing', 'coco_objects'])
def test_panoptic_masks_equal_semantic_masks_made_from_them(name, tmp_path):
    """The conversion of cocodataset/panopticapi: segment by segment, category ids of 8 bits."""
    make('coco_thing', tmp_path / 'panoptic', 'panoptic')
    for split in ('train2017', 'val2017'):
        content = json.loads((tmp_path / f'panoptic/annotations/panoptic_{split}.json').read_text())
        for note in content['annotations']:
            colors = np.array(Image.open(tmp_path / f'panoptic/annotations/panoptic_{split}' / note['file_name'])).astype(
                int
            )
            segments, semantic = colors @ [1, 256, 65536], np.zeros(colors.shape[:2], dtype=np.uint8)
            for info in note['segments_info']:
                semantic[segments == info['id']] = info['category_id']
            folder = tmp_path / f'semantic/annotations/panoptic_annotations/semantic_segmentations_{split}'
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(semantic).save(folder / note['file_name'])
    (tmp_path / 'semantic/images').symlink_to(tmp_path / 'panoptic/images')
    panoptic, semantic = (open_benchmark(name, str(tmp_path / kind)) for kind in ('panoptic', 'semantic'))
    assert {Path(item.mask).parent.parent.name for item in semantic.train} == {'panoptic_annotations'}
    for item, other in zip(items_of(panoptic), items_of(semantic), strict=True):
        assert np.array_equal(panoptic.read_labels(item), semantic.read_labels(other))


def test_things_and_objects_by_name(tmp_path):
    things, objects = (
        open_benchmark(name, str(make(name, tmp_path, 'semantic'))) for name in ('coco_thing', 'coco_objects')
    )
    groups = {category: name for name, group in THINGS.items() for category in group}
    assert things.classes == THING_CLASSES
    for item in items_of(things):
        stored = np.array(Image.open(item.mask))
        for value, thing, label in zip(
            *(each.ravel().tolist() for each in (stored, things.read_labels(item), objects.read_labels(item))), strict=True
        ):
            if value in THING_NAMES:
                assert (things.classes[thing], objects.classes[label]) == (groups[value], THING_NAMES[value])
            else:
                assert (thing, label) == (255, 0 if value else 255)


@pytest.mark.parametrize(
    ('name', 'layout', 'other', 'hint'),
    [
        ('coco_thing', 'semantic', 'stuffthingmaps', 'have the 133 panoptic ids'),
        ('coco_stuff', 'stuffthingmaps', 'semantic', 'have 0 to 181 and 255'),
    ],
)
def test_masks_of_the_other_kind_in_the_folder_that_both_may_have(name, layout, other, hint, tmp_path):
    """``annotations/train2017`` is in published layouts of both; the wrong kind is noticed by its labels."""
    other_name = 'coco_stuff' if other == 'stuffthingmaps' else 'coco_thing'
    for source, place in ((name, layout), (other_name, other)):
        root = make(source, tmp_path / place, place)
        for split in ('train2017', 'val2017'):
            masks = next(each for each in root.rglob(f'*{split}') if each.parent.name != 'images')
            masks.rename(root / f'annotations_{split}')
            (root / 'annotations').mkdir(exist_ok=True)
            (root / f'annotations_{split}').rename(root / f'annotations/{split}')
    right, wrong = (open_benchmark(name, str(tmp_path / place)) for place in (layout, other))
    assert sum(right.read_labels(item).size for item in items_of(right)) > 0
    with pytest.raises(ValueError, match=hint):
        [wrong.read_labels(item) for item in items_of(wrong)]


def test_panoptic_masks_beside_the_maps_of_the_official_instructions(tmp_path):
    """These unpack stuff and thing maps into ``annotations``."""
    make('coco_stuff', tmp_path, 'stuffthingmaps')
    expected = labels_of(open_benchmark('coco_stuff', str(tmp_path)))
    make('coco_thing', tmp_path / 'other')
    things = labels_of(open_benchmark('coco_thing', str(tmp_path / 'other')))
    (tmp_path / 'other/annotations').rename(tmp_path / 'annotations')
    for split in ('train2017', 'val2017'):
        (tmp_path / 'stuffthingmaps' / split).rename(tmp_path / 'annotations' / split)
    assert labels_of(open_benchmark('coco_stuff', str(tmp_path))) == expected
    (tmp_path / 'images').rename(tmp_path / 'images of stuff')
    (tmp_path / 'other/images').rename(tmp_path / 'images')
    assert labels_of(open_benchmark('coco_thing', str(tmp_path))) == things


def labels_of(benchmark):
    return [benchmark.read_labels(item).tolist() for item in items_of(benchmark)]


# --- panoptic files --------------------------------------------------------------------------------------------------------


def changed(tmp_path, edit):
    """A panoptic miniature whose JSON file of the validation images was edited, as text or as content."""
    benchmark = open_benchmark('coco_thing', str(make('coco_thing', tmp_path)))
    path = tmp_path / 'annotations/panoptic_val2017.json'
    content = json.loads(path.read_text())
    text = edit(content)
    path.write_text(text if isinstance(text, str) else json.dumps(content))
    return benchmark, path


@pytest.mark.parametrize(
    ('edit', 'words'),
    [
        (lambda content: json.dumps(content)[:400], 'panoptic_val2017.json is broken: .*character'),
        (lambda content: content.pop('annotations') and None, 'has no list of annotations'),
        (lambda content: content['annotations'].pop(0) and None, 'has no annotation of the mask .*140.png'),
        (
            lambda content: content['annotations'][0].pop('segments_info') and None,
            'annotation 0 must have file_name, and segments',
        ),
        (
            lambda content: content['annotations'][1].update(segments_info=[{'id': 3}]),
            "annotation 1 must have .*'category_id'",
        ),
        (
            lambda content: content['annotations'][0]['segments_info'].pop() and None,
            '140.png has the segment .*does not list',
        ),
        (lambda content: content['annotations'][0]['segments_info'][0].update(category_id=183), 'have the label 183'),
        (
            lambda content: content['annotations'][0]['segments_info'][0].update(category_id='1'),
            "segment .* of category '1'",
        ),
        (lambda content: content['annotations'].append(content['annotations'][0]), 'two annotations of 000000000140'),
        (lambda content: '[]', "is broken: '\\[' instead of '{'"),
    ],
)
def test_broken_panoptic_files(edit, words, tmp_path):
    benchmark, path = changed(tmp_path, edit)
    for item in benchmark.train:
        benchmark.read_labels(item)
    with pytest.raises(ValueError, match=words) as caught:
        [benchmark.read_labels(item) for item in benchmark.val]
    assert str(path) in str(caught.value) or str(path.with_suffix('')) in str(caught.value)
