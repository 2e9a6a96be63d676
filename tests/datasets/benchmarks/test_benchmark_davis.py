"""DAVIS: order and numbering of frames, objects as palette indices, and what does not fit."""

import re
from pathlib import Path

import numpy as np
import pytest
from benchmark_miniatures import DAVIS_VIDEOS, gray, make
from PIL import Image

from mmadclr.datasets.benchmarks import open_benchmark
from mmadclr.evaluation.dense.davis_scores import evaluate_sequence

FRAMES, MASKS = 'DAVIS/JPEGImages/480p', 'DAVIS/Annotations/480p'


def opened(tmp_path):
    return open_benchmark('davis', str(tmp_path))


@pytest.fixture(autouse=True)
def _miniature(tmp_path):
    make('davis', tmp_path)


def test_videos_of_the_list_with_one_annotation_for_each_frame(tmp_path):
    benchmark = opened(tmp_path)
    assert {video.name: len(video.frames) for video in benchmark.videos} == DAVIS_VIDEOS
    for video in benchmark.videos:
        assert video.frames == tuple(sorted(video.frames))
        for frame, mask in zip(video.frames, video.annotations, strict=True):
            assert Path(frame).stem == Path(mask).stem
            image = Image.open(mask)
            assert image.mode == 'P'
            assert np.array_equal(benchmark.read_objects(mask), np.array(image))


def test_the_order_is_that_of_the_numbers(tmp_path):
    for folder, suffix in ((FRAMES, 'jpg'), (MASKS, 'png')):
        for number in range(4):
            path = tmp_path / folder / f'judo/{number:05d}.{suffix}'
            path.rename(path.with_name(f'{number + 8}.{suffix}'))
    video = opened(tmp_path).videos[1]
    assert [Path(path).stem for path in video.frames] == ['8', '9', '10', '11']


def test_an_object_that_appears_late_is_read_and_reported_by_the_metric(tmp_path):
    benchmark = opened(tmp_path)
    masks = np.stack([benchmark.read_objects(path) for path in benchmark.videos[1].annotations])
    assert [np.unique(mask).tolist() for mask in masks] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert evaluate_sequence(np.where(masks == 1, 1, 0), masks).late == (2,)


@pytest.mark.parametrize(('folder', 'suffix', 'what'), [(MASKS, 'png', 'annotation'), (FRAMES, 'jpg', 'frame')])
def test_frames_without_annotation_and_the_reverse(folder, suffix, what, tmp_path):
    for number in (1, 3):
        (tmp_path / folder / f'judo/{number:05d}.{suffix}').unlink()
    words = rf'2 of 4 names have no {what} in {re.escape(str(tmp_path / folder / "judo"))}: 00001, 00003'
    with pytest.raises(FileNotFoundError, match=words):
        opened(tmp_path)


@pytest.mark.parametrize(
    ('kept', 'words'),
    [((0,), r'judo has 1 frame\(s\): there must be at least 3'), ((0, 1), r'judo has 2 frame'), ((), r'judo has 0 frame')],
)
def test_short_videos(kept, words, tmp_path):
    keep(tmp_path, kept)
    with pytest.raises(ValueError, match=words):
        opened(tmp_path)


def keep(tmp_path, kept):
    for path in [*(tmp_path / FRAMES / 'judo').iterdir(), *(tmp_path / MASKS / 'judo').iterdir()]:
        if int(path.stem) not in kept:
            path.unlink()


def test_gaps_in_the_numbers(tmp_path):
    keep(tmp_path, (0, 1, 3))
    with pytest.raises(ValueError, match='judo: frames 2 are missing'):
        opened(tmp_path)


def test_names_that_are_no_numbers(tmp_path):
    for folder, suffix in ((FRAMES, 'jpg'), (MASKS, 'png')):
        path = tmp_path / folder / f'judo/00002.{suffix}'
        path.rename(path.with_name(f'00002b.{suffix}'))
    with pytest.raises(ValueError, match='judo: names of frames must be numbers, but there is 00002b'):
        opened(tmp_path)


@pytest.mark.parametrize('folder', [FRAMES, MASKS])
def test_listed_videos_without_folder(folder, tmp_path):
    (tmp_path / folder / 'judo').rename(tmp_path / 'elsewhere')
    words = rf'val.txt: 1 of 2 videos have no folder in {re.escape(str(tmp_path / folder))}: judo'
    with pytest.raises(FileNotFoundError, match=words):
        opened(tmp_path)


def test_masks_of_davis_2016(tmp_path):
    path = tmp_path / MASKS / 'judo/00000.png'
    gray(np.where(np.array(Image.open(path)) > 0, 255, 0)).save(path)
    with pytest.raises(ValueError, match=f'{path} has only 0 and 255, like those of DAVIS 2016'):
        opened(tmp_path).read_objects(str(path))


def test_ignored_pixels_and_gray_masks_are_kept(tmp_path):
    path = tmp_path / MASKS / 'judo/00003.png'
    labels = np.array(Image.open(path))
    labels[:4] = 255
    gray(labels).save(path)
    assert np.array_equal(opened(tmp_path).read_objects(str(path)), labels)


def test_labels_above_8_bits(tmp_path):
    path = tmp_path / MASKS / 'judo/00001.png'
    Image.fromarray(np.array(Image.open(path)).astype(np.uint16) * 300).save(path)
    with pytest.raises(ValueError, match=f'{path} has the label 300: objects must be 1 to 254'):
        opened(tmp_path).read_objects(str(path))
