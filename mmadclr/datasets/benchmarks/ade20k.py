"""ADE20K: the 150 classes of the scene parsing challenge 2016.

Zhou et al., *Scene parsing through ADE20K dataset*, CVPR 2017.
"""

from __future__ import annotations

from typing import Literal

from mmadclr.datasets.benchmarks.labels import LabelReader
from mmadclr.datasets.benchmarks.layouts import Guide, locate
from mmadclr.datasets.benchmarks.listing import paired_folders
from mmadclr.datasets.benchmarks.types import VOID, SegmentationBenchmark

NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen
door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
CLASSES = tuple(' '.join(name.split()) for name in NAMES.split(','))
UNLABELED = 'unlabeled'
GUIDE = Guide(
    ('.', 'ADEChallengeData2016', 'ade20k', 'ade/ADEChallengeData2016', 'ade20k/ADEChallengeData2016'),
    {'challenge': ('images/training', 'images/validation', 'annotations/training', 'annotations/validation')},
    'ADEChallengeData2016/{images,annotations}/{training,validation}',
    'sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)',
)


def open_ade20k(root: str, zero: Literal['void', 'class'] = 'void') -> SegmentationBenchmark:
    """ADE20K, 20,210 and 2,000 images.

    Args:
        root: Folder of the data set, or one above it.
        zero: Label 0, pixels of none of the 150 classes. ``'void'``: ignored, and labels 1 to 150 become 0 to 149 (CAPI,
            mmsegmentation). ``'class'``: class 0 of 151, named ``unlabeled``, which the protocols that count 151 classes
            (open-hummingbird-eval, NeCo) ignore in scoring; the name is then ``ade20k_151``.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError, ValueError: See ``paired_folders``; another value of ``zero``.
    """
    if zero not in ('void', 'class'):
        raise ValueError(f"zero={zero!r}: must be 'void' or 'class'")
    name = 'ade20k' if zero == 'void' else 'ade20k_151'
    base = locate(name, root, GUIDE).base
    train, val = (
        paired_folders(base / 'images' / split, base / 'annotations' / split) for split in ('training', 'validation')
    )
    hint = 'masks must be those of the challenge, 0 to 150, without reduced labels'
    if zero == 'class':
        reader = LabelReader({label: label for label in range(len(CLASSES) + 1)}, hint)
        return SegmentationBenchmark(name, (UNLABELED, *CLASSES), train, val, reader, 0)
    reader = LabelReader({0: VOID, **{label + 1: label for label in range(len(CLASSES))}}, hint)
    return SegmentationBenchmark(name, CLASSES, train, val, reader, None)


def open_ade20k_151(root: str) -> SegmentationBenchmark:
    """ADE20K with label 0 as a class; see :func:`open_ade20k`."""
    return open_ade20k(root, zero='class')
