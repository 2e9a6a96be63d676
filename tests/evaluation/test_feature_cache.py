"""Features on disk: equal to those in memory, refused for anything else, and never half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import dist
from PIL import Image
from places import GOLDEN_CHECKPOINTS

from mmadclr.datasets import ImageDataset, UnreadableImageError
from mmadclr.distributed.agreement import together
from mmadclr.evaluation import extraction, feature_cache, image_account
from mmadclr.evaluation.extraction import Loading, extract, to_dtype
from mmadclr.evaluation.extractor import FeatureExtractor
from mmadclr.evaluation.feature_cache import cached_features, fingerprint
from mmadclr.hub.opening import open_backbone

LOADING = Loading(batch_size=5)


@pytest.fixture
def opened():
    return open_backbone(GOLDEN_CHECKPOINTS / 'dino_backbone.pth', num_heads=3)


def dataset_of(root, resize=32, read='fast'):
    return ImageDataset(str(root), dict(type='ResizeCenterCrop', resize=resize, size=32, backend=read), with_label=True)


class Cases:
    """One data set and backbone with what is asked for as keywords."""

    def __init__(self, opened, root, folder):
        self.opened, self.root, self.folder = opened, root, folder

    def cached(self, features='cls', dtype='float32', root=None, opened=None, precision='fp32', refresh=False, **kwargs):
        opened, dataset = opened or self.opened, dataset_of(root or self.root, **kwargs)
        expected = fingerprint(opened, dataset, features, dtype, precision)
        model = FeatureExtractor(opened, features, precision)
        return cached_features(self.folder, model, dataset, expected, LOADING, refresh)

    def extracted(self, dtype='float32', **kwargs):
        return extract(FeatureExtractor(self.opened), dataset_of(self.root), LOADING, dtype, **kwargs)


@pytest.fixture
def cases(opened, image_folder, tmp_path):
    return Cases(opened, image_folder(count=13, classes=3), tmp_path / 'caches' / 'train')


def assert_equal(found, expected):
    # Images encoded in other batches: equal up to rounding, of the stored type as well.
    rtol = {'float16': 1e-3, 'float32': 0}[str(found.rows.dtype)]
    assert found.rows.dtype == expected.rows.dtype
    torch.testing.assert_close(found.rows[:], expected.rows[:], rtol=rtol, atol=1e-5)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.classes == expected.classes


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
@pytest.mark.parametrize('shard_rows', [4, 100])
def test_cache_holds_the_features_of_memory(cases, dtype, shard_rows, monkeypatch):
    monkeypatch.setattr(feature_cache, 'SHARD_ROWS', shard_rows)
    expected = cases.extracted(dtype)
    dataset = dataset_of(cases.root)
    alone = [FeatureExtractor(cases.opened)(**images_of(cases, dataset[i])) for i in range(13)]
    torch.testing.assert_close(expected.rows[:].float(), torch.cat(alone), rtol=1e-3 if dtype == 'float16' else 0, atol=1e-5)
    for _ in range(2):  # written, and read
        found = cases.cached(dtype=dtype)
        assert_equal(found, expected)
        assert all(isinstance(part, np.memmap) for part in found.rows.parts)
    assert len(list(cases.folder.glob('features-*.npy'))) == -(-13 // shard_rows)


def images_of(cases, sample):
    return FeatureExtractor(cases.opened).data_preprocessor({'images': sample['images'][None]})


def test_a_cache_is_read_without_the_model(cases, monkeypatch):
    cases.cached()
    monkeypatch.setattr(feature_cache, 'feature_batches', None)
    assert len(cases.cached().rows) == 13


@pytest.mark.parametrize(
    ('change', 'item'),
    [
        (dict(features='mean'), 'features differ .cached: cls, requested: mean'),
        (dict(dtype='float16'), 'type differ .cached: float32, requested: float16'),
        (dict(resize=40), r'resize and crop differ .cached: \[32, 32\], requested: \[40, 32\]'),
        (dict(root='other'), 'folder of images differ'),
        (dict(root='more'), 'number of images differ .cached: 13, requested: 14'),
        (dict(root='renamed'), 'list of images and labels differ'),
        (dict(opened='weights'), 'weights of the backbone differ'),
        (dict(opened='heads'), 'settings of the backbone differ'),
        (dict(opened='std'), 'mean and std differ'),
        (dict(read='pillow'), r'reading \(--read\) differ .cached: fast, requested: pillow'),
        (dict(precision='bf16'), r'precision \(--precision\) differ .cached: fp32, requested: bf16'),
    ],
)
def test_another_cache_is_refused_by_what_differs_and_refreshed(cases, change, item, tmp_path):
    cases.cached()
    change = {key: changed(cases, key, value, tmp_path) for key, value in change.items()}
    with pytest.raises(ValueError, match=rf'{cases.folder} contains other features: {item}.*\(--refresh\)'):
        cases.cached(**change)
    refreshed = cases.cached(**change, refresh=True)
    assert_equal(cases.cached(**change), refreshed)


def changed(cases, key, value, tmp_path):
    if key == 'root':
        image = next(cases.root.glob('class1/*.png'))
        if value == 'other':
            shutil.copytree(cases.root, tmp_path / 'other')
            return tmp_path / 'other'
        shutil.copy(image, image.with_name('more.png')) if value == 'more' else image.rename(image.with_name('new.png'))
        return cases.root
    if key == 'opened' and value == 'heads':
        return open_backbone(GOLDEN_CHECKPOINTS / 'dino_backbone.pth', num_heads=4)
    if key == 'opened' and value == 'weights':
        return open_backbone(GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth', which='student', num_heads=3)
    return cases.opened._replace(std=(0.5, 0.5, 0.5)) if key == 'opened' else value


def test_caches_that_do_not_say_how_were_read_by_pillow_in_single_precision(cases):
    cases.cached(read='pillow')
    index = cases.folder / 'cache.json'
    about = json.loads(index.read_text())
    for item in ('reading (--read)', 'precision (--precision)'):
        del about['fingerprint'][item]
    index.write_text(json.dumps(about))
    assert len(cases.cached(read='pillow').rows) == 13
    with pytest.raises(ValueError, match=r'reading \(--read\) differ .cached: pillow, requested: fast'):
        cases.cached()
    with pytest.raises(ValueError, match=r'precision \(--precision\) differ .cached: fp32, requested: bf16'):
        cases.cached(read='pillow', precision='bf16')


def test_same_weights_in_another_file_are_the_same_backbone(cases):
    cases.cached()
    assert len(cases.cached(opened=open_backbone(GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth', num_heads=3)).rows) == 13


def test_nothing_is_left_of_an_extraction_that_fails(cases, monkeypatch):
    def stop(*args):
        raise OSError('no space left on device')

    cases.cached()
    before = sorted(path.name for path in cases.folder.iterdir())
    monkeypatch.setattr(feature_cache, '_write_index', stop)
    with pytest.raises(OSError, match='no space left'):
        cases.cached(refresh=True)
    assert [path.name for path in cases.folder.parent.iterdir()] == ['train']  # as it was
    assert sorted(path.name for path in cases.folder.iterdir()) == before
    shutil.rmtree(cases.folder)
    with pytest.raises(OSError, match='no space left'):
        cases.cached()
    assert not list(cases.folder.parent.iterdir())


def test_folders_that_are_no_cache_stay_as_they_are(cases):
    cases.folder.mkdir(parents=True)
    (cases.folder / 'thesis.tex').write_text('x')
    for refresh in (False, True):
        with pytest.raises(ValueError, match=r'is not a feature cache \(it has no cache.json\): choose another folder'):
            cases.cached(refresh=refresh)
    assert (cases.folder / 'thesis.tex').read_text() == 'x'


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize(
    ('name', 'damage', 'reason'),
    [
        ('features-*.npy', Path.unlink, 'No such file'),
        ('features-*.npy', cut, 'mmap length is greater'),
        ('features-*.npy', lambda file: np.save(file, np.load(file)[:9]), 'has 9 rows instead of 13'),
        ('labels.npy', Path.unlink, 'No such file'),
        ('indices.npy', cut, ''),
        ('cache.json', cut, ''),
        ('cache.json', lambda file: file.write_text('{}'), "'shards'"),
    ],
)
def test_damaged_caches_are_found_and_made_anew(cases, name, damage, reason):
    whole = cases.cached()
    (file,) = cases.folder.glob(name)
    features = whole.rows[:].clone()
    damage(file)
    with pytest.raises(
        ValueError, match=rf'{cases.folder} is damaged \(.*{reason}.*: extract the features again \(--refresh\)'
    ):
        cases.cached()
    assert torch.equal(cases.cached(refresh=True).rows[:], features)


def test_unreadable_images_are_left_out_named_and_limited(cases):
    whole = cases.extracted()
    broken = dataset_of(cases.root).path(4)
    broken.write_bytes(broken.read_bytes()[:50])
    kept = [0, 1, 2, 3, *range(5, 13)]
    for found in (cases.extracted(), cases.cached(), cases.cached()):
        assert found.indices.tolist() == kept
        torch.testing.assert_close(found.rows[:], whole.rows[np.array(kept)], rtol=0, atol=1e-5)
        assert found.labels.tolist() == whole.labels[kept].tolist()
    (message,) = json.loads((cases.folder / 'cache.json').read_text())['unreadable']
    assert message.startswith(str(broken))
    with pytest.raises(UnreadableImageError, match=f'1 of 13 images .* cannot be read; the first: {broken}'):
        extract(FeatureExtractor(cases.opened), dataset_of(cases.root), LOADING._replace(unreadable=0))


@pytest.mark.parametrize('shard_rows', [4, 100])
def test_what_images_lose_is_counted_and_said_again(cases, shard_rows, monkeypatch):
    messages = []
    monkeypatch.setattr(feature_cache, 'SHARD_ROWS', shard_rows)
    for module in (image_account, feature_cache):
        monkeypatch.setattr(module, 'print_log', lambda message, *_: messages.append(message))
    for number in (3, 9):
        path = dataset_of(cases.root).path(number)
        Image.open(path).convert('RGBA').save(path)
    first = dataset_of(cases.root).source.name(3)
    for use in (cases.extracted, cases.cached, cases.cached):
        use()
        assert messages == [f'2 images have an alpha channel, which is not used (the first: {first})']
        messages.clear()


def test_another_range_of_values_is_another_cache(cases):
    def cached(**pixels):
        dataset = ImageDataset(str(cases.root), dict(type='ResizeCenterCrop', resize=32, size=32), with_label=True, **pixels)
        expected = fingerprint(cases.opened, dataset, 'cls', 'float32')
        return cached_features(cases.folder, FeatureExtractor(cases.opened, 'cls'), dataset, expected, LOADING)

    cached(value_range=(0, 4095))
    cached(value_range=(0, 4095), max_pixels=10**6)  # decides about no pixel
    for pixels in ({}, dict(value_range=(0, 1023)), dict(value_range=(0, 4095), bands=(0, 1, 2))):
        with pytest.raises(ValueError, match='contains other features: range of values and bands differ'):
            cached(**pixels)


def test_chosen_images_alone_are_encoded(cases):
    whole, chosen = cases.extracted(), np.array([1, 2, 7, 12])
    part = cases.extracted(indices=chosen)
    assert_equal(part, whole.select(chosen))
    assert part.indices.tolist() == chosen.tolist()


def test_an_error_on_one_process_ends_all(monkeypatch):
    monkeypatch.setattr(dist, 'all_gather_object', lambda message: [message, 'OSError: no space left on device'])
    with pytest.raises(ValueError, match='process 1 failed: OSError: no space left on device'):
        together(lambda: 3)
    with pytest.raises(KeyError, match='own'):  # the process's own error first
        together(lambda: {}['own'])


def test_features_too_large_for_half_precision_are_an_error():
    with pytest.raises(ValueError, match='features are too large for float16: use float32'):
        to_dtype(torch.tensor([[1.0, 1e5]]), 'float16')
    with pytest.raises(ValueError, match='features are NaN or infinite'):
        to_dtype(torch.tensor([[1.0, torch.nan]]), 'float32')
    assert to_dtype(torch.tensor([[1.0, 1e5]]), 'float32').tolist() == [[1.0, 1e5]]


def test_progress_is_said_now_and_then(cases, monkeypatch):
    messages = []
    monkeypatch.setattr(extraction, 'LOG_SECONDS', 0)
    monkeypatch.setattr(extraction, 'print_log', lambda message, logger: messages.append(message))
    monkeypatch.setattr(feature_cache, 'SHARD_ROWS', 8)
    cases.cached()
    assert [message.partition(' images, ')[0].rpartition(': ')[2] for message in messages] == [
        '5 of 13', '8 of 13', '13 of 13'
    ]  # fmt: skip
