"""Whole images of a batch in one array: the pixels, boxes and parameters of the backend that cuts in the worker."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from mmadclr.datasets import ImageDataset, MultiCrop, collate_samples
from mmadclr.datasets.image_dataset import SampleKey, UnreadableImageError
from mmadclr.datasets.packed_images import Arena, unpack

CROPS = dict(type='MultiCrop', global_size=32, local_size=16, query_size=8, num_local=3, num_query=2, backend='device')
MASKS = dict(type='BlockMasking', patch_size=8, ratio=0.5, spread=0.1)
ORIENTATION = 0x0112


def photo(width, height, seed):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return image.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """JPEG small and large enough to be shrunk, PNG, a turned JPEG, gray, CMYK; and between them two broken ones."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo(90, 60, 0).save(tmp_path / '0.jpg')
    photo(900, 700, 1).save(tmp_path / '1.jpg')
    photo(50, 70, 2).save(tmp_path / '2.png')
    photo(64, 48, 3).save(tmp_path / '3.jpg', exif=exif)
    photo(64, 64, 4).convert('L').save(tmp_path / '4.jpg')
    photo(40, 60, 5).convert('CMYK').save(tmp_path / '5.jpg')
    (tmp_path / '6.jpg').write_bytes((tmp_path / '0.jpg').read_bytes()[:900])
    (tmp_path / '7.jpg').write_bytes(b'no image')
    photo(70, 70, 8).save(tmp_path / '8.jpg')
    return tmp_path


def keys(dataset):
    return [SampleKey(5, 1, index) for index in range(len(dataset))]


def load(dataset):
    return collate_samples(dataset.__getitems__(keys(dataset)))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('extra', [{}, dict(query_source='view', query_photometric='per_view', mask=MASKS)])
def test_draws_and_messages_are_those_of_the_fast_backend(folder, extra):
    whole, fast = (load(ImageDataset(str(folder), CROPS | extra | dict(backend=name))) for name in ('device', 'fast'))
    same = fast.keys() - {f'{kind}_views' for kind in ('global', 'local', 'query')}
    assert whole.keys() - same == {
        *('packed_pixels', 'packed_sizes', 'packed_files', 'packed_lengths', 'image_shrink', 'crop_sizes')
    }
    for name in same:
        if torch.is_tensor(fast[name]):
            assert torch.equal(whole[name], fast[name]), name
        else:
            assert whole[name] == fast[name], name
    assert len(whole['unreadable']) == 3  # 6 once, 7 twice: after 6 and for itself
    assert whole['crop_sizes'].tolist() == [[32, 16, 8]] * 9


def test_pixels_are_those_of_the_decoders(folder):
    """Shrunk where every crop keeps enough of them; turned upright; replaced where the file is broken."""
    batch = load(ImageDataset(str(folder), CROPS))
    sizes = batch['packed_sizes'].tolist()
    shrinks = batch['image_shrink'].tolist()
    extents = [(60, 90), (700, 900), (70, 50), (64, 48), (64, 64), (60, 40), (70, 70), (70, 70), (70, 70)]
    assert sizes == [[-(-side // shrink) for side in extent] for extent, shrink in zip(extents, shrinks, strict=True)]
    assert shrinks[1] > 1
    assert {*shrinks[:1], *shrinks[2:]} == {1}
    assert batch['packed_pixels'].numel() == sum(3 * height * width for height, width in sizes)
    images = unpack(batch['packed_pixels'], batch['packed_sizes'])
    for number in (0, 2, 4):
        name = next(path for path in folder.glob(f'{number}.*'))
        assert np.array_equal(images[number].numpy(), np.array(Image.open(name).convert('RGB')))
    turned = Image.open(folder / '3.jpg').transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(images[3].numpy(), np.array(turned))
    assert torch.equal(images[6], images[8])


@pytest.mark.parametrize('decode', ['worker', 'device'])
def test_any_way_of_loading_gives_the_same_batch(folder, decode):
    dataset = ImageDataset(str(folder), CROPS | dict(decode=decode))
    expected = load(dataset)
    one_by_one = collate_samples([dataset[key] for key in keys(dataset)])
    subset = DataLoader(Subset(dataset, keys(dataset)), 9, collate_fn=collate_samples)
    workers = DataLoader(dataset, 9, sampler=keys(dataset) * 3, num_workers=2, collate_fn=collate_samples)
    second = load(dataset)  # in the memory of the first, which stays as it is
    for batch in (one_by_one, second, *subset, *workers):
        assert batch.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(batch[name], value) if torch.is_tensor(value) else batch[name] == value, name


def test_samples_of_a_batch_can_be_dealt_out_anew(folder):
    dataset = ImageDataset(str(folder), CROPS)
    samples = dataset.__getitems__(keys(dataset))
    some = collate_samples([samples[8], samples[2]])
    assert some['packed_sizes'].tolist() == [[70, 70], [70, 50]]
    assert torch.equal(unpack(some['packed_pixels'], some['packed_sizes'])[1], samples[2]['image_pixels'])


def test_a_device_that_decodes_gets_plain_upright_whole_jpeg_files(folder):
    """The rest is decoded here: PNG, turned, CMYK. A file that is cut off is replaced, here as always."""
    dataset = ImageDataset(str(folder), CROPS | dict(decode='device'))
    batch = load(dataset)
    names = {0: '0.jpg', 1: '1.jpg', 4: '4.jpg', 6: '8.jpg', 7: '8.jpg', 8: '8.jpg'}
    files = batch['packed_files'].split(batch['packed_lengths'].tolist())
    for number, file in enumerate(files):
        expected = (folder / names[number]).read_bytes() if number in names else b''
        assert file.numpy().tobytes() == expected
        assert (batch['packed_sizes'][number].prod() == 0) == (number in names)
    assert len(batch['unreadable']) == 3
    assert batch['image_shrink'].tolist() == [1] * 9


def test_without_readable_images_there_is_an_error(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'nothing')
    with pytest.raises(UnreadableImageError, match='1 consecutive images of 1'):
        ImageDataset(str(tmp_path), CROPS).__getitems__([0])


def test_pictures_of_pillow_are_taken():
    transform = MultiCrop(**{name: value for name, value in CROPS.items() if name != 'type'})
    image = photo(40, 30, 0)
    sample = transform(dict(image=image, rng=np.random.default_rng(0), index=3))
    assert np.array_equal(sample['image_pixels'], np.array(image))
    assert sample['image_shrink'] == 1


def test_arena_grows_without_losing_what_it_holds():
    arena = Arena()
    parts = [np.random.default_rng(i).integers(0, 256, (3 + i, 5, 3), dtype=np.uint8) for i in range(6)]
    for _ in range(2):
        arena.begin()
        for i, part in enumerate(parts):
            place = arena.get(part.size)
            if i == 2:
                place[:] = 7  # a broken image, given up
                place = arena.get(part.size)
            if i % 2:
                place[:] = part.reshape(-1)
                arena.keep(place.reshape(part.shape))
            else:
                arena.keep(part)
        expected = np.concatenate([part.reshape(-1) for part in parts])
        assert np.array_equal(arena.kept()['pixels'].numpy(), expected)
    copy = pickle.loads(pickle.dumps(arena))
    copy.begin()
    assert copy.kept()['pixels'].numel() == 0
    assert len(pickle.dumps(arena)) < 2000


def test_bytes_of_a_batch_are_estimated():
    assert MultiCrop(backend='device').batch_bytes(4) == 4 * 562_500
    assert MultiCrop(backend='device', decode='device').batch_bytes(4) == 440_000


def test_an_image_smaller_than_a_query_crop_is_replaced(tmp_path):
    photo(6, 6, 0).save(tmp_path / 'a.png')
    buffer = io.BytesIO()
    photo(60, 60, 1).save(buffer, 'JPEG')
    (tmp_path / 'b.jpg').write_bytes(buffer.getvalue())
    batch = load(ImageDataset(str(tmp_path), CROPS))
    assert 'smaller than a query crop of 8' in batch['unreadable'][0]
    assert batch['packed_sizes'].tolist() == [[60, 60]] * 2


@pytest.mark.parametrize('hold', [True, False])
def test_batches_of_workers_are_whole_for_as_long_as_they_are_held(folder, hold):
    """All at once, or one after the other, where blocks are used again."""
    dataset = ImageDataset(str(folder), CROPS)
    wanted = keys(dataset)[:6] * 20
    expected = [collate_samples(dataset.__getitems__(wanted[i : i + 3]))['packed_pixels'].clone() for i in range(0, 120, 3)]
    loader = DataLoader(dataset, 3, sampler=wanted, num_workers=2, collate_fn=collate_samples)
    batches = list(loader) if hold else loader
    places = set()
    for batch, pixels in zip(batches, expected, strict=True):
        assert torch.equal(batch['packed_pixels'], pixels)
        places.add(batch['packed_pixels'].data_ptr())
    assert len(places) == 40 or not hold
