"""Cuts images with masks into square tiles: ``python benchmarks/tiles.py IMAGES MASKS OUT --side 96``.

MASKS is a folder of label maps of the names of the images, or a COCO annotation file, whose instances become label 1. OUT
gets ``images/SPLIT`` and ``masks/SPLIT``, the layout of the benchmark ``folder``. Tiles do not overlap; what is left at the
right and lower edge is dropped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 95  # of tiles


def read_instances(file: Path) -> Callable[[Path], np.ndarray]:
    """A function from the path of an image to its mask (H, W): 1 where an instance is."""
    from pycocotools.coco import COCO

    coco = COCO(str(file))
    numbers = {image['file_name']: number for number, image in coco.imgs.items()}

    def mask(image: Path) -> np.ndarray:
        about = coco.imgs[numbers[image.name]]
        found = np.zeros((about['height'], about['width']), np.uint8)
        for annotation in coco.imgToAnns[about['id']]:
            found |= coco.annToMask(annotation)
        return found

    return mask


def read_labels(folder: Path) -> Callable[[Path], np.ndarray]:
    """A function from the path of an image to its label map (H, W)."""
    return lambda image: np.asarray(Image.open(folder / f'{image.stem}.png'))


def tiles(array: np.ndarray, side: int) -> list[np.ndarray]:
    """Tiles (side, side, ...) of an array (H, W, ...), row by row."""
    rows, columns = (length // side for length in array.shape[:2])
    cut = array[: rows * side, : columns * side]
    return [part for row in np.split(cut, rows) for part in np.split(row, columns, axis=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path)
    parser.add_argument('masks', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--split', choices=('train', 'val'), required=True)
    parser.add_argument('--side', type=int, default=96)
    args = parser.parse_args()
    mask_of = read_labels(args.masks) if args.masks.is_dir() else read_instances(args.masks)
    folders = [args.out / kind / args.split for kind in ('images', 'masks')]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for image in sorted(args.images.iterdir()):
        pairs = zip(
            tiles(np.asarray(Image.open(image).convert('RGB')), args.side), tiles(mask_of(image), args.side), strict=True
        )
        for number, (pixels, labels) in enumerate(pairs):
            Image.fromarray(pixels).save(folders[0] / f'{image.stem}_{number}.jpg', quality=QUALITY)
            Image.fromarray(labels).save(folders[1] / f'{image.stem}_{number}.png')


if __name__ == '__main__':
    main()
