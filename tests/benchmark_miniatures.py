"""Dense benchmarks in miniature: a few generated images in exactly the layout in which each data set is distributed.

``make(name, root)`` writes one below a folder and returns the folder, which ``open_benchmark(name, folder)`` opens. Pixels
have the color of their label, so that even simple features tell classes apart.
"""

import json
from itertools import chain, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmadclr.datasets.benchmarks.coco_categories import OTHER, PANOPTIC_STUFF, STUFF, THING_NAMES, THINGS

VOID = 255
SIZES = ((64, 48), (48, 64), (64, 64))  # width, height
SPLITS = {'train': 6, 'val': 4}
CITYSCAPES_LABELS = (0, 1, 3, 4, 7, 8, 11, 21, 23, 24, 26, 33)
STUFF_SUPERCATEGORY = {category: name for name, group in STUFF.items() for category in group}
# Left, top, right, bottom, and difficult, truncated; as written in annotations of VOC.
VOC_OBJECTS = {
    '000005': [(1, 1, 32, 48, 0, 0), (20, 10, 60, 40, 1, 0)],
    '000007': [(5, 7, 48, 64, 0, 1)],
    '000009': [(3, 3, 30, 30, 0, 0), (33, 12, 64, 64, 1, 1), (2, 40, 20, 64, 0, 0)],
    '000012': [(10.7, 8.2, 50.9, 44.1, 0, 0)],
}
DAVIS_VIDEOS = {'bike-packing': 5, 'judo': 4}
SPAIR_IMAGES = {'aeroplane': 3, 'cow': 3, 'tvmonitor': 2}


def make(name, root, layout=None):
    """Writes a miniature; ``layout`` is one of those of ``LAYOUTS``, by default the first. Returns ``root``."""
    root = Path(root)
    makers = MAKERS[name]
    makers[layout or next(iter(makers))](root)
    return root


# --- pictures --------------------------------------------------------------------------------------------------------------


def label_map(seed, labels, size=None, void=None):
    """(H, W) int array: a ground of the first label, and rectangles of others, edged in ``void`` if given."""
    rng = np.random.default_rng(seed)
    width, height = size or SIZES[seed % len(SIZES)]
    found = np.full((height, width), labels[0], dtype=np.int64)
    for number in range(3):
        left, top = rng.integers(1, width // 2), rng.integers(1, height // 2)
        right, bottom = left + rng.integers(8, width // 2), top + rng.integers(8, height // 2)
        if void is not None:
            found[top - 1 : bottom + 1, left - 1 : right + 1] = void
        found[top:bottom, left:right] = labels[(seed + 1 + number) % len(labels)]
    return found


def picture(labels):
    """A noisy image whose colors tell labels apart."""
    colors = np.random.default_rng(7).integers(30, 220, (1 << 16, 3))
    noise = np.random.default_rng(int(labels.sum())).integers(-20, 20, (*labels.shape, 3))
    return Image.fromarray((colors[labels % (1 << 16)] + noise).astype(np.uint8))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def gray(labels):
    return Image.fromarray(labels.astype(np.uint8))


def with_palette(labels):
    """As VOC and DAVIS store masks: indices with the bit-interleaved color map."""
    image = Image.fromarray(labels.astype(np.uint8), mode='P')
    colors = [
        [sum((index >> (3 * bit + band) & 1) << (7 - bit) for bit in range(3)) for band in range(3)] for index in range(256)
    ]
    image.putpalette(list(chain(*colors)))
    return image


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lines(path, names):
    write(path, ''.join(f'{name}\n' for name in names))


# --- VOC -------------------------------------------------------------------------------------------------------------------


def _voc_names():
    return {
        'train': ['2007_000032', '2007_000039', '2007_000063'],
        'aug': ['2008_000008', '2008_000015', '2011_003255'],
        'val': ['2007_000033', '2007_000042', '2007_000061', '2007_000123'],
    }


def voc(root, images, lists, augmented='trainaug', base=''):
    base, names = root / base, _voc_names()
    for seed, name in enumerate(chain(*names.values())):
        labels = label_map(seed, [0, 1, 8, 12, 15, 20])
        save(picture(labels), base / images / f'{name}.jpg')
        if name not in names['aug']:
            save(with_palette(label_map(seed, [0, 1, 8, 12, 15, 20], void=VOID)), base / 'SegmentationClass' / f'{name}.png')
        if augmented and name not in names['val']:
            save(gray(labels), base / 'SegmentationClassAug' / f'{name}.png')
    lines(base / lists / 'train.txt', names['train'])
    lines(base / lists / 'val.txt', names['val'])
    if augmented:
        whole = names['train'] + names['aug'] if augmented == 'trainaug' else names['aug']
        lines(base / lists / f'{augmented}.txt', whole)


def voc_boxes(root, year):
    base = root / f'VOCdevkit/VOC{year}'
    named = {name if year == '2007' else f'2008_{name}': objects for name, objects in VOC_OBJECTS.items()}
    for seed, (name, objects) in enumerate(named.items()):
        labels = label_map(seed, [0, 3, 9])
        save(picture(labels), base / 'JPEGImages' / f'{name}.jpg')
        write(base / 'Annotations' / f'{name}.xml', _voc_annotation(name, labels.shape, objects, year))
    lines(base / 'ImageSets/Main/trainval.txt', named)
    write(
        base / 'ImageSets/Main/person_trainval.txt',
        ''.join(f'{name}  {sign}\n' for name, sign in zip(named, '-1', strict=False)),
    )


def _voc_annotation(name, shape, objects, year):
    note = ElementTree.Element('annotation')
    for key, text in {'folder': f'VOC{year}', 'filename': f'{name}.jpg', 'segmented': '0'}.items():
        ElementTree.SubElement(note, key).text = text
    size = ElementTree.SubElement(note, 'size')
    for key, value in zip(('width', 'height', 'depth'), (shape[1], shape[0], 3), strict=True):
        ElementTree.SubElement(size, key).text = str(value)
    for *box, difficult, truncated in objects:
        element = ElementTree.SubElement(note, 'object')
        ElementTree.SubElement(element, 'name').text = 'person'
        ElementTree.SubElement(element, 'pose').text = 'Unspecified'
        ElementTree.SubElement(element, 'truncated').text = str(truncated)
        if year == '2007' or difficult:  # some annotations of 2012 leave it out
            ElementTree.SubElement(element, 'difficult').text = str(difficult)
        _voc_box(element, box)
        part = ElementTree.SubElement(element, 'part')  # head, of person layout, with a box of its own
        ElementTree.SubElement(part, 'name').text = 'head'
        _voc_box(part, (11, 12, 13, 14))
    return ElementTree.tostring(note, encoding='unicode')


def _voc_box(element, box):
    found = ElementTree.SubElement(element, 'bndbox')
    for side, value in zip(('xmax', 'xmin', 'ymax', 'ymin'), (box[2], box[0], box[3], box[1]), strict=True):
        ElementTree.SubElement(found, side).text = str(value)


# --- ADE20K, Cityscapes ----------------------------------------------------------------------------------------------------


def ade20k(root):
    for split, (folder, letters) in {'train': ('training', 'train'), 'val': ('validation', 'val')}.items():
        for number in range(SPLITS[split]):
            name = f'ADE_{letters}_{number + 1:08d}'
            labels = label_map(number, [0, 1, 2, 3, 13, 150])
            save(picture(labels), root / f'ADEChallengeData2016/images/{folder}/{name}.jpg')
            save(gray(labels), root / f'ADEChallengeData2016/annotations/{folder}/{name}.png')


def cityscapes(root):
    for split, count in SPLITS.items():
        for number in range(count):
            city = ('aachen', 'bochum')[number % 2]
            name = f'{city}_{number:06d}_000019'
            labels = label_map(number, CITYSCAPES_LABELS, (64, 32))
            save(picture(labels), root / f'leftImg8bit/{split}/{city}/{name}_leftImg8bit.png')
            below = root / f'gtFine/{split}/{city}'
            save(gray(labels), below / f'{name}_gtFine_labelIds.png')
            save(gray(labels + 1), below / f'{name}_gtFine_instanceIds.png')
            save(picture(labels).convert('RGBA'), below / f'{name}_gtFine_color.png')
            write(below / f'{name}_gtFine_polygons.json', '{}')


# --- COCO ------------------------------------------------------------------------------------------------------------------


def _coco_images(root, folder, labels_of):
    """Writes images; yields split, name and labels."""
    for split, count in SPLITS.items():
        for number in range(count):
            name = f'{139 + 1000 * number + (split == "val"):012d}'
            labels = labels_of(number)
            save(picture(labels), root / f'{folder}/{split}2017/{name}.jpg')
            yield f'{split}2017', name, labels


def coco_stuff(root, kind):
    stuff = [92, 105, 124, 149, 157, 171, 182]
    for split, name, labels in _coco_images(root, 'images', lambda n: label_map(n, [124, 0, OTHER, *stuff])):
        if kind == 'pixelmaps':
            save(gray(labels), root / f'annotations/stuff_annotations/stuff_{split}_pixelmaps/{name}.png')
        else:  # things stay things, and what is unlabeled is 255
            things = np.where(labels == OTHER, 1, labels)
            save(gray(np.where(things == 0, VOID, things - 1)), root / f'stuffthingmaps/{split}/{name}.png')


def panoptic_categories():
    """As in the files: things with their supercategories, and stuff."""
    groups = {category: name for name, group in THINGS.items() for category in group}
    things = [dict(id=c, name=name, supercategory=groups[c], isthing=1, color=[c, 0, 0]) for c, name in THING_NAMES.items()]
    stuff = [
        dict(id=c, name=f'stuff {c}', supercategory=STUFF_SUPERCATEGORY.get(c, 'sky'), isthing=0, color=[0, c, 0])
        for c in PANOPTIC_STUFF
    ]
    return things + stuff


def coco_panoptic(root, kind):
    records = {}
    for split, name, labels in _coco_images(root, 'images', lambda n: label_map(n, [187, 0, 1, 16, 62, 90, 184, 1])):
        if kind == 'semantic':
            save(gray(labels), root / f'annotations/panoptic_annotations/semantic_segmentations_{split}/{name}.png')
            continue
        segments, record = _segments(labels, int(name))
        colors = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=2).astype(np.uint8)
        save(Image.fromarray(colors), root / f'annotations/panoptic_{split}/{name}.png')
        records.setdefault(split, []).append({**record, 'file_name': f'{name}.png'})
    for split, annotations in records.items():
        images = [dict(id=each['image_id'], file_name=each['file_name'].replace('png', 'jpg')) for each in annotations]
        content = dict(info={'year': 2017}, licenses=[{'id': 1}], images=images, annotations=annotations)
        write(root / f'annotations/panoptic_{split}.json', json.dumps({**content, 'categories': panoptic_categories()}))


def _segments(labels, image_id):
    """(H, W) segment ids, 0 where the label is 0, and the annotation."""
    rng, segments, infos = np.random.default_rng(image_id), np.zeros_like(labels), []
    for category in np.unique(labels[labels > 0]).tolist():
        number = int(rng.integers(1, 1 << 24))
        segments[labels == category] = number
        infos.append(dict(id=number, category_id=category, iscrowd=int(category == 1), bbox=[0, 0, 4, 4], area=16))
    return segments, dict(image_id=image_id, segments_info=infos[::-1])


def coco20k(root):
    """Four of five images are listed; one of them has a crowd, and one an object smaller than a pixel."""
    images, notes = [], []
    for number in range(5):
        labels, name = label_map(number, [0, 3, 9]), f'COCO_train2014_{9 + 21 * number:012d}'
        save(picture(labels), root / f'images/train2014/{name}.jpg')
        image = dict(id=9 + 21 * number, file_name=f'{name}.jpg', height=labels.shape[0], width=labels.shape[1])
        images.append(image)
        boxes = [[10.5, 3.5, 20.25, 30.75], [0.0, 0.0, 40.5, 22.5], [2.1, 7.51, 0.3, 9.0]][: 1 + number % 3]
        notes += [dict(image_id=image['id'], bbox=box, iscrowd=0) for box in boxes]
    notes.append(dict(image_id=30, bbox=[1, 1, 30, 30], iscrowd=1))
    notes = [
        dict(note, id=number + 1, category_id=1, area=1.0, segmentation=[[0, 0, 1, 0, 1, 1]])
        for number, note in enumerate(notes)
    ]
    content = dict(info={}, images=images, annotations=notes[::-1], categories=[dict(id=1, name='person')])
    write(root / 'annotations/instances_train2014.json', json.dumps(content))
    lines(root / 'coco_20k_filenames.txt', [f'train2014/{image["file_name"]}' for image in images[3::-1]])


# --- DAVIS, SPair ----------------------------------------------------------------------------------------------------------


def davis(root):
    """Two videos of moving squares; in the second, object 2 appears late."""
    for seed, (video, frames) in enumerate(DAVIS_VIDEOS.items()):
        for time in range(frames):
            labels = np.zeros((48, 64), dtype=np.int64)
            labels[8 + 2 * time : 28 + 2 * time, 4 + 3 * time : 24 + 3 * time] = 1
            if seed == 0 or time >= 2:
                labels[20:40, 36 + time : 54 + time] = 2
            save(picture(labels + 3 * seed), root / f'DAVIS/JPEGImages/480p/{video}/{time:05d}.jpg')
            save(with_palette(labels), root / f'DAVIS/Annotations/480p/{video}/{time:05d}.png')
    lines(root / 'DAVIS/ImageSets/2017/val.txt', DAVIS_VIDEOS)
    lines(root / 'DAVIS/ImageSets/2017/train.txt', ['bear'])


def spair(root):
    """Pairs of neighboring images of each category; the last pair has no common point."""
    base, names, number = root / 'SPair-71k', [], 0
    for category, count in SPAIR_IMAGES.items():
        objects = [_spair_image(base, category, index) for index in range(count)]
        for first, second in pairwise(objects):
            number += 1
            name = f'{number:06d}-{first["name"]}-{second["name"]}:{category}'
            write(base / f'PairAnnotation/test/{name}.json', json.dumps(_spair_pair(name, number, category, first, second)))
            names.append(name)
    lines(base / 'Layout/large/test.txt', names)


def _spair_image(base, category, index):
    """A square with colored corners, whose corners and center are keypoints; point 3 is hidden in odd images."""
    width, height = SIZES[index % len(SIZES)]
    left, top, side = 6 + 3 * index, 5 + 2 * index, 24
    labels = np.zeros((height, width), dtype=np.int64)
    labels[top : top + side, left : left + side] = 1 + len(category)
    points = [(left, top), (left + side - 1, top), (left, top + side - 1), (left + side // 2, top + side // 2)]
    for number, (x, y) in enumerate(points):
        labels[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 40 + number
    name = f'2008_{100 * len(category) + index:06d}'
    save(picture(labels), base / f'JPEGImages/{category}/{name}.jpg')
    save(gray((labels > 0).astype(int)), base / f'Segmentation/{category}/{name}.png')
    visible = {str(number): list(point) for number, point in enumerate(points) if number != 3 or index % 2 == 0}
    return dict(name=name, size=[width, height, 3], box=[left, top, left + side, top + side], points=visible)


def _spair_pair(name, number, category, first, second):
    common = sorted({*first['points']} & {*second['points']}) if category != 'tvmonitor' else []
    found = dict(filename=name, pair_id=number, category=category, kps_ids=common, mirror=0)
    for prefix, side in (('src', first), ('trg', second)):
        found |= {
            f'{prefix}_imname': f'{side["name"]}.jpg',
            f'{prefix}_imsize': side['size'],
            f'{prefix}_bndbox': side['box'],
            f'{prefix}_kps': [side['points'][key] for key in common],
            f'{prefix}_pose': 'Left',
        }
    return {**found, 'viewpoint_variation': number % 3, 'scale_variation': 0, 'truncation': 0, 'occlusion': 1}


# --- folders of users ------------------------------------------------------------------------------------------------------


def folder(root, form):
    """Names have blanks, percent signs, folders and other cases of extensions."""
    names = {'train': ['a b', 'c%20d', 'deep/x.y', 'e', 'f', 'g'], 'val': ['h', 'i j', 'deep/k', 'l']}
    for split, some in names.items():
        for seed, name in enumerate(some):
            labels = label_map(seed, [0, 1, 2, 3])
            labels[-3:] = VOID
            images, masks = FOLDER_PARTS[form]
            save(picture(labels), root / images.format(split=split) / f'{name}.{("jpg", "JPG", "png")[seed % 3]}')
            save(
                (gray, with_palette)[seed % 2](labels),
                root / masks.format(split=split) / f'{name}.{("png", "PNG")[seed % 2]}',
            )
    if form in ('inside', 'lists'):
        lines(root / 'classes.txt', ['background', 'red thing', 'tree', 'sky'])
    if form == 'lists':
        lines(root / 'train.txt', names['train'])
        lines(root / 'val.txt', [f'{name}.jpg' for name in names['val']])


FOLDER_PARTS = {
    'inside': ('images/{split}', 'masks/{split}'),
    'mmseg': ('img_dir/{split}', 'ann_dir/{split}'),
    'outside': ('{split}/images', '{split}/masks'),
    'flat': ('images', 'masks'),
    'lists': ('images', 'masks'),
}
MAKERS = {
    'voc': {
        'devkit': lambda root: voc(root, 'JPEGImages', 'ImageSets/Segmentation', base='VOCdevkit/VOC2012'),
        'aug': lambda root: voc(root, 'JPEGImages', 'ImageSets/Segmentation', 'aug', base='VOCdevkit/VOC2012'),
        'plain': lambda root: voc(root, 'JPEGImages', 'ImageSets/Segmentation', '', base='VOCdevkit/VOC2012'),
        'sets': lambda root: voc(root, 'images', 'sets'),
    },
    'ade20k': {'challenge': ade20k},
    'cityscapes': {'fine': cityscapes},
    'coco_stuff': {kind: lambda root, kind=kind: coco_stuff(root, kind) for kind in ('pixelmaps', 'stuffthingmaps')},
    'coco_thing': {kind: lambda root, kind=kind: coco_panoptic(root, kind) for kind in ('panoptic', 'semantic')},
    'davis': {'2017': davis},
    'spair': {'2019': spair},
    'voc07': {'devkit': lambda root: voc_boxes(root, '2007')},
    'voc12': {'devkit': lambda root: voc_boxes(root, '2012')},
    'coco20k': {'2014': coco20k},
    'folder': {form: lambda root, form=form: folder(root, form) for form in FOLDER_PARTS},
}
MAKERS |= {
    'voc_train': {'devkit': MAKERS['voc']['devkit'], 'plain': MAKERS['voc']['plain']},
    'ade20k_151': MAKERS['ade20k'],
    'coco_objects': MAKERS['coco_thing'],
}
LAYOUTS = [(name, layout) for name, makers in MAKERS.items() for layout in makers]
