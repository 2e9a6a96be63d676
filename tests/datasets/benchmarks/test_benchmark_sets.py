"""What all readers of benchmarks have in common: layouts, laziness, broken files and names that are missing."""

import contextlib
import pickle
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_miniatures import LAYOUTS, MAKERS, make
from documents import text_of
from PIL import Image

from mmadclr.datasets.benchmarks import (
    BENCHMARKS,
    VOID,
    BoxBenchmark,
    LayoutError,
    PairBenchmark,
    SegmentationBenchmark,
    VideoBenchmark,
    absent_classes,
    benchmark_kind,
    open_benchmark,
)

KINDS = {
    'segmentation': SegmentationBenchmark,
    'video': VideoBenchmark,
    'pairs': PairBenchmark,
    'boxes': BoxBenchmark,
}
SEGMENTATION = [each for each in LAYOUTS if BENCHMARKS[each[0]].kind == 'segmentation']
OPENED = []  # paths, while the audit hook below records


def everything(benchmark):
    """All that a benchmark can give, as plain numbers."""
    if isinstance(benchmark, SegmentationBenchmark):
        return [benchmark.read_labels(item).tolist() for split in (benchmark.train, benchmark.val) for item in split]
    if isinstance(benchmark, VideoBenchmark):
        return [benchmark.read_objects(path).tolist() for video in benchmark.videos for path in video.annotations]
    if isinstance(benchmark, PairBenchmark):
        return [(*pair[:2], *(each.tolist() for each in pair[4:8]), *pair[8:]) for pair in benchmark.pairs]
    return [(each.name, *(part.tolist() for part in each[2:])) for each in benchmark.images]


def images_of(benchmark):
    if isinstance(benchmark, SegmentationBenchmark):
        return [item.image for item in (*benchmark.train, *benchmark.val)]
    if isinstance(benchmark, VideoBenchmark):
        return [frame for video in benchmark.videos for frame in video.frames]
    if isinstance(benchmark, PairBenchmark):
        return [path for pair in benchmark.pairs for path in (pair.source, pair.target)]
    return [each.image for each in benchmark.images]


def record_opened(event, args):
    if event == 'open' and record_opened.on:
        OPENED.append(str(args[0]))


record_opened.on = False
sys.addaudithook(record_opened)


def test_every_reader_has_a_miniature_and_a_kind():
    assert set(MAKERS) == set(BENCHMARKS)
    assert {benchmark_kind(name) for name in BENCHMARKS} == set(KINDS)


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_a_miniature_opens_as_its_kind_with_images_that_exist(name, layout, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    assert type(benchmark) is KINDS[benchmark_kind(name)]
    images = images_of(benchmark)
    assert len(images) > 3
    for path in images:
        with Image.open(path) as image:
            assert min(image.size) >= 32


@pytest.mark.parametrize(('name', 'layout'), SEGMENTATION)
def test_labels_are_classes_or_void_at_the_size_of_the_image(name, layout, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    occur = set()
    for item in (*benchmark.train, *benchmark.val):
        labels = benchmark.read_labels(item)
        with Image.open(item.image) as image:
            assert labels.shape == image.size[::-1]
        assert labels.dtype == np.uint8
        occur |= {*np.unique(labels).tolist()}
    assert occur <= {*range(len(benchmark.classes)), VOID}
    assert len(occur - {VOID}) > 2
    assert not {item.image for item in benchmark.train} & {item.image for item in benchmark.val}


@pytest.mark.parametrize(
    ('name', 'layout'), [each for each in LAYOUTS if each not in (('folder', 'mmseg'), ('folder', 'flat'))]
)
def test_opening_reads_lists_only(name, layout, tmp_path):
    make(name, tmp_path, layout)
    if (name, layout) == ('folder', 'outside'):  # otherwise the classes would be looked for in the masks
        (tmp_path / 'classes.txt').write_text('a\nb\nc\nd\n')
    with recorded() as paths:
        benchmark = open_benchmark(name, str(tmp_path))
        opened = list(paths)
        everything(benchmark)
    ours = {Path(path).suffix for path in paths if path.startswith(str(tmp_path))}
    assert {Path(path).suffix for path in opened if path.startswith(str(tmp_path))} <= {'.txt'}
    assert ours & {'.png', '.xml', '.json'}  # files that are read are recorded


@contextlib.contextmanager
def recorded():
    OPENED.clear()
    record_opened.on = True
    try:
        yield OPENED
    finally:
        record_opened.on = False


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_benchmarks_reach_other_processes(name, layout, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    assert everything(pickle.loads(pickle.dumps(benchmark))) == everything(benchmark)
    assert everything(pickle.loads(pickle.dumps(benchmark))) == everything(benchmark)  # after the first use, too


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_extensions_in_upper_case(name, layout, tmp_path):
    expected = everything(open_benchmark(name, str(make(name, tmp_path, layout))))
    for path in [path for path in tmp_path.rglob('*') if path.suffix in ('.jpg', '.png', '.xml') or 'PairAnn' in str(path)]:
        if path.is_file():
            path.rename(path.with_suffix(path.suffix.upper()))
    benchmark = open_benchmark(name, str(tmp_path))
    assert everything(benchmark) == expected
    assert {Path(path).suffix for path in images_of(benchmark)} <= {'.JPG', '.PNG'}


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_files_left_behind_by_systems_are_not_data(name, layout, tmp_path):
    expected = everything(open_benchmark(name, str(make(name, tmp_path, layout))))
    for path in [path for path in tmp_path.rglob('*') if path.suffix in ('.jpg', '.png', '.xml') and path.is_file()]:
        path.with_name(f'._{path.name}').write_bytes(b'resource fork')
        (path.parent / 'Thumbs.db').write_bytes(b'')
    assert everything(open_benchmark(name, str(tmp_path))) == expected


# --- layouts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', BENCHMARKS)
def test_an_empty_folder_says_what_is_expected_and_where_to_get_it(name, tmp_path):
    with pytest.raises(LayoutError) as caught:
        open_benchmark(name, str(tmp_path))
    text, guide = str(caught.value), BENCHMARKS[name].guide
    assert f'{name}: {tmp_path} has no ' in text
    assert guide.tree in text
    assert guide.source in text
    parts = next(iter(guide.layouts.values()))
    assert all(part.replace('|', ' or ') in text for part in parts)


@pytest.mark.parametrize('name', BENCHMARKS)
def test_no_such_folder(name, tmp_path):
    with pytest.raises(LayoutError, match=f'{name}: {tmp_path}/nowhere is not a folder; expected '):
        open_benchmark(name, str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(('name', 'layout'), [each for each in LAYOUTS if each[0] != 'folder'])  # see its own tests
def test_each_missing_part_is_named(name, layout, tmp_path):
    """With every required part but one, and with all but two: those are named, and no others."""
    source = make(name, tmp_path / 'whole', layout)
    guide = BENCHMARKS[name].guide
    place, parts = next(
        (place, parts)
        for place in guide.places
        for parts in guide.layouts.values()
        if all(any((source / place / each).exists() for each in part.split('|')) for part in parts)
    )
    for number, gone in enumerate([*([part] for part in parts), list(parts[:2])]):
        root = tmp_path / str(number)
        shutil.copytree(source, root)
        for part in gone:
            for each in part.split('|'):
                remove(root / place / each)
        with pytest.raises(LayoutError) as caught:
            open_benchmark(name, str(root))
        said = str(caught.value).partition('; expected ')[0].partition(' has no ')[2]
        named = {part.partition(' or ')[0] for part in said.split(', ')}
        assert named == {part.split('|')[0] for part in gone}


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_one_folder_may_hold_all_data_sets(tmp_path):
    names = ('voc', 'ade20k', 'davis', 'spair', 'voc07', 'voc12', 'cityscapes')
    for name in names:
        make(name, tmp_path / 'data')
    for name in names:
        make(name, tmp_path / name)
        assert everything(open_benchmark(name, str(tmp_path / 'data'))) == everything(
            open_benchmark(name, str(tmp_path / name))
        )


@pytest.mark.parametrize(('wrong', 'meant'), [('ade20', 'ade20k'), ('davs', 'davis'), ('VOC', None), ('zzz', None)])
def test_unknown_names(wrong, meant, tmp_path):
    for call in (lambda: open_benchmark(wrong, str(tmp_path)), lambda: benchmark_kind(wrong)):
        with pytest.raises(ValueError, match=f'no benchmark is called {wrong!r}.*known: voc, ') as caught:
            call()
        assert meant is None or f'did you mean {meant}?' in str(caught.value)


# --- broken files ----------------------------------------------------------------------------------------------------------


def break_mask(path, how):
    with Image.open(path) as image:
        image.load()
        image = image.copy()
    if how == 'truncated':
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2])
    elif how == 'empty':
        Path(path).write_bytes(b'')
    elif how == 'size':
        image.crop((0, 0, image.width - 1, image.height)).save(path)
    elif how == 'colors':
        image.convert('CMYK').convert('RGB').rotate(3).convert('RGBA').save(path)
    elif how == 'label':
        labels = np.array(image)
        labels[0, 0] = 254  # of a panoptic mask: all colors
        changed = Image.fromarray(labels, mode=image.mode)
        if image.mode == 'P':
            changed.putpalette(image.getpalette())
        changed.save(path)


WORDS = {
    'truncated': 'cannot be read',
    'empty': 'cannot be read',
    'size': 'pixels, but its image',
    'colors': 'RGB',
    'label': '254',
}


@pytest.mark.parametrize('how', WORDS)
@pytest.mark.parametrize(('name', 'layout'), [*SEGMENTATION, ('davis', '2017')])
def test_a_broken_mask_is_named(name, layout, how, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    if name == 'davis':
        mask = benchmark.videos[0].annotations[0]
        if how == 'label':
            pytest.skip('any label may be an object')
    else:
        mask = benchmark.val[0].mask
    break_mask(mask, how)
    word = str(254 * 0x10101) if how == 'label' and layout == 'panoptic' else WORDS[how]
    with pytest.raises(ValueError, match=word) as caught:
        everything(benchmark)
    assert mask in str(caught.value)


@pytest.mark.parametrize(('name', 'layout'), SEGMENTATION)
def test_an_unreadable_image_is_named(name, layout, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    image = benchmark.val[1].image
    Path(image).write_bytes(b'not an image')
    with pytest.raises(ValueError, match='cannot be read') as caught:
        everything(benchmark)
    assert image in str(caught.value)


@pytest.mark.parametrize('kind', ['image', 'mask'])
@pytest.mark.parametrize(('name', 'layout'), SEGMENTATION)
def test_missing_files_are_counted_and_named(name, layout, kind, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    gone = benchmark.val[:2]
    for item in gone:
        Path(getattr(item, kind)).unlink()
    with pytest.raises(FileNotFoundError, match=rf'2 of \d+ names have no {kind} in ') as caught:
        open_benchmark(name, str(tmp_path))
    assert all(item.name in str(caught.value) for item in gone)


@pytest.mark.parametrize(('name', 'layout'), SEGMENTATION)
def test_absent_classes_equal_a_count_of_all_pixels(name, layout, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path, layout)))
    for items, absent in zip((benchmark.train, benchmark.val), absent_classes(benchmark), strict=True):
        present = {label for item in items for label in benchmark.read_labels(item).ravel().tolist()}
        assert absent == tuple(benchmark.classes[label] for label in range(len(benchmark.classes)) if label not in present)


def test_absent_from_one_split_only(tmp_path):
    benchmark = open_benchmark('folder', str(make('folder', tmp_path)))
    assert absent_classes(benchmark) == ((), ())
    for item in benchmark.val:
        labels = benchmark.read_labels(item)
        Image.fromarray(np.where(labels == 2, 255, labels).astype(np.uint8)).save(item.mask)
    assert absent_classes(benchmark) == ((), ('tree',))


def test_lists_that_repeat_or_say_nothing(tmp_path):
    make('voc', tmp_path)
    path = tmp_path / 'VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt'
    path.write_text('2007_000033\r\n\r\n  2007_000042  \r\n')
    assert [item.name for item in open_benchmark('voc', str(tmp_path)).val] == ['2007_000033', '2007_000042']
    path.write_text('2007_000033\n2007_000042\n2007_000033\n')
    with pytest.raises(ValueError, match='val.txt lists 2007_000033 more than once'):
        open_benchmark('voc', str(tmp_path))
    path.write_text('\n')
    with pytest.raises(ValueError, match='val.txt lists nothing'):
        open_benchmark('voc', str(tmp_path))


def test_items_of_lazy_lists(tmp_path):
    for name in ('spair', 'voc07', 'coco20k'):
        benchmark = open_benchmark(name, str(make(name, tmp_path / name)))
        items = benchmark.pairs if name == 'spair' else benchmark.images
        assert [each.name for each in items] == [items[number].name for number in range(len(items))]
        assert items[-1].name == items[len(items) - 1].name
        assert [each.name for each in items[1:3]] == [items[1].name, items[2].name]
        with pytest.raises(IndexError):
            items[len(items)]


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_damaged_bytes_are_read_or_refused_by_name(name, layout, tmp_path):
    """Any damage to a list, mask or annotation: a message in one line with the place, and never another exception."""
    root, rng = make(name, tmp_path, layout), random.Random(0)
    files = sorted(path for path in root.rglob('*') if path.is_file() and path.suffix.lower() != '.jpg')
    for _ in range(15):
        path = rng.choice(files)
        whole = path.read_bytes()
        start = rng.randrange(len(whole))
        damage = (
            whole[:start],
            whole[:start] + bytes([rng.randrange(256)]) + whole[start + 1 :],
            whole[:start] + whole[start + 9 :],
        )
        path.write_bytes(rng.choice(damage))
        refusal = refused(name, root)
        assert refusal is None or str(root) in refusal
        assert refusal is None or '\n' not in refusal
        path.write_bytes(whole)


def refused(name, root):
    """The message if a benchmark cannot be opened and read."""
    try:
        everything(open_benchmark(name, str(root)))
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


# --- documentation ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_name_with_its_files_and_source():
    rows = [
        line.strip('| ').split(' | ') for line in text_of('docs/benchmark_data.md').splitlines() if line.startswith('| `')
    ]
    content, files = ([row for row in rows if len(row) == number] for number in (4, 2))
    assert {row[0].strip('`') for row in content} == {*BENCHMARKS} - {'folder'}  # which has no source
    trees = {name: tree for names, tree in files for name in names.replace('`', '').split(', ')}
    assert set(trees) == set(BENCHMARKS)
    for name, reader in BENCHMARKS.items():
        tree = reader.guide.tree.partition(', one name per line')[0]
        assert words(trees[name]) == words(tree)
    for name, text, _, source in content:
        guide = BENCHMARKS[name.strip('`')].guide
        assert all(
            place in guide.source for place in source.replace(';', ',').split(', ') if '.' in place and ':' not in place
        )
        assert text


def words(text):
    return text.replace('`', '').replace(', ', ' ').replace('; ', ' ').split()
