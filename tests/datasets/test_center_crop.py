"""The fast form of the evaluation input: what it is of the whole image, how far from Pillow, and whatever the file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmadclr.datasets import ImageDataset, MaskedImageDataset, ResizeCenterCrop, ResizeSquare, center_crop, collate_samples
from mmadclr.datasets.center_crop import CropFilter
from mmadclr.datasets.decoding import EncodedImage, decode_by_pillow


def photograph(rng, width, height):
    """Noise with the spectrum of photographs (amplitude ~ frequency ^ -1.3), its channels nearly alike."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(width, height)
    planes = (rng.standard_normal((height, width)) for _ in range(4))
    gray, *tints = (np.fft.irfft2(np.fft.rfft2(x) * frequency**-1.3, s=(height, width)) for x in planes)
    channels = np.stack([gray / gray.std() + 0.15 * tint / tint.std() for tint in tints], axis=-1)
    return Image.fromarray((128 + 52 * channels).clip(0, 255).astype(np.uint8))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels_off(data, transforms, **options):
    fast, pillow = transforms
    images = [fast({'image': EncodedImage(data, 'a')})['images'], pillow({'image': decode_by_pillow(data)})['images']]
    assert images[0].shape == images[1].shape
    return (images[0].int() - images[1].int()).abs()


FORMATS = [('jpeg', dict(quality=90)), ('jpeg', dict(quality=75, progressive=True)), ('png', {}), ('webp', {}), ('tiff', {})]


@pytest.mark.parametrize(('kind', 'options'), FORMATS)
@pytest.mark.parametrize('size', [(500, 375), (333, 500), (1200, 900), (256, 256), (224, 300), (150, 120)])
def test_photographs_are_those_of_pillow_within_two_levels(kind, options, size):
    data = encoded(photograph(np.random.default_rng(size), *size), kind, **options)
    for name, kwargs in ((ResizeCenterCrop, {}), (ResizeSquare, dict(size=320))):
        off = levels_off(data, [name(**kwargs), name(**kwargs, backend='pillow')])
        assert off.max() <= 2
        assert off.float().mean() <= 0.01


def test_the_tag_that_turns_an_image_is_heeded():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photograph(np.random.default_rng(0), 90, 60), 'jpeg', exif=exif, quality=95)
    assert levels_off(data, [ResizeCenterCrop(64, 48), ResizeCenterCrop(64, 48, 'pillow')]).max() <= 2


def whole(pixels, size):
    """The operator's result for the whole image, (H, W, 3)."""
    source = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    return torch.ops.aten._upsample_bicubic2d_aa(source, size[::-1], False, None, None)[0].permute(1, 2, 0).numpy()


def test_a_part_is_that_of_the_whole_for_any_size():
    """Sides at which nothing changes, and those at which a part is as long as what it is of, among them."""
    rng, crop = np.random.default_rng(0), CropFilter()
    for number in range(600):
        resize = int(rng.choice([16, 37, 40, 64, 256]))
        size = resize if number % 3 == 0 else int(rng.integers(1, resize + 1))
        width, height = (int(side) for side in rng.integers(1, 300, 2))
        special = {0: (height, height), 1: (width, resize), 2: (resize, height), 3: (size, height), 4: (width, size)}
        width, height = special.get(number % 9, (width, height))
        resized = tuple(int(resize * side / min(width, height)) for side in (width, height))
        if resized[0] * resized[1] > 2**19:
            continue
        left, top = (round((side - size) / 2) for side in resized)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = whole(pixels, resized)[top : top + size, left : left + size]
        found = crop(pixels, resized, (left, top, left + size, top + size))
        assert np.array_equal(found, expected), (width, height, resize, size)


def test_long_images_take_the_same_part_in_either_form(monkeypatch):
    data = encoded(photograph(np.random.default_rng(0), 900, 41), 'png')
    monkeypatch.setattr(center_crop, 'MAX_RESIZED', 0)
    assert levels_off(data, [ResizeCenterCrop(40, 32), ResizeCenterCrop(40, 32, 'pillow')]).max() == 0


@pytest.mark.parametrize('name', [ResizeCenterCrop, ResizeSquare])
def test_unknown_backends_are_explained(name):
    with pytest.raises(ValueError, match="backend='cv2': choose 'fast' or 'pillow'"):
        name(size=16, backend='cv2')


@pytest.mark.parametrize('backend', ['fast', 'pillow'])
def test_a_batch_is_written_in_place_and_equals_its_samples(image_folder, backend):
    dataset = ImageDataset(image_folder(count=5), dict(type='ResizeCenterCrop', resize=40, size=33, backend=backend))
    assert dataset._decodes_late == (backend == 'fast')
    batch = collate_samples(dataset.__getitems__(range(5)))
    assert batch['images'].is_contiguous()
    assert torch.equal(batch['images'], torch.stack([dataset[index]['images'] for index in range(5)]))
    assert batch['images'].float().std() > 10


def test_label_maps_do_not_depend_on_how_images_are_read(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for number in range(3):
        photograph(rng, 90, 60).save(tmp_path / f'images/{number}.jpg')
        Image.fromarray(rng.integers(0, 3, (60, 90), dtype=np.uint8)).save(tmp_path / f'masks/{number}.png')
    fast, pillow = (MaskedImageDataset(tmp_path, 'images', 'masks', 32, 3, backend=name) for name in ('fast', 'pillow'))
    for index in range(3):
        assert torch.equal(fast.mask(index), pillow.mask(index))
        off = (fast[index]['images'].int() - pillow[index]['images'].int()).abs()
        assert off.max() <= 2
        assert off.float().mean() <= 0.01
    nearest = Image.open(tmp_path / 'masks/1.png').resize((32, 32), Image.Resampling.NEAREST)
    assert np.array_equal(fast.mask(1), np.asarray(nearest))
