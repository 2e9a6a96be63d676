"""Figures: what is drawn in which cell, pages, and the functions of ``mmadclr.show``."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from backbones_shown import backbone, picture
from matplotlib.figure import Figure
from places import REPO

import mmadclr
from mmadclr.show.components import patch_colors
from mmadclr.show.last_block import cls_attention
from mmadclr.show.matches import nearest_images
from mmadclr.show.plots import KINDS, neighbors_figures, pages
from mmadclr.show.query_crops import ask
from mmadclr.show.study import Study

SIZES = ((48, 32), (32, 48), (40, 40))


@pytest.fixture
def study():
    images = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    return Study({'one': backbone(), 'two': backbone(1, patch_size=16, num_heads=2)}, images, size=64)


def cells(figure, columns):
    """Axes by row and column."""
    return np.array(figure.axes, object).reshape(-1, columns)


def shown(axis):
    return [np.asarray(image.get_array()) for image in axis.images]


def written(figure):
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_is_drawn_for_several_backbones_and_sizes(kind, study, tmp_path):
    for figure in KINDS[kind](study):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / 'a.png', dpi=60)
        assert all(axis.images for axis in figure.axes if axis.get_title() or kind in ('pca', 'segmentation'))
        assert any('one' in text for text in written(figure))
        assert any('two' in text for text in written(figure))


def test_attention_has_a_row_for_each_image_and_backbone_and_a_column_for_each_head(study):
    (figure,) = KINDS['attention'](study)
    grid = cells(figure, 5)  # image, mean, 3 heads
    assert len(grid) == 6
    for row, (number, subject) in enumerate([(i, j) for i in range(3) for j in range(2)]):
        maps = cls_attention(study.subjects[subject].model, study.pixels(subject, number))[0]
        assert np.array_equal(shown(grid[row, 0])[0], np.asarray(study.image(subject, number)))
        np.testing.assert_allclose(shown(grid[row, 1])[0], maps.mean(dim=0), rtol=1e-6)
        for head, values in enumerate(maps):
            np.testing.assert_allclose(shown(grid[row, 2 + head])[0], values, rtol=1e-6)
        assert sum(bool(axis.images) for axis in grid[row]) == 2 + len(maps)


def test_pca_has_a_column_for_each_backbone(study):
    (figure,) = KINDS['pca'](study)
    grid = cells(figure, 3)
    for subject in range(2):
        for row, colors in enumerate(patch_colors(study.grids(subject))):
            assert np.array_equal(shown(grid[row, 1 + subject])[0], torch.nan_to_num(colors, nan=1.0))


def test_neighbors_are_shown_nearest_first_with_their_cosines(study):
    images, patches = neighbors_figures(study)
    cosines, order = nearest_images(study.wholes(1), 2)
    row = cells(images, 3)[2 * 2 + 1]
    for axis, cosine, number in zip(row[1:], cosines[2].tolist(), order[2].tolist(), strict=True):
        assert axis.get_title() == f'{cosine:.2f}'
        assert np.array_equal(shown(axis)[0], np.asarray(study.image(1, number)))
    assert all(len(axis.patches) == 1 for axis in cells(patches, 11)[:, 1:].flatten())


def test_queries_show_the_crop_its_attention_and_what_it_finds(study):
    figures = KINDS['queries'](study, box=(0.1, 0.2, 0.6, 0.7), side=32)
    row = cells(figures[0], 6)[1]  # image 1 by backbone two
    answer = ask(study, 1, 0, (0.1, 0.2, 0.6, 0.7), 32)
    box, (width, height) = row[0].patches[0], study.image(1, 0).size
    np.testing.assert_allclose((box.get_x() + 0.5, box.get_y() + 0.5), (0.1 * width, 0.2 * height))
    np.testing.assert_allclose((box.get_width(), box.get_height()), (0.5 * width, 0.5 * height))
    assert np.array_equal(shown(row[1])[0], np.asarray(answer.crop))
    np.testing.assert_allclose(shown(row[2])[1], answer.attention)
    for axis, number in zip(row[3:], [0, *answer.order], strict=True):
        np.testing.assert_allclose(shown(axis)[1], answer.similarities[number])
        assert axis.get_title() == f'up to {answer.similarities[number].max():.2f}'


def test_objects_keep_their_colors(study):
    (figure,) = KINDS['segmentation'](study)
    picture_shown = shown(cells(figure, 3)[0, 1])[0]
    same = (picture_shown == np.asarray(study.image(0, 0))).all(axis=2)
    assert 0 < same.mean() < 1
    assert len(cells(figure, 3)[0, 1].patches) == 1


def test_pages_hold_whole_pictures():
    study = Study({'a': backbone(), 'b': backbone(1)}, [picture(seed=i) for i in range(7)], size=32)
    assert list(pages(study, 12, 2)) == [range(6), range(6, 7)]
    assert list(pages(study, 1, 2)) == [range(i, i + 1) for i in range(7)]
    assert list(pages(study, None, 2)) == [range(7)]
    assert sum(len(cells(figure, 3)) for figure in KINDS['pca'](study, rows=3)) == 7
    pairs = KINDS['correspondence'](study, rows=3)
    assert [len(cells(figure, 4)) for figure in pairs] == [3, 3]


@pytest.mark.parametrize('kind', ['neighbors', 'correspondence'])
def test_one_image_has_no_neighbors(kind):
    with pytest.raises(ValueError, match=f'{kind}: needs at least two images, and there is only image 1'):
        KINDS[kind](Study(backbone(), picture(), size=32))


def test_without_class_token_all_but_attention_is_drawn():
    study = Study({'plain': backbone(class_token=False)}, [picture(seed=i) for i in range(2)], size=64)
    with pytest.raises(ValueError, match='plain has no class token, so there is no attention'):
        KINDS['attention'](study)
    for kind in KINDS.keys() - {'attention'}:
        assert KINDS[kind](study)


def test_functions_of_the_package_give_one_figure():
    images = [picture(seed=i) for i in range(2)]
    for name in KINDS:
        assert isinstance(getattr(mmadclr.show, name)(backbone(), images, size=32), Figure)
    titles = [written(mmadclr.show.neighbors(backbone(), images, size=32, patches=patches)) for patches in (False, True)]
    assert 'A1' not in titles[0]
    assert 'A1' in titles[1]
    crop = cells(mmadclr.show.queries(backbone(), images, size=32, box=(0, 0, 1, 1), query_size=24), 5)[0, 1]
    assert shown(crop)[0].shape == (24, 24, 3)


def test_no_display_and_no_global_state_is_used():
    code = (
        'import sys, mmadclr; assert "matplotlib" not in sys.modules; mmadclr.show.pca; '
        'print("matplotlib.pyplot" in sys.modules, "mmadclr.show" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == 'False True\n'
