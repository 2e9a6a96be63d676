"""Generated scenes with several shapes of different classes, in COCO's layout: a small detection set.

Objects have the same size in pixels as in :mod:`mmadclr.datasets.shapes`, but independent classes and more
space between them. Layout below the root (``<split>`` is train or val)::

    <split>/<number>.png                   RGB image
    annotations/instances_<split>.json     visible pixels of every object, in COCO's format
    settings.json                          arguments of the call, to recognize the set
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmadclr.datasets.shapes import CLASSES, draw_objects, write_once

MIN_PIXELS = 16  # minimum visible pixels of annotated objects; smaller ones are unrecognizable


class Scene(NamedTuple):
    """``image`` (S, S, 3) uint8; ``instances`` (S, S) uint8, 0 = background; ``labels``: class of instance i at i - 1."""

    image: np.ndarray
    instances: np.ndarray
    labels: list[int]


def draw_scene(rng: np.random.Generator, size: int = 96) -> Scene:
    """Three to six objects with independent classes."""
    labels = rng.integers(len(CLASSES), size=rng.integers(3, 7)).tolist()
    drawing = draw_objects(lambda: [CLASSES[label] for label in labels], rng, size, radius=(0.12, 0.2))
    return Scene(*drawing, labels)


def write_scenes(root: str | Path, num_train: int = 1500, num_val: int = 300, size: int = 96, seed: int = 0) -> Path:
    """Generates the set in ``root`` unless it already exists, and returns ``root``; sample i depends only on its index.

    Raises:
        FileExistsError: ``root`` contains something else.
    """
    settings = dict(num_train=num_train, num_val=num_val, size=size, seed=seed, version=1)

    def write(folder: Path) -> None:
        (folder / 'annotations').mkdir()
        for split, (name, count) in enumerate([('train', num_train), ('val', num_val)]):
            (folder / name).mkdir()
            scenes = [draw_scene(np.random.default_rng((seed, split, number)), size) for number in range(count)]
            for number, scene in enumerate(scenes):
                Image.fromarray(scene.image).save(folder / name / _file_name(number))
            (folder / 'annotations' / f'instances_{name}.json').write_text(json.dumps(coco_annotations(scenes)))

    return write_once(root, settings, write)


def _file_name(number: int) -> str:
    return f'{number:06d}.png'


def coco_annotations(scenes: Sequence[Scene]) -> dict:
    """COCO annotations of scenes 0, 1, ...; objects with fewer than ``MIN_PIXELS`` visible pixels are omitted."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number, scene in enumerate(scenes):
        height, width = scene.instances.shape
        images.append(dict(id=number, file_name=_file_name(number), height=height, width=width))
        for instance, label in enumerate(scene.labels, start=1):
            mask = scene.instances == instance
            if mask.sum() >= MIN_PIXELS:
                fields = dict(id=len(annotations) + 1, image_id=number, category_id=label + 1)
                annotations.append(fields | _describe(mask))
    categories = [dict(id=label + 1, name=kind.name) for label, kind in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def _describe(mask: np.ndarray) -> dict:
    """Box, area and run lengths of the visible pixels of an object."""
    rows, columns = (np.flatnonzero(np.any(mask, axis=axis)).tolist() for axis in (1, 0))
    return dict(
        bbox=[columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]],
        area=int(mask.sum()),
        iscrowd=0,
        segmentation=dict(size=list(mask.shape), counts=run_lengths(mask)),
    )


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run-length encoding of a boolean mask: column-major, starting with zeros."""
    flat = np.concatenate(([False], mask.flatten(order='F')))
    changes = np.concatenate((flat[1:] != flat[:-1], [True])).nonzero()[0]
    return np.diff(changes, prepend=0).tolist()
