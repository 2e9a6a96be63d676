"""Figures of what backbones see, as lists of pages with some pictures each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from PIL import Image

from mmadclr.show.components import patch_colors
from mmadclr.show.drawing import (
    COLORS,
    FOUND_COLOR,
    QUERY_COLOR,
    Sheet,
    aspect_of,
    draw_box,
    draw_fractions,
    draw_patch,
    heat,
    overlay,
    say,
    scale_to,
    sheet,
    write_on,
)
from mmadclr.show.last_block import cls_attention, last_keys
from mmadclr.show.matches import Matches, Place, mutual_matches, nearest_elsewhere, nearest_images, spread_matches
from mmadclr.show.objects import find_object
from mmadclr.show.query_crops import BOX, ask
from mmadclr.show.study import Study

ROWS = 12  # of a page
NEAREST = 5
DIE = ((0.25, 0.25), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.75, 0.75))  # rows and columns, as fractions
MAX_LINES, APART = 30, 3.0  # lines of a correspondence, and patches between their ends
TEXT = 0.16  # inches for titles of single pictures
MARGIN = 1.0  # patches framed around one that was found


def pages(study: Study, rows: int | None, each: int) -> Iterator[range]:
    """Numbers of pictures of each page, for ``each`` rows a picture; ``rows`` None: one page."""
    count = len(study.pictures)
    step = count if rows is None else max(1, rows // each)
    for start in range(0, count, step):
        yield range(start, min(start + step, count))


def labels(study: Study, shown: Sequence[int]) -> list[str]:
    """Of rows that show one picture by one backbone each."""
    if len(study.subjects) == 1:
        return [study.pictures[i].name for i in shown]
    return [f'{study.pictures[i].name}\n{subject.name}' for i in shown for subject in study.subjects]


def cases(study: Study, shown: Sequence[int]) -> list[tuple[int, int]]:
    """Picture and backbone of these rows."""
    return [(i, j) for i in shown for j in range(len(study.subjects))]


def aspects(study: Study, cells: Sequence[tuple[int, int]]) -> list[float]:
    return [aspect_of(study.image(subject, picture)) for picture, subject in cells]


# --- attention -------------------------------------------------------------------------------------------------------------


def attention_figures(study: Study, rows: int | None = ROWS) -> list[Figure]:
    """Attention of [CLS] in the last block: a picture, the mean over heads, and each head.

    Raises:
        ValueError: A backbone has no class token.
    """
    for subject in study.subjects:
        if not subject.has_cls:
            raise ValueError(
                f'{subject.name} has no class token, so there is no attention of [CLS] to show: leave out attention'
            )
    return [_attention_page(study, shown) for shown in pages(study, rows, len(study.subjects))]


def _attention_page(study: Study, shown: Sequence[int]) -> Figure:
    cells = cases(study, shown)
    heads = max(subject.model.blocks[-1].attn.num_heads for subject in study.subjects)
    titles = ['image', 'mean', *(f'head {i + 1}' for i in range(heads))]
    note = 'Attention of [CLS] to the patches in the last block; each map from its smallest to its largest value.'
    page = sheet(labels(study, shown), titles, aspects(study, cells), note)
    for axes, (picture, subject) in zip(page.axes, cells, strict=True):
        model = study.subjects[subject].model
        maps = cls_attention(model, study.pixels(subject, picture))[0].cpu()
        axes[0].imshow(study.image(subject, picture))
        for axis, values in zip(axes[1:], [maps.mean(dim=0), *maps], strict=False):
            heat(axis, values)
    return page.figure


# --- one column a backbone -------------------------------------------------------------------------------------------------


def pca_figures(study: Study, rows: int | None = ROWS) -> list[Figure]:
    """Principal components of the patches of all pictures as colors; see ``patch_colors``.

    Raises:
        ValueError: The patches do not vary in three directions.
    """
    colors = [patch_colors(study.grids(subject)) for subject in range(len(study.subjects))]

    def draw(axis: Axes, image: Image.Image, subject: int, picture: int) -> None:
        axis.imshow(torch.nan_to_num(colors[subject][picture], nan=1.0).numpy(), interpolation='nearest')
        draw_box(axis, (0, 0, *colors[subject][picture].shape[1::-1]), 'lightgray', width=0.8)

    note = 'First three components of the foreground patches of all images; background white.'
    return _columns(study, rows, 'PCA', draw, note)


def segmentation_figures(study: Study, rows: int | None = ROWS) -> list[Figure]:
    """The object of each picture by TokenCut, without labels."""

    def draw(axis: Axes, image: Image.Image, subject: int, picture: int) -> None:
        found = find_object(last_keys(study.subjects[subject].model, study.pixels(subject, picture))[0].float().cpu())
        inside = scale_to(found.mask, image.size)[..., None]
        gray = np.asarray(image.convert('L').convert('RGB')) * 0.55 + 90
        axis.imshow(np.where(inside, np.asarray(image), gray).astype(np.uint8))
        draw_fractions(axis, found.box, image.size, QUERY_COLOR)

    return _columns(study, rows, 'object', draw, 'TokenCut on the keys of the last block: the object in color, and its box.')


def _columns(study: Study, rows: int | None, title: str, draw: Callable, note: str) -> list[Figure]:
    """Pages with a row for each picture: the picture, then what each backbone makes of it."""
    alone = len(study.subjects) == 1
    titles = ['image', *(title if alone else subject.name for subject in study.subjects)]
    figures = []
    for shown in pages(study, rows, 1):
        page = sheet([study.pictures[i].name for i in shown], titles, aspects(study, [(i, 0) for i in shown]), note)
        for axes, picture in zip(page.axes, shown, strict=True):
            axes[0].imshow(study.image(0, picture))
            for subject, axis in enumerate(axes[1:]):
                draw(axis, study.image(subject, picture), subject, picture)
        figures.append(page.figure)
    return figures


# --- neighbors -------------------------------------------------------------------------------------------------------------


def neighbors_figures(study: Study, rows: int | None = ROWS) -> list[Figure]:
    """Pages with the nearest pictures of each picture, then pages with the nearest patches of five of its patches.

    Raises:
        ValueError: There is only one picture, or a feature is zero.
    """
    study.check_pairs('neighbors')
    each = len(study.subjects)
    draw = (partial(_images_page, study), partial(_patches_page, study))
    return [page(shown) for page in draw for shown in pages(study, rows, each)]


def _images_page(study: Study, shown: Sequence[int]) -> Figure:
    k = min(NEAREST, len(study.pictures) - 1)
    cells = cases(study, shown)
    what = ['[CLS]' if subject.has_cls else 'mean of patches' for subject in study.subjects]
    note = f'Nearest images by cosine of {" / ".join(dict.fromkeys(what))}.'
    page = sheet(labels(study, shown), ['image', *(f'{i + 1}' for i in range(k))], aspects(study, cells), note, TEXT)
    nearest = [nearest_images(study.wholes(subject), k) for subject in range(len(study.subjects))]
    for axes, (picture, subject) in zip(page.axes, cells, strict=True):
        axes[0].imshow(study.image(subject, picture))
        cosines, numbers = (part[picture].tolist() for part in nearest[subject])
        for axis, cosine, number in zip(axes[1:], cosines, numbers, strict=True):
            axis.imshow(study.image(subject, number))
            say(axis, f'{cosine:.2f}')
    return page.figure


def _patches_page(study: Study, shown: Sequence[int]) -> Figure:
    k = min(2, len(study.pictures) - 1)
    cells = cases(study, shown)
    titles = ['image', *(f'{"ABCDE"[i]}{j + 1}' for i in range(len(DIE)) for j in range(k))]
    note = 'For patches A to E, the other images with the most similar patches, which are framed; above them, the cosines.'
    page = sheet(labels(study, shown), titles, aspects(study, cells), note, TEXT, cell=1.3)
    for axes, (picture, subject) in zip(page.axes, cells, strict=True):
        _draw_patches(study, axes, subject, picture, k)
    return page.figure


def _draw_patches(study: Study, axes: np.ndarray, subject: int, picture: int, k: int) -> None:
    grids, patch = study.grids(subject), study.subjects[subject].model.patch_size
    height, width = grids[picture].shape[:2]
    points = [(int(row * height), int(column * width)) for row, column in DIE]
    image = study.image(subject, picture)
    axes[0].imshow(image)
    for letter, (row, column), color in zip('ABCDE', points, COLORS, strict=False):
        draw_patch(axes[0], (row, column), (height, width), image.size, color, 0.5)
        write_on(axes[0], ((column + 0.5) * patch, (row - 0.7) * patch), letter, color)
    found = nearest_elsewhere(grids, picture, [row * width + column for row, column in points], k)
    cells = [(place, color) for places, color in zip(found, COLORS, strict=False) for place in places]
    for axis, (place, color) in zip(axes[1:], cells, strict=True):
        _draw_place(axis, study.image(subject, place.picture), grids[place.picture].shape, place, color)


def _draw_place(axis: Axes, image: Image.Image, grid: Sequence[int], place: Place, color: str) -> None:
    axis.imshow(image)
    draw_patch(axis, (place.row, place.column), grid, image.size, color, MARGIN)
    say(axis, f'{place.cosine:.2f}')


# --- correspondence --------------------------------------------------------------------------------------------------------


def correspondence_figures(study: Study, rows: int | None = ROWS) -> list[Figure]:
    """Mutual nearest patches of each picture and the next, the best of them that are apart, joined by lines.

    Raises:
        ValueError: There is only one picture, or a feature is zero.
    """
    study.check_pairs('correspondence')
    shown = [part[:-1] if part[-1] == len(study.pictures) - 1 else part for part in pages(study, rows, 1)]
    return [_pairs_page(study, part) for part in shown if part]


def _pairs_page(study: Study, shown: Sequence[int]) -> Figure:
    names = [f'{study.pictures[i].name}\n{study.pictures[i + 1].name}' for i in shown]
    alone = len(study.subjects) == 1
    titles = ['image', 'next image'] if alone else [subject.name for subject in study.subjects for _ in range(2)]
    tall = [max(values) for values in zip(*(aspects(study, [(i + j, 0) for i in shown]) for j in (0, 1)), strict=True)]
    note = f'Patches that are each other\u2019s nearest: the best, at least {APART:.0f} patches apart.'
    page = sheet(names, titles, tall, note, TEXT, cell=2.2)
    for axes, picture in zip(page.axes, shown, strict=True):
        for subject in range(len(study.subjects)):
            _draw_pair(study, page, axes[2 * subject : 2 * subject + 2], subject, picture)
    return page.figure


def _draw_pair(study: Study, page: Sheet, axes: np.ndarray, subject: int, picture: int) -> None:
    left, right = (study.tokens(subject, picture + i).patches for i in (0, 1))
    every = mutual_matches(left.flatten(0, 1), right.flatten(0, 1))
    matches = spread_matches(every, (left.shape[1], right.shape[1]), MAX_LINES, APART)
    for i, axis in enumerate(axes):
        axis.imshow(study.image(subject, picture + i))
    say(axes[0], f'{len(matches.left)} of {len(every.left)} mutual matches')
    if len(matches.left):
        say(axes[1], f'cosine {matches.cosines[-1]:.2f} to {matches.cosines[0]:.2f}')
    _draw_lines(page.figure, axes, matches, (left.shape[1], right.shape[1]), study.subjects[subject].model.patch_size)


def _draw_lines(figure: Figure, axes: np.ndarray, matches: Matches, widths: tuple[int, int], patch: int) -> None:
    for number, (one, other) in enumerate(zip(matches.left.tolist(), matches.right.tolist(), strict=True)):
        color = COLORS[number % len(COLORS)]
        ends = [((i % w + 0.5) * patch, (i // w + 0.5) * patch) for i, w in zip((one, other), widths, strict=True)]
        for axis, end in zip(axes, ends, strict=True):
            axis.plot(*end, 'o', color=color, markersize=3, markeredgecolor='black', markeredgewidth=0.4)
        line = ConnectionPatch(ends[0], ends[1], 'data', axesA=axes[0], axesB=axes[1], color=color, linewidth=0.9, alpha=0.9)
        figure.add_artist(line)


# --- queries ---------------------------------------------------------------------------------------------------------------


def queries_figures(
    study: Study, rows: int | None = ROWS, box: Sequence[float] = BOX, side: int | None = None
) -> list[Figure]:
    """A crop of each picture as query tokens: its attention, its similarities, and where it is found in other pictures.

    Raises:
        ValueError: See ``ask``.
    """
    return [_queries_page(study, shown, box, side) for shown in pages(study, rows, len(study.subjects))]


def _queries_page(study: Study, shown: Sequence[int], box: Sequence[float], side: int | None) -> Figure:
    cells = cases(study, shown)
    others = min(3, len(study.pictures) - 1)
    titles = ['image', 'query', 'attention', 'similarity', *(f'found {i + 1}' for i in range(others))]
    note = 'Attention: from least to most. Similarity: cosines of query and patches, one range a row; the largest is framed.'
    page = sheet(labels(study, shown), titles, aspects(study, cells), note, TEXT)
    for axes, (picture, subject) in zip(page.axes, cells, strict=True):
        _draw_answer(study, axes, subject, picture, box, side)
    return page.figure


def _draw_answer(study: Study, axes: np.ndarray, subject: int, picture: int, box: Sequence[float], side: int | None) -> None:
    answer = ask(study, subject, picture, box, side)
    image = study.image(subject, picture)
    axes[0].imshow(image)
    draw_fractions(axes[0], box, image.size, QUERY_COLOR)
    axes[1].imshow(answer.crop)
    say(axes[1], f'{answer.crop.width} x {answer.crop.height} pixels')
    overlay(axes[2], image, answer.attention)
    shown = [picture, *answer.order[: len(axes) - 4]]
    maps = [answer.similarities[number] for number in shown]
    low, high = min(float(part.min()) for part in maps), max(float(part.max()) for part in maps)
    for axis, number, values in zip(axes[3:], shown, maps, strict=True):
        overlay(axis, study.image(subject, number), values, low, high)
        row, column = divmod(int(values.argmax()), values.shape[1])
        draw_patch(axis, (row, column), values.shape, study.image(subject, number).size, FOUND_COLOR, MARGIN)
        say(axis, f'up to {values.max():.2f}')


KINDS: dict[str, Callable[..., list[Figure]]] = dict(
    attention=attention_figures,
    pca=pca_figures,
    neighbors=neighbors_figures,
    correspondence=correspondence_figures,
    queries=queries_figures,
    segmentation=segmentation_figures,
)
