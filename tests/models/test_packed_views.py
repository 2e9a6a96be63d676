"""From whole images to views: those of the backend that cuts in the worker; files that the device decodes."""

import io
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from counters import CallCounter
from PIL import Image

from mmadclr.datasets import ImageDataset, collate_samples
from mmadclr.datasets.image_dataset import SampleKey
from mmadclr.datasets.pixels import DecodeError
from mmadclr.models.preprocessors import QueryBoxPreprocessor, ViewPreprocessor, packed_views
from mmadclr.models.preprocessors.packed_views import with_views
from mmadclr.reliability.loader_guard import pixels_on

CROPS = dict(type='MultiCrop', global_size=32, local_size=16, query_size=8, num_local=3, num_query=2)
WHOLE = CROPS | dict(backend='device')
FILES = CROPS | dict(backend='device', decode='device')
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Small, large (so that JPEG is decoded shrunk), wide and tall photographs, one of them a PNG."""
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for number, size in enumerate([(80, 60), (811, 611), (200, 50), (40, 90), (64, 64)]):
        image = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        image.save(root / f'{number}.{"png" if number == 4 else "jpg"}')
    return root


def load(folder, transform):
    dataset = ImageDataset(str(folder), transform)
    return collate_samples(dataset.__getitems__([SampleKey(1, 0, index) for index in range(len(dataset))]))


@pytest.mark.parametrize('extra', [{}, dict(num_local=0, num_query=0), dict(query_source='view')])
def test_views_are_those_cut_in_the_worker(folder, extra):
    """To a level, where sums in another order round differently; boxes in shrunk images fall on the same pixels."""
    got, expected = with_views(load(folder, WHOLE | extra), CPU), load(folder, CROPS | extra)
    assert got['image_shrink'].max() > 1
    for name in ('global_views', 'local_views', 'query_views'):
        assert got[name].shape == expected[name].shape
        assert got[name].dtype == torch.uint8
        off = (got[name].int() - expected[name].int()).abs()
        if off.numel():
            assert off.max() <= 2
            assert off.float().mean() < 0.03


def test_a_batch_with_views_is_left_alone(folder):
    batch = load(folder, CROPS)
    assert with_views(batch, CPU) is batch


@pytest.mark.parametrize('arithmetic', ['float', 'pillow'])
@pytest.mark.parametrize('kind', [ViewPreprocessor, QueryBoxPreprocessor])
def test_preprocessors_take_both(folder, kind, arithmetic):
    preprocessor = kind(arithmetic=arithmetic)
    got, expected = (preprocessor(load(folder, transform), True)['views'] for transform in (WHOLE, CROPS))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape
        assert got[name].dtype == value.dtype
        if name == 'query_boxes':
            assert torch.equal(got[name], value)
        else:
            assert (got[name] - value).abs().mean() < 0.01


def test_nothing_waits_for_the_device(folder):
    """The ``meta`` device has no values: what would fetch one raises. Pixels may be there before."""
    batch = load(folder, WHOLE)
    preprocessor = ViewPreprocessor().to('meta')
    for data in (batch, pixels_on('meta', batch)):
        with CallCounter() as counter:
            views = preprocessor(data, True)['views']
        assert counter.syncs == []
        assert views['global_views'].is_meta
        assert views['query_crops'].shape == (5, 2, 2, 3, 8, 8)


def pillow_decoder(files, mode, device):
    """Stands in for TorchCodec's: a list of files -> a list of (3, H, W), or an error that names none of them."""
    assert mode == 'RGB'
    try:
        images = [np.array(Image.open(io.BytesIO(file.numpy().tobytes())).convert(mode)) for file in files]
    except OSError as error:
        raise RuntimeError('cannot decode\nsome trace') from error
    return [torch.from_numpy(image).permute(2, 0, 1).to(device) for image in images]


@pytest.fixture
def decoder(monkeypatch):
    """TorchCodec with the stand-in; what it was called with."""
    calls = []

    def decode_jpeg(files, **kwargs):
        calls.append(len(files))
        return pillow_decoder(files, **kwargs)

    package, module = ModuleType('torchcodec'), ModuleType('torchcodec.decoders')
    module.decode_jpeg = decode_jpeg
    package.decoders = module
    monkeypatch.setitem(sys.modules, 'torchcodec', package)
    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', module)
    return calls


def test_files_are_decoded_on_the_device_by_one_call(folder, decoder):
    """As if the worker had decoded them at full size."""
    got = with_views(load(folder, FILES), CPU)
    assert decoder == [4]  # and one PNG by the worker
    expected = load(folder, CROPS | dict(backend='pillow'))
    for name in ('global_views', 'local_views', 'query_views'):
        off = (got[name].int() - expected[name].int()).abs().float()
        assert off.mean() <= 0.2
        assert (off <= 1).float().mean() >= 0.999


def test_files_that_the_device_refuses_are_decoded_by_the_host(folder, monkeypatch, decoder):
    lines = []
    monkeypatch.setattr(packed_views, 'print_log', lambda text, *_: lines.append(text))
    packed_views.warn_of_refusal.cache_clear()
    expected = with_views(load(folder, FILES), CPU)

    def refuse(*_, **__):
        raise RuntimeError('nvJPEG error 4\ntrace')

    monkeypatch.setattr(sys.modules['torchcodec.decoders'], 'decode_jpeg', refuse)
    for _ in range(2):
        got = with_views(load(folder, FILES), CPU)
    for name in ('global_views', 'local_views', 'query_views'):
        assert torch.equal(got[name], expected[name])
    assert lines == ['TorchCodec rejected a batch of JPEG files, decoding on the CPU instead: nvJPEG error 4']


def test_memory_that_runs_out_is_not_taken_for_a_broken_file(folder, monkeypatch, decoder):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(sys.modules['torchcodec.decoders'], 'decode_jpeg', out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        with_views(load(folder, FILES), CPU)


def test_a_file_that_nobody_decodes_is_named(tmp_path, decoder):
    """Header and last marker are there, and a table between two scans is broken: nobody sees that without decoding."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name in ('a.jpg', 'b.jpg'):
        Image.fromarray(noise).save(tmp_path / name, progressive=True)
    data = bytearray((tmp_path / 'b.jpg').read_bytes())
    table = data.rindex(b'\xff\xc4')
    data[table + 5 : table + 21] = b'\xff' * 16
    (tmp_path / 'b.jpg').write_bytes(data)
    with pytest.raises(DecodeError, match=r"image 1 of the data set cannot be decoded: .*set decode='worker' of MultiCrop"):
        with_views(load(tmp_path, FILES), CPU)


def test_without_the_library_there_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchcodec', None)
    batch = load(folder, FILES)
    with pytest.raises(
        ImportError, match=r"decode='device'\) requires TorchCodec .*pip install 'torchcodec>=0\.16'"
    ) as error:
        with_views(batch, CPU)
    assert '\n' not in str(error.value)
    with_views(load(folder, WHOLE), CPU)  # which needs none


def test_the_real_library_decodes_as_pillow_does(folder):
    """Where TorchCodec is installed; on a CPU it is libjpeg as well."""
    pytest.importorskip('torchcodec')
    batch = load(folder, FILES)
    images = packed_views.images_on(batch, CPU)
    for number, image in enumerate(images):
        path = next(folder.glob(f'{number}.*'))
        expected = torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)
        assert (image.int() - expected.int()).abs().max() <= 2


@pytest.mark.gpu
def test_the_real_library_decodes_on_a_gpu(folder):
    """nvJPEG interpolates colors in its own way."""
    pytest.importorskip('torchcodec')
    batch = load(folder, FILES)
    for number, image in enumerate(packed_views.images_on(batch, torch.device('cuda'))):
        path = next(folder.glob(f'{number}.*'))
        expected = torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)
        assert image.is_cuda
        assert (image.cpu().int() - expected.int()).abs().float().mean() <= 2
