"""Categories of COCO: 80 things and 91 stuff classes with their supercategories, and which of them panoptic files have.

Lin et al., *Microsoft COCO*, ECCV 2014; Caesar et al., *COCO-Stuff*, CVPR 2018 (nightrome/cocostuff, ``labels.txt``;
hierarchy: nightrome/cocostuff10k, ``dataset/code/CocoStuffClasses.m``); Kirillov et al., *Panoptic segmentation*, CVPR 2019
(cocodataset/panopticapi, ``panoptic_coco_categories.json``).
"""

from __future__ import annotations


def _numbered(text: str) -> dict[int, str]:
    """``'1 person, 2 bicycle'`` -> names by id."""
    pairs = (part.strip().split(' ', 1) for part in text.split(','))
    return {int(number): name for number, name in pairs}


# Things by supercategory.
THINGS = {
    'person': _numbered('1 person'),
    'vehicle': _numbered('2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat'),
    'outdoor': _numbered('10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench'),
    'animal': _numbered('16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe'),
    'accessory': _numbered('27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase'),
    'sports': _numbered(
        '34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard, '
        '42 surfboard, 43 tennis racket'
    ),
    'kitchen': _numbered('44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl'),
    'food': _numbered(
        '52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake'
    ),
    'furniture': _numbered('62 chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet'),
    'electronic': _numbered('72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell phone'),
    'appliance': _numbered('78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator'),
    'indoor': _numbered('84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush'),
}
# Ids of stuff by supercategory; 183, "other", is everything that is not stuff.
STUFF = {
    'building': (95, 96, 128, 151, 158, 166),
    'ceiling': (102, 103),
    'floor': (101, 114, 115, 116, 117, 118),
    'food-stuff': (121, 122, 153, 170),
    'furniture-stuff': (98, 107, 108, 110, 112, 123, 130, 133, 156, 161, 165),
    'ground': (111, 125, 126, 136, 140, 144, 145, 147, 149, 154, 159),
    'plant': (94, 97, 119, 124, 129, 134, 142, 163, 169),
    'raw-material': (100, 132, 139, 143),
    'sky': (106, 157),
    'solid': (127, 135, 150, 160, 162, 182),
    'structural': (99, 113, 138, 146, 164),
    'textile': (92, 93, 104, 105, 109, 131, 137, 141, 152, 167, 168),
    'wall': (171, 172, 173, 174, 175, 176, 177),
    'water': (120, 148, 155, 178, 179),
    'window': (180, 181),
}
OTHER = 183
# Panoptic files keep these stuff classes, and merge the others into 184 to 200.
PANOPTIC_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154, 155),
    *(156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)),
)

STUFF_CLASSES = tuple(sorted(STUFF))
THING_CLASSES = tuple(sorted(THINGS))
THING_NAMES = {category: name for group in THINGS.values() for category, name in group.items()}


def coarse_stuff() -> dict[int, int]:
    """Stuff id -> label of its supercategory, in alphabetical order (15 classes)."""
    return {category: label for label, name in enumerate(STUFF_CLASSES) for category in STUFF[name]}


def coarse_things() -> dict[int, int]:
    """Thing id -> label of its supercategory, in alphabetical order (12 classes)."""
    return {category: label for label, name in enumerate(THING_CLASSES) for category in THINGS[name]}
