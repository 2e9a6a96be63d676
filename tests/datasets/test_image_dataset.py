"""Where images come from, what is done about bad ones, and that samples depend on (seed, epoch, index) alone."""

import json
import os

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from mmadclr.datasets import ImageDataset, ShapesDataset, UnreadableImageError, collate_samples, shared_arrays
from mmadclr.datasets.decoding import load_rgb
from mmadclr.datasets.readers import read_class_folders, read_folder, read_list

CROPS = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=2)
CENTER = dict(type='ResizeCenterCrop', resize=16, size=16)


def loader(root, workers, epoch, seed=0, **kwargs):
    cfg = dict(
        dataset=dict(type='mmadclr.ImageDataset', data_root=str(root), transform=CROPS),
        sampler=dict(type='mmadclr.EpochSampler', shuffle=True),
        collate_fn=dict(type='mmadclr.collate_samples'),
        batch_size=4,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    built = Runner.build_dataloader(cfg | kwargs, seed=seed)
    built.sampler.set_epoch(epoch)
    return built


def by_index(batches):
    samples = {}
    for batch in batches:
        for row, index in enumerate(batch['index'].tolist()):
            samples[index] = {k: v[row] for k, v in batch.items() if torch.is_tensor(v)}
    return samples


def assert_same(a, b):
    assert a.keys() == b.keys()
    for index in a:
        for name, value in a[index].items():
            assert torch.equal(value, b[index][name]), (index, name)


# --- finding images --------------------------------------------------------------------------------------------------------


def test_folder_is_searched_at_any_depth(image_folder):
    root = image_folder(count=6)
    (root / 'deep' / 'er').mkdir(parents=True)
    Image.new('RGB', (9, 9)).save(root / 'deep' / 'er' / 'UPPER.JPEG')
    (root / 'notes.txt').write_text('no image')
    listing = read_folder(root)
    assert len(listing.paths) == 7
    assert list(listing.paths) == sorted(listing.paths)
    assert listing.labels is None


def test_class_folders_give_labels(image_folder):
    listing = read_class_folders(image_folder(count=6, classes=3))
    assert listing.classes == ('class0', 'class1', 'class2')
    assert listing.labels.tolist() == [int(os.fsdecode(path)[5]) for path in listing.paths]


def test_text_list(image_folder, tmp_path):
    root = image_folder(count=4)
    paths = [os.fsdecode(path) for path in read_folder(root).paths]
    (tmp_path / 'list.txt').write_text('\n'.join(paths[:2]) + '\n\n')
    assert [os.fsdecode(path) for path in read_list(tmp_path / 'list.txt', root).paths] == paths[:2]
    (tmp_path / 'labeled.txt').write_text('a file with spaces.png 3\nb.png 0\n')
    listing = read_list(tmp_path / 'labeled.txt', root, with_label=True)
    assert list(listing.paths) == [b'a file with spaces.png', b'b.png']
    assert listing.labels.tolist() == [3, 0]


def test_bad_sources_are_explained(tmp_path, image_folder):
    with pytest.raises(FileNotFoundError, match='data_root .*nowhere does not exist; set data_root'):
        ImageDataset(tmp_path / 'nowhere', CROPS)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='no images in .*empty'):
        ImageDataset(tmp_path / 'empty', CROPS)
    (tmp_path / 'empty' / 'notes.txt').write_text('')
    with pytest.raises(ValueError, match='no images in .*empty'):
        ImageDataset(tmp_path / 'empty', CROPS)
    with pytest.raises(FileNotFoundError, match=r'notes\.txt is a file, not a folder'):
        ImageDataset(tmp_path / 'empty' / 'notes.txt', CROPS)
    root = image_folder()
    with pytest.raises(FileNotFoundError, match=r'list of images .*missing\.txt does not exist'):
        ImageDataset(root, CROPS, ann_file=tmp_path / 'missing.txt')
    (tmp_path / 'list.txt').write_text('\n')
    with pytest.raises(ValueError, match=r'list\.txt is empty'):
        ImageDataset(root, CROPS, ann_file=tmp_path / 'list.txt')
    (tmp_path / 'list.txt').write_text('a.png 1\nb.png\n')
    with pytest.raises(ValueError, match='line 2: expected "path label"'):
        ImageDataset(root, CROPS, ann_file=tmp_path / 'list.txt', with_label=True)
    Image.new('RGB', (9, 9)).save(root / 'loose.png')
    with pytest.raises(ValueError, match=r'loose\.png is in none'):
        ImageDataset(root, CROPS, with_label=True)


# --- decoding --------------------------------------------------------------------------------------------------------------


def test_every_pillow_mode_becomes_rgb(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (8, 1))
    gray = Image.fromarray(ramp)
    color = gray.convert('RGB')
    pictures = {
        'gray.png': gray,
        'alpha.png': color.convert('RGBA'),
        'gray_alpha.png': gray.convert('LA'),
        'print.jpg': color.convert('CMYK'),
        'palette.gif': color.quantize(),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        got = load_rgb(tmp_path / name)
        assert got.mode == 'RGB'
        assert abs(np.asarray(got).astype(int) - ramp[..., None]).max() <= 8, name
    gray.convert('1').save(tmp_path / 'bits.png')
    assert set(np.unique(load_rgb(tmp_path / 'bits.png'))) == {0, 255}


def test_16_bit_gray_levels_are_scaled(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    Image.fromarray(ramp).save(tmp_path / 'deep.png')
    got = np.asarray(load_rgb(tmp_path / 'deep.png'))
    assert np.array_equal(got[0, :, 0], np.arange(256))


def corrupt(root):
    """Three files no decoder accepts, among good ones."""
    paths = [root / os.fsdecode(path) for path in read_folder(root).paths]
    paths[1].write_bytes(paths[1].read_bytes()[:60])  # cut off
    paths[4].write_text('this is no image')
    paths[6].write_bytes(b'')
    return {str(paths[i]) for i in (1, 4, 6)}


def test_unreadable_images_are_replaced_and_named(image_folder):
    root = image_folder(count=12)
    broken = corrupt(root)
    samples = [ImageDataset(root, CROPS)[i] for i in range(12)]
    named = {message.split(': ')[0] for sample in samples for message in sample['unreadable']}
    assert named == broken
    good = ImageDataset(root, CROPS)
    assert torch.equal(samples[1]['global_views'], good[2]['global_views'])
    assert samples[1]['index'] == 2
    batch = collate_samples(samples)
    assert len(batch['unreadable']) == 3
    assert batch['global_views'].shape == (12, 2, 3, 16, 16)


def test_too_small_images_count_as_unreadable(image_folder):
    root = image_folder(count=3)
    Image.new('RGB', (5, 5)).save(root / 'class0' / '000.png')
    sample = ImageDataset(root, CROPS)[0]
    assert '5x5 pixels are smaller than a query crop of 8' in sample['unreadable'][0]


def test_many_unreadable_images_in_a_row_are_an_error(tmp_path, monkeypatch):
    for name in 'abcde':
        (tmp_path / f'{name}.png').write_text('no')
    with pytest.raises(UnreadableImageError, match=r'5 consecutive images of 5 .* cannot be read; the first: .*a\.png'):
        ImageDataset(tmp_path, CROPS)[0]
    monkeypatch.setattr('mmadclr.datasets.image_dataset.MAX_SUBSTITUTIONS', 2)
    with pytest.raises(UnreadableImageError, match=r'2 consecutive images of 5 .*b\.png'):
        ImageDataset(tmp_path, CROPS)[1]


def test_floating_point_pixels_are_not_guessed(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match='floating-point pixels have an unknown range'):
        load_rgb(tmp_path / 'a.tif')


# --- reproducibility -------------------------------------------------------------------------------------------------------


def test_samples_do_not_depend_on_workers(image_folder):
    root = image_folder()
    assert_same(by_index(loader(root, 0, epoch=3)), by_index(loader(root, 2, epoch=3)))


def test_persistent_workers_learn_the_epoch(image_folder):
    root = image_folder()
    persistent = loader(root, 2, epoch=0)
    list(persistent)
    persistent.sampler.set_epoch(1)
    assert_same(by_index(persistent), by_index(loader(root, 0, epoch=1)))


def test_epochs_and_seeds_differ(image_folder):
    root = image_folder()
    first = by_index(loader(root, 0, epoch=0))
    for other in (loader(root, 0, epoch=1), loader(root, 0, epoch=0, seed=1)):
        assert not torch.equal(first[0]['global_views'], by_index(other)[0]['global_views'])


def test_samples_do_not_depend_on_the_number_of_processes(image_folder, monkeypatch):
    """The union of what two ranks load in step i is what one process with the doubled batch loads in step i."""
    import mmengine.dataset.sampler as sampler

    root = image_folder()
    single = [sorted(batch['index'].tolist()) for batch in loader(root, 0, 2, batch_size=4)]
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(sampler, 'get_dist_info', lambda rank=rank: (rank, 2))
        ranks.append([batch['index'].tolist() for batch in loader(root, 0, 2, batch_size=2)])
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == single


# --- batches ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['fast', 'pillow'])
def test_batches_are_the_samples_one_by_one(image_folder, backend):
    root = image_folder()
    corrupt(root)
    dataset = ImageDataset(root, CROPS | dict(backend=backend), with_label=True)
    keys = [(3, 1, index) for index in (1, 5, 6, 0)]
    batch, expected = collate_samples(dataset.__getitems__(keys)), collate_samples([dataset[key] for key in keys])
    assert batch.keys() == expected.keys()
    assert len(batch['unreadable']) == 2
    for name, value in batch.items():
        same = torch.equal(value, expected[name]) if torch.is_tensor(value) else value == expected[name]
        assert same, name


def test_views_of_a_batch_are_written_in_place(image_folder):
    """One array per kind of view, and collating copies none of them."""
    dataset = ImageDataset(image_folder(), CROPS)
    samples = dataset.__getitems__(range(4))
    batch = collate_samples(samples)
    for kind, count, size in (('global', 2, 16), ('local', 2, 8), ('query', 2, 8)):
        views = batch[f'{kind}_views']
        assert views.shape == (4, count, 3, size, size)
        assert views.permute(0, 1, 3, 4, 2).is_contiguous()
        assert views.untyped_storage().nbytes() == views.nbytes
        for row, sample in enumerate(samples):
            assert sample[f'{kind}_views'].data_ptr() == views[row].data_ptr()


def test_views_of_a_worker_lie_in_shared_memory(image_folder):
    (batch,) = loader(image_folder(count=4), 1, epoch=0)
    blocks = {place + shared_arrays.HEADER for place in shared_arrays._received}  # where this process has mapped them
    starts = {kind: batch[f'{kind}_views'].untyped_storage().data_ptr() for kind in ('global', 'local', 'query')}
    assert set(starts.values()) <= blocks
    assert not any(array.is_shared() for array in ImageDataset(image_folder(), CROPS).transform.allocate(2).values())


def test_transforms_without_batch_arrays_are_collated_as_ever(image_folder):
    dataset = ImageDataset(image_folder(), CENTER)
    batch = collate_samples(dataset.__getitems__([3, 1]))
    assert torch.equal(batch['images'], torch.stack([dataset[3]['images'], dataset[1]['images']]))
    assert batch['unreadable'] == batch['fallbacks'] == []


def test_slower_decoders_are_named_in_the_batch(image_folder):
    root = image_folder(count=4)
    Image.new('CMYK', (48, 40)).save(root / 'class0' / '000.jpg')
    dataset = ImageDataset(root, CROPS)
    batch = collate_samples(dataset.__getitems__(range(5)))
    assert batch['fallbacks'] == [f'{root}/class0/000.jpg: decoded by Pillow (it has CMYK colors)']
    assert batch['unreadable'] == []
    assert dataset[0]['fallbacks'] == batch['fallbacks']


def test_messages_about_unreadable_images_are_always_the_same(image_folder):
    """They are counted by their text, so they must not hold an address in memory."""
    for backend in ('fast', 'pillow'):
        root = image_folder(name=backend)
        broken = corrupt(root)
        dataset = ImageDataset(root, CROPS | dict(backend=backend))
        messages = [{m for index in range(12) for m in dataset[index]['unreadable']} for _ in range(2)]
        assert messages[0] == messages[1]
        assert len(messages[0]) == len(broken)


# --- generated shapes ------------------------------------------------------------------------------------------------------


def test_shapes_are_drawn_once_and_consistent(tmp_path):
    root = tmp_path / 'shapes'
    arguments = dict(data_root=str(root), num_train=20, num_val=10, image_size=48, transform=CENTER, with_label=True)
    train = ShapesDataset(split='train', **arguments)
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*.png')}
    val = ShapesDataset(split='val', **arguments)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*.png')} == before
    assert (len(train), len(val)) == (20, 10)
    names = json.loads((root / 'classes.json').read_text())
    for split, dataset in (('train', train), ('val', val)):
        for index in range(len(dataset)):
            path = dataset.path(index)
            instances = np.asarray(Image.open(root / 'instances' / split / path.parent.name / path.name))
            semantic = np.asarray(Image.open(root / 'semantic' / split / path.parent.name / path.name))
            assert instances.shape == semantic.shape == (48, 48)
            assert np.array_equal(semantic > 0, instances > 0)
            assert set(np.unique(semantic)) <= {0, names.index(path.parent.name) + 1}
    assert sorted(train.labels.tolist()) == sorted(list(range(10)) * 2)


def test_shapes_of_other_settings_are_not_overwritten(tmp_path):
    root = tmp_path / 'shapes'
    ShapesDataset(str(root), 'val', num_train=10, num_val=10, image_size=32, transform=CENTER)
    with pytest.raises(FileExistsError, match='other settings'):
        ShapesDataset(str(root), 'val', num_train=10, num_val=20, image_size=32, transform=CENTER)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').write_text('precious')
    with pytest.raises(FileExistsError, match='neither empty nor a complete set'):
        ShapesDataset(str(tmp_path / 'full'), 'val', transform=CENTER)


def test_raw_pixels_of_shapes_say_little(tmp_path):
    """What the demo rests on: neighbors in pixel space find the class of fewer than half of the images."""
    from mmadclr.evaluation.knn import WeightedKNN

    arguments = dict(data_root=str(tmp_path / 's'), num_train=400, num_val=100, transform=CENTER, with_label=True)
    features, labels = {}, {}
    for split in ('train', 'val'):
        samples = collate_samples([*ShapesDataset(split=split, **arguments)])
        features[split], labels[split] = samples['images'].flatten(1) - 128.0, samples['label']
    accuracy = WeightedKNN(20)(features['train'], labels['train'], features['val'], labels['val'])
    assert 10 < accuracy['knn20_T0.07_top1'] < 45
