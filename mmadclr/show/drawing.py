"""Grids of pictures with labels, and what is drawn on them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

HEAT = 'inferno'
CELL = 1.75  # inches
LABEL, TITLE, LINE, GAP = 0.3, 0.24, 0.14, 0.06  # inches
FLAT, TALL = 0.3, 1.5  # limits of height by width of a row
FONT = 8
WIDE = 0.58  # width of a letter by size of the font
QUERY_COLOR, FOUND_COLOR = 'gold', 'cyan'
# Okabe and Ito's colors, which color-blind readers can tell apart.
COLORS = ('#e69f00', '#56b4e9', '#009e73', '#f0e442', '#d55e00', '#cc79a7')


class Sheet(NamedTuple):
    """A figure and its axes (rows, columns)."""

    figure: Figure
    axes: np.ndarray


def sheet(
    labels: Sequence[str],
    titles: Sequence[str],
    aspects: Sequence[float],
    note: str = '',
    text: float = 0,
    cell: float = CELL,
) -> Sheet:
    """An empty grid.

    Args:
        labels: Of the rows, of one or two lines, written at their left.
        titles: Of the columns, written above the first row.
        aspects: Height by width of the pictures of each row.
        note: Lines below all rows.
        text: Inches above each row for titles of single pictures.
        cell: Inches of a column.
    """
    heights = [cell * min(max(aspect, FLAT), TALL) for aspect in aspects]
    width = LABEL + len(titles) * (cell + GAP) + GAP
    lines = textwrap.wrap(note, letters(width - LABEL, FONT - 1))
    height = TITLE + sum(heights) + len(heights) * (GAP + text) + LINE * len(lines) + GAP
    figure = Figure(figsize=(width, height))
    lefts = [LABEL + column * (cell + GAP) for column in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        _write(figure, left + cell / 2, height - TITLE / 2, fitted(title, cell), ha='center', fontweight='bold')
    _write(figure, LABEL, GAP, '\n'.join(lines), va='bottom', fontsize=FONT - 1, color='dimgray')
    axes, top = np.empty((len(labels), len(titles)), object), height - TITLE
    for row, tall in enumerate(heights):
        top -= tall + text
        label = '\n'.join(fitted(line, tall) for line in labels[row].splitlines())
        _write(figure, LABEL / 2, top + tall / 2, label, rotation=90, ha='center', multialignment='center')
        for column, left in enumerate(lefts):
            axes[row, column] = figure.add_axes((left / width, top / height, cell / width, tall / height))
            axes[row, column].set_axis_off()
        top -= GAP
    return Sheet(figure, axes)


def _write(figure: Figure, left: float, bottom: float, text: str, **look) -> None:
    """Text at a place in inches."""
    width, height = figure.get_size_inches()
    figure.text(left / width, bottom / height, text, **{'va': 'center', 'fontsize': FONT, 'parse_math': False, **look})


def fitted(text: str, inches: float) -> str:
    """A text in one line of a length, without its middle where it is too long."""
    room = letters(inches, FONT)
    if len(text) <= room:
        return text
    end = room // 2
    return f'{text[: room - end - 1]}\u2026{text[-end:]}'


def letters(inches: float, font: int) -> int:
    """How many letters fit, at least 4."""
    return max(4, int(inches * 72 / (WIDE * font)))


def heat(axis: Axes, values: Tensor, low: float | None = None, high: float | None = None) -> None:
    """A map (h, w), from its smallest to its largest value unless given, one square for each patch."""
    axis.imshow(values.numpy(), cmap=HEAT, vmin=low, vmax=high, interpolation='nearest')


def overlay(axis: Axes, image: Image.Image, values: Tensor, low: float | None = None, high: float | None = None) -> None:
    """A map (h, w) over an image in gray."""
    width, height = image.size
    axis.imshow(image.convert('L'), cmap='gray', vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(
        values.numpy(), cmap=HEAT, alpha=0.65, vmin=low, vmax=high, interpolation='nearest', extent=extent, aspect='equal'
    )


def draw_box(axis: Axes, box: Sequence[float], color: str, style: str = '-', width: float = 1.2) -> None:
    """A box: left, top, right, bottom in pixels, right and bottom exclusive."""
    left, top, right, bottom = box
    # Pixel i covers [i - 0.5, i + 0.5] in the coordinates of imshow.
    corner = (left - 0.5, top - 0.5)
    sides = (right - left, bottom - top)
    axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=color, linestyle=style, linewidth=width))


def draw_fractions(axis: Axes, box: Sequence[float], size: tuple[int, int], color: str) -> None:
    """A box in fractions of the sides of an image of ``size`` (width, height)."""
    draw_box(axis, [part * side for part, side in zip(box, (*size, *size), strict=True)], color, width=1.6)


def draw_patch(
    axis: Axes, place: tuple[int, int], grid: Sequence[int], size: tuple[int, int], color: str, margin: float
) -> None:
    """The patch (row, column) of a grid (h, w) on an image of ``size`` (width, height), and ``margin`` patches around it."""
    sides = (size[1] / grid[0], size[0] / grid[1])
    starts = [max(0.0, (i - margin) * side) for i, side in zip(place, sides, strict=True)]
    ends = [min((i + 1 + margin) * side, whole) for i, side, whole in zip(place, sides, size[::-1], strict=True)]
    draw_box(axis, (starts[1], starts[0], ends[1], ends[0]), color, width=1.5)


def write_on(axis: Axes, place: tuple[float, float], text: str, color: str) -> None:
    """A letter on a picture, legible on any background."""
    outline = [effects.withStroke(linewidth=1.8, foreground='black')]
    axis.text(*place, text, color=color, fontsize=FONT, fontweight='bold', ha='center', va='bottom', path_effects=outline)


def say(axis: Axes, text: str) -> None:
    """A short title of one picture."""
    axis.set_title(text, fontsize=FONT - 1, pad=2)


def aspect_of(image: Image.Image) -> float:
    """Height by width."""
    return image.height / image.width


def scale_to(values: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Values (h, w) or (h, w, C) as pixels of an image of ``size`` (width, height), one square for each patch."""
    rows = np.arange(size[1]) * values.shape[0] // size[1]
    columns = np.arange(size[0]) * values.shape[1] // size[0]
    return values.numpy()[rows[:, None], columns]
