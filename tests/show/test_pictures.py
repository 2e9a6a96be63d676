"""Pictures: names, sizes, orientation, and what cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from backbones_shown import picture
from PIL import Image

from mmadclr.show.pictures import Picture, find_files, fitted_size, normalized, pictures_of, readable, short_names, spread


@pytest.mark.parametrize(
    ('size', 'longest', 'multiple', 'expected'),
    [
        ((640, 480), 448, 16, (448, 336)),
        ((480, 640), 448, 14, (336, 448)),
        ((640, 427), 448, 16, (448, 304)),  # 298.9 is nearer to 304 than to 288
        ((100, 100), 50, 16, (48, 48)),
        ((1000, 10), 224, 16, (224, 16)),  # a side has at least one patch
        ((30, 20), 1024, 1, (1024, 683)),
    ],
)
def test_sides_are_multiples_and_keep_the_aspect(size, longest, multiple, expected):
    assert fitted_size(size, longest, multiple) == expected


def test_orientation_of_files_and_of_images_in_memory(tmp_path):
    image, exif = picture(40, 24), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / 'turned.png', exif=exif)
    upright = np.rot90(np.array(image), -1)
    with Image.open(tmp_path / 'turned.png') as opened:
        for source in (tmp_path / 'turned.png', opened):
            found = np.array(Picture(source, 'a', 40).resized())
            assert np.array_equal(found, upright)


def test_pixels_are_normalized_per_channel():
    image = Image.new('RGB', (2, 1), (255, 51, 0))
    values = normalized(image, (0.5, 0.1, 0.2), (0.5, 0.2, 0.4))
    torch.testing.assert_close(values, torch.tensor([1.0, 0.5, -0.5]).view(1, 3, 1, 1).expand(1, 3, 1, 2))


def test_files_and_folders_in_the_order_given(tmp_path):
    for name in ('b/2.png', 'b/1.png', 'b/c/3.jpg', 'a.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name)
    (tmp_path / 'b' / 'notes.txt').touch()
    found = find_files([tmp_path / 'b', str(tmp_path / 'a.png')])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ['b/1.png', 'b/2.png', 'b/c/3.jpg', 'a.png']


def test_what_is_not_there_or_not_an_image_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(FileNotFoundError, match='image .*gone.jpg does not exist'):
        find_files([tmp_path / 'gone.jpg'])
    with pytest.raises(FileNotFoundError, match='folder .*empty contains no images'):
        find_files([tmp_path / 'empty'])
    with pytest.raises(ValueError, match=r'image .*text.jpg cannot be read \(.+\): leave it out'):
        pictures_of(tmp_path / 'text.jpg', 32)[0].resized()
    with pytest.raises(ValueError, match='image 2 has mode F, whose range is unknown'):
        pictures_of([picture(), Image.new('F', (8, 8))], 32)[1].resized()
    with pytest.raises(ValueError, match='no images to show'):
        pictures_of([], 32)
    with pytest.raises(ValueError, match='size=0 must be at least 1 pixel'):
        pictures_of(picture(), 0)


def test_some_of_many_files_are_evenly_spread():
    files = [Path(str(i)) for i in range(10)]
    assert [str(path) for path in spread(files, 3)] == ['1', '5', '8']
    assert spread(files, 20) == files


def test_names_have_folders_only_where_they_tell_files_apart():
    assert short_names([Path('x/a/1.png'), Path('x/b/1.png'), Path('x/b/2.png')]) == ['a/1.png', 'b/1.png', '2.png']
    assert short_names([picture(), Path('1.png')]) == ['image 1', '1.png']


def test_unreadable_files_of_folders_are_left_out_and_those_named_stay(tmp_path):
    folder = tmp_path / 'folder'
    folder.mkdir()
    Image.new('RGB', (8, 8)).save(folder / 'good.png')
    (folder / 'bad.jpg').write_bytes(b'no image')
    kept, (problem,) = readable(find_files([folder]), [folder])
    assert kept == [folder / 'good.png']
    assert str(folder / 'bad.jpg') in problem
    named = [folder / 'bad.jpg', folder / 'good.png']
    assert readable(named, named) == (named, [])
    (folder / 'good.png').write_bytes(b'')
    with pytest.raises(ValueError, match='bad.jpg cannot be read'):
        readable(find_files([folder]), [folder])
