"""Labels of masks: a table against a loop, and the size of images as they are displayed."""

import io

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets.benchmarks.labels import LabelReader, displayed_size_of, identity, lookup, relabel
from mmadclr.datasets.benchmarks.types import LabeledImage
from mmadclr.datasets.label_maps import LabelMapError


@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.int32, np.int64])
def test_a_table_equals_a_loop(kind):
    rng = np.random.default_rng(0)
    meaning = {3: 0, 7: 1, 0: 255, 200: 2, 255: 255}
    labels = rng.choice([*meaning], (13, 17)).astype(kind)
    expected = [[meaning[value] for value in row] for row in labels.tolist()]
    found = relabel(labels, lookup(meaning), 'x.png')
    assert found.dtype == np.uint8
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ('values', 'kind', 'words'),
    [
        ([4, 4, 9], np.uint8, r'2 pixels have the label 4 \(and 1 others\), neither a class nor void'),
        ([256], np.uint16, '1 pixels have the label 256, neither'),
        ([256 + 3], np.int32, '1 pixels have the label 259, neither'),
        ([-1, -1], np.int32, '2 pixels have the label -1, neither'),
    ],
)
def test_other_labels_are_counted_and_named(values, kind, words):
    labels = np.full((4, 4), 3, dtype=kind)
    labels[0, : len(values)] = values
    with pytest.raises(LabelMapError, match=f'mask a b.png: {words}'):
        relabel(labels, lookup({3: 0}), 'a b.png')


def write(tmp_path, size, orientation=1, suffix='jpg'):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'image.{suffix}'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_masks_have_the_size_of_the_displayed_image(orientation, suffix, tmp_path):
    image = write(tmp_path, (40, 30), orientation, suffix)
    expected = (30, 40) if orientation >= 5 else (40, 30)
    assert displayed_size_of(image) == expected
    mask = str(tmp_path / 'mask.png')
    Image.fromarray(np.zeros(expected[::-1], dtype=np.uint8)).save(mask)
    reader = LabelReader(identity(2))
    assert reader(LabeledImage('x', image, mask)).shape == expected[::-1]
    Image.fromarray(np.zeros(expected, dtype=np.uint8)).save(mask)
    with pytest.raises(LabelMapError, match=f'has {expected[1]}x{expected[0]} pixels, but its image .* {expected[0]}x'):
        reader(LabeledImage('x', image, mask))


def test_the_size_of_a_png_takes_no_decoding(tmp_path, monkeypatch):
    image = io.BytesIO()
    Image.new('RGB', (41, 29)).save(image, 'PNG')
    path = tmp_path / 'x.png'
    path.write_bytes(image.getvalue())
    monkeypatch.setattr(Image, 'open', lambda *args: pytest.fail('opened'))
    assert displayed_size_of(str(path)) == (41, 29)


def test_bits_are_labels(tmp_path):
    image, mask = write(tmp_path, (8, 8)), str(tmp_path / 'mask.png')
    bits = np.random.default_rng(1).random((8, 8)) < 0.5
    Image.fromarray(bits).save(mask)
    assert np.array_equal(LabelReader(identity(2))(LabeledImage('x', image, mask)), bits)
