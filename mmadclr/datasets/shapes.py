"""A small generated labeled image set for the demo and the tests.

A class combines a shape, a texture and a pair of hues; everything else is independent of the
class: number, position, size, rotation and phase of the objects, lighting, tint, background texture and colors, and
occluding clutter. Raw pixels therefore reveal little about the class, while features learned from crops of the same image
can. Instance masks and semantic maps are stored next to the images. :mod:`mmadclr.datasets.scenes` mixes the classes on
larger images, for detection.

Layout below the root (``<split>`` is train or val)::

    <split>/<class>/<number>.png             RGB image
    instances/<split>/<class>/<number>.png   8-bit: 0 = background, i = i-th object (visible pixels)
    semantic/<split>/<class>/<number>.png    8-bit: 0 = background, c + 1 = class c
    classes.json                             class names, in label order
    settings.json                            arguments of the call, to recognize the set
"""

from __future__ import annotations

import colorsys
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from PIL import Image

from mmadclr.datasets.shared_listing import in_turn

Field = np.ndarray  # (S, S) float


class ShapeClass(NamedTuple):
    """Common properties of the objects of a class."""

    name: str
    shape: str
    texture: str
    hues: tuple[float, float]


CLASSES = (
    ShapeClass('striped_disc', 'disc', 'stripes', (0.00, 0.55)),
    ShapeClass('checked_square', 'square', 'checks', (0.12, 0.62)),
    ShapeClass('dotted_triangle', 'triangle', 'dots', (0.30, 0.80)),
    ShapeClass('ringed_star', 'star', 'rings', (0.45, 0.08)),
    ShapeClass('grainy_ring', 'ring', 'grain', (0.70, 0.20)),
    ShapeClass('wavy_cross', 'cross', 'waves', (0.85, 0.35)),
    ShapeClass('bricked_diamond', 'diamond', 'bricks', (0.05, 0.75)),
    ShapeClass('hatched_bar', 'bar', 'hatching', (0.55, 0.95)),
    ShapeClass('plain_crescent', 'crescent', 'plain', (0.20, 0.25)),
    ShapeClass('spoked_flower', 'flower', 'spokes', (0.65, 0.40)),
)


class Drawing(NamedTuple):
    """``image`` (S, S, 3) uint8; ``instances`` (S, S) uint8, 0 = background."""

    image: np.ndarray
    instances: np.ndarray


def draw_image(kind: ShapeClass, rng: np.random.Generator, size: int = 64) -> Drawing:
    """An image with three to five objects of a class on a textured background, sometimes behind clutter."""
    return draw_objects(lambda: [kind] * int(rng.integers(3, 6)), rng, size, radius=(0.22, 0.38))


def draw_objects(
    choose: Callable[[], Sequence[ShapeClass]], rng: np.random.Generator, size: int, radius: tuple[float, float]
) -> Drawing:
    """Objects of the chosen classes, in this order from back to front; ``radius`` as a fraction of the side."""
    canvas = _background(rng, size)
    instances = np.zeros((size, size), np.uint8)
    for number, kind in enumerate(choose(), start=1):
        mask, u, v = _place(kind.shape, rng, size, radius=rng.uniform(*radius))
        canvas[mask] = _paint(kind.texture, kind.hues, u, v, rng)[mask]
        instances[mask] = number
    for _ in range(rng.integers(0, 2)):
        mask, _, _ = _place('bar', rng, size, radius=rng.uniform(0.1, 0.25))
        canvas[mask] = rng.uniform(0.1, 0.9)
        instances[mask] = 0
    return Drawing(_light(canvas, rng), instances)


def _grid(size: int) -> tuple[Field, Field]:
    """Coordinates x, y in [0, 1], at pixel centers."""
    y, x = np.mgrid[:size, :size]
    return (x + 0.5) / size, (y + 0.5) / size


def _place(shape: str, rng: np.random.Generator, size: int, radius: float) -> tuple[np.ndarray, Field, Field]:
    """Mask of a shape at a random position and angle, and coordinates u, v in units of its radius."""
    x, y = _grid(size)
    cx, cy = rng.uniform(0.15, 0.85, 2)
    angle = rng.uniform(0, 2 * np.pi)
    dx, dy = (x - cx) / radius, (y - cy) / radius
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    return _inside(shape, u, v), u, v


def _inside(shape: str, u: Field, v: Field) -> np.ndarray:
    """Boolean mask of the named shape around the origin, with a radius of about 1."""
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    return {
        'disc': lambda: r < 1,
        'square': lambda: np.maximum(abs(u), abs(v)) < 0.85,
        'triangle': lambda: (v > -0.6) & (abs(u) * 1.73 + v < 1.1),
        'star': lambda: r < 0.72 + 0.38 * np.cos(5 * theta),
        'ring': lambda: (r < 1) & (r > 0.5),
        'cross': lambda: (np.minimum(abs(u), abs(v)) < 0.33) & (np.maximum(abs(u), abs(v)) < 1),
        'diamond': lambda: abs(u) + abs(v) * 0.7 < 1,
        'bar': lambda: (abs(u) < 1.2) & (abs(v) < 0.42),
        'crescent': lambda: (r < 1) & (np.hypot(u - 0.5, v) > 0.75),
        'flower': lambda: r < 0.75 + 0.25 * np.cos(8 * theta),
    }[shape]()


def _pattern(texture: str, u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Two-tone pattern in [0, 1] over object coordinates, with random phase and slightly random period."""
    a, b = rng.uniform(0, 2 * np.pi, 2)
    f = 2 * np.pi * rng.uniform(1.7, 2.3)
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    return {
        'stripes': lambda: np.sin(f * u + a) > 0,
        'checks': lambda: np.sin(f * u + a) * np.sin(f * v + b) > 0,
        'dots': lambda: np.cos(f * u + a) + np.cos(f * v + b) > 0.7,
        'rings': lambda: np.sin(1.2 * f * r + a) > 0,
        'grain': lambda: rng.random(u.shape) > 0.5,
        'waves': lambda: np.sin(f * u + 1.5 * np.sin(f * v / 2 + b) + a) > 0,
        'bricks': lambda: (np.sin(f * v + a) > 0.8) | (np.sin(f / 2 * u + np.pi * (np.sin(f / 2 * v + a / 2) > 0)) > 0.8),
        'hatching': lambda: (np.sin(1.4 * f * (u + v) + a) > 0.6) | (np.sin(1.4 * f * (u - v) + b) > 0.6),
        'plain': lambda: np.zeros_like(u),
        'spokes': lambda: np.sin(7 * theta + a) > 0,
    }[texture]().astype(float)


def _paint(texture: str, hues: tuple[float, float], u: Field, v: Field, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) colors of a textured surface; the two hues keep their distance, but not their position or strength."""
    shift = rng.normal(0, 0.03)
    pair = [
        colorsys.hsv_to_rgb((hue + shift) % 1, rng.uniform(0.5, 1.0), value)
        for hue, value in zip(hues, rng.permutation([rng.uniform(0.7, 1.0), rng.uniform(0.35, 0.6)]), strict=True)
    ]
    mix = _pattern(texture, u, v, rng)[..., None]
    return (1 - mix) * np.array(pair[0]) + mix * np.array(pair[1])


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(S, S, 3) random texture in two random colors, smooth or busy."""
    x, y = _grid(size)
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(1, 8)
    u = scale * (np.cos(angle) * x + np.sin(angle) * y)
    v = scale * (np.cos(angle) * y - np.sin(angle) * x)
    texture = rng.choice(['stripes', 'checks', 'dots', 'grain', 'waves', 'plain'])
    colors = rng.uniform(0.1, 0.9, (2, 3))
    # Dull colors: only objects are vivid.
    colors = colors.mean(axis=1, keepdims=True) + 0.45 * (colors - colors.mean(axis=1, keepdims=True))
    mix = 0.6 * _pattern(str(texture), u, v, rng)[..., None]
    ramp = rng.uniform(-0.25, 0.25) * (x - 0.5) + rng.uniform(-0.25, 0.25) * (y - 0.5)
    return (1 - mix) * colors[0] + mix * colors[1] + ramp[..., None]


def _light(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random exposure, tint, shading and sensor noise -> uint8."""
    x, y = _grid(len(canvas))
    angle = rng.uniform(0, 2 * np.pi)
    shade = 1 + rng.uniform(0, 0.6) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    gain = rng.uniform(0.55, 1.25) * rng.uniform(0.85, 1.15, 3)
    lit = canvas * shade[..., None] * gain + rng.normal(0, 0.02, canvas.shape)
    return (255 * lit.clip(0, 1)).round().astype(np.uint8)


def write_shapes(root: str | Path, num_train: int = 3000, num_val: int = 1000, size: int = 64, seed: int = 0) -> Path:
    """Generates the set in ``root`` unless the same set already exists, and returns ``root``.

    Classes alternate, so every split is balanced; sample i depends only on (seed, split, i).

    Raises:
        FileExistsError: ``root`` contains something else.
    """
    settings = dict(num_train=num_train, num_val=num_val, size=size, seed=seed, version=2)

    def write(folder: Path) -> None:
        for split, (name, count) in enumerate([('train', num_train), ('val', num_val)]):
            for number in range(count):
                _write_sample(folder, name, number, np.random.default_rng((seed, split, number)), size)
        (folder / 'classes.json').write_text(json.dumps([kind.name for kind in CLASSES], indent=1))

    return write_once(root, settings, write)


def write_once(root: str | Path, settings: dict, write: Callable[[Path], None]) -> Path:
    """Calls ``write(folder)`` and renames the folder to ``root``, unless that already has the result for these settings.

    The main process does so while the others wait, or before their turn (``shared_listing``).

    Raises:
        FileExistsError: ``root`` contains something else.
    """
    if is_main_process():
        _write_once(Path(root), settings, write)
    if not in_turn():
        barrier()
    return Path(root)


def _write_once(root: Path, settings: dict, write: Callable[[Path], None]) -> None:
    if _is_written(root, settings):
        return
    print_log(f'generating {settings["num_train"]} + {settings["num_val"]} images in {root}', 'current')
    root.parent.mkdir(parents=True, exist_ok=True)
    # Of this call alone, renamed when complete: other runs may generate the same set, or were killed while they did.
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}.', suffix='.partial', dir=root.parent) as folder:
        partial = Path(folder, root.name)
        partial.mkdir()
        write(partial)
        (partial / 'settings.json').write_text(json.dumps(settings))
        try:
            partial.rename(root)  # also onto an empty folder
        except OSError:
            if not _is_written(root, settings):  # by another run
                raise


def _is_written(root: Path, settings: dict) -> bool:
    stamp = root / 'settings.json'
    if stamp.is_file():
        if json.loads(stamp.read_text()) == settings:
            return True
        raise FileExistsError(
            f'{root} contains images generated with other settings ({stamp}); remove it or choose another folder'
        )
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f'{root} is neither empty nor a complete set of generated images; remove it')
    return False


def _write_sample(root: Path, split: str, number: int, rng: np.random.Generator, size: int) -> None:
    label = number % len(CLASSES)
    drawing = draw_image(CLASSES[label], rng, size)
    semantic = np.where(drawing.instances > 0, label + 1, 0).astype(np.uint8)
    for folder, pixels in (
        (root / split, drawing.image),
        (root / 'instances' / split, drawing.instances),
        (root / 'semantic' / split, semantic),
    ):
        file = folder / CLASSES[label].name / f'{number:06d}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
