"""Boxes, crops and the multi-crop sample."""

import hashlib
import io
import math

import numpy as np
import PIL
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import _compute_resized_output_size

from mmadclr.datasets import ResizeCenterCrop, center_crop
from mmadclr.datasets.decoding import EncodedImage
from mmadclr.datasets.transforms import (
    ImageTooSmallError,
    MultiCrop,
    crop_and_resize,
    random_resized_box,
    resize_into,
)

SMALL = dict(global_size=32, local_size=16, query_size=8, num_local=3, num_query=2)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))


def sample(image, seed=0, **kwargs):
    return MultiCrop(**(SMALL | kwargs))(dict(image=image, rng=np.random.default_rng(seed), index=0))


def test_crops_equal_published_resized_crops(golden):
    arrays = golden('dino_augment_ops')
    picture = Image.fromarray(arrays['image'])
    keys = [k for k in arrays if k.startswith('resized_crop/') and k.endswith('size')]
    assert keys
    for key in keys:
        name = key.rsplit('/', 1)[0]
        top, left, height, width = arrays[f'{name}/top_left_height_width'].tolist()
        got = crop_and_resize(picture, (left, top, left + width, top + height), int(arrays[key]))
        difference = got.astype(int) - arrays[f'{name}/image'].transpose(2, 0, 1)
        assert abs(difference).max() <= 1


def published_views(arrays):
    """Counts by recipe and the arguments of ``MultiCrop`` that a golden file asks for."""
    given, crops = arrays['arguments'], {view: arrays[view][0] for view in ('global_1', 'global_2', 'local')}
    assert {crop['op'] for crop in crops.values()} == {'RandomResizedCrop'}
    assert {crop['interpolation'] for crop in crops.values()} == {'bicubic'}
    assert all(crops[view]['scale'] == given['global_crops_scale'] for view in ('global_1', 'global_2'))
    assert crops['local']['scale'] == given['local_crops_scale']
    counts = {view: arrays['order_of_crops'].count(view) for view in crops}
    assert arrays['order_of_crops'] == [view for view in crops for _ in range(counts[view])]
    assert counts == dict(global_1=1, global_2=1, local=given['local_crops_number'])
    scales = {f'{kind}_scale': tuple(given[f'{kind}_crops_scale']) for kind in ('global', 'local')}
    return crops, scales | dict(num_local=counts['local'])


def test_views_have_the_published_sizes_and_counts(golden, image):
    crops, settings = published_views(golden('dino_augment'))
    got = MultiCrop(**settings)(dict(image=image, rng=np.random.default_rng(0), index=0))
    assert got['global_views'].shape[2:] == tuple(crops['global_1']['size']) == tuple(crops['global_2']['size'])
    assert got['local_views'].shape[2:] == tuple(crops['local']['size'])
    assert (len(got['global_views']), len(got['local_views'])) == (2, settings['num_local'])


def test_views_cover_the_published_shares_of_the_image(golden, image):
    """Boxes of many samples against the torchvision transform that the golden file describes."""
    crops, settings = published_views(golden('dino_augment'))
    small = dict(global_size=8, local_size=8, num_query=0)
    draws = [MultiCrop(**small, **settings)(dict(image=image, rng=np.random.default_rng(i), index=0)) for i in range(400)]
    torch.manual_seed(0)
    for view, boxes in (
        *((f'global_{i + 1}', torch.stack([draw['global_boxes'][i] for draw in draws])) for i in range(2)),
        ('local', torch.cat([draw['local_boxes'] for draw in draws])),
    ):
        width, height = (boxes[:, 2:] - boxes[:, :2]).double().T
        shares, aspects = width * height / (image.width * image.height), (width / height).log()
        get = torchvision.transforms.RandomResizedCrop.get_params
        plain = torch.zeros(1, image.height, image.width)
        theirs = [get(plain, crops[view]['scale'], crops[view]['ratio'])[2:] for _ in range(4000)]
        h, w = torch.tensor(theirs, dtype=torch.float64).T
        for ours, expected in ((shares, h * w / plain.numel()), (aspects, (w / h).log())):
            error = expected.std() * (len(ours) ** -0.5 + len(expected) ** -0.5)
            assert abs(ours.mean() - expected.mean()) < 4 * error, view
            assert abs(ours.std() - expected.std()) < 4 * error, view
            assert expected.min() - 2 * error < ours.min()
            assert ours.max() < expected.max() + 2 * error


def test_box_statistics_are_those_of_torchvision():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    picture = torch.zeros(3, 60, 90)
    ours = np.array([random_resized_box(rng, (0, 0, 90, 60), (0.1, 0.8)) for _ in range(5000)])
    get = torchvision.transforms.RandomResizedCrop.get_params
    theirs = np.array([get(picture, (0.1, 0.8), (3 / 4, 4 / 3)) for _ in range(5000)])  # top, left, height, width
    theirs = np.stack((theirs[:, 1], theirs[:, 0], theirs[:, 1] + theirs[:, 3], theirs[:, 0] + theirs[:, 2]), axis=1)
    for statistic in (np.mean, np.std):
        np.testing.assert_allclose(statistic(ours, axis=0), statistic(theirs, axis=0), rtol=0.05, atol=0.5)


@pytest.mark.parametrize('within', [(0, 0, 90, 60), (10, 20, 50, 40), (0, 0, 7, 300)])
def test_boxes_stay_inside_and_keep_their_area(within):
    rng = np.random.default_rng(0)
    left, top, right, bottom = within
    for _ in range(300):
        x0, y0, x1, y1 = random_resized_box(rng, within, (0.2, 0.5))
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom


def test_fallback_is_the_largest_central_box():
    assert random_resized_box(np.random.default_rng(0), (0, 0, 10, 1000), (0.9, 1.0)) == (0, 493, 10, 506)


@pytest.mark.parametrize('backend', ['fast', 'pillow'])
def test_sample_has_the_declared_contents(image, backend):
    got = sample(image, backend=backend)
    for kind, count, size in (('global', 2, 32), ('local', 3, 16), ('query', 2, 8)):
        assert got[f'{kind}_views'].shape == (count, 3, size, size)
        assert got[f'{kind}_views'].dtype == torch.uint8
        assert got[f'{kind}_boxes'].shape == (count, 4)
        for view, box in zip(got[f'{kind}_views'], got[f'{kind}_boxes'].tolist(), strict=True):
            expected = crop_and_resize(image, box, size) if backend == 'pillow' else fast_crop(image, box, size)
            assert np.array_equal(view.numpy(), expected)
    assert got['global_photometric'].shape == (2, 12)
    assert got['local_photometric'].shape == (3, 12)
    assert got['query_photometric'].shape == (1, 2, 12)


# First 16 digits of the SHA-256 of every array of a sample, written down before there was a second backend. Pillow before 13
# rounds some pixels differently.
DIGESTS = {
    'default': (
        dict(num_query=10),
        (500, 375),
        {
            'global': ('d7ddda0c1c7b21d6', '036875c5bc8327ae', '52abdb9a0740f6a0'),
            'local': ('b008add6e96aa486', '8cb503e9611ee0dd', '2e95e36d39a94f76'),
            'query': ('29625347287ae9a8', 'b3fbaebb5140a8cb', '1594c2ed79d016d5'),
        },
    ),
    'view': (
        SMALL | dict(query_source='view', query_photometric='per_view', query=dict(hue=0.0)),
        (33, 120),
        {
            'global': ('1ec88028a67b1833', '577f521fb60c94b9', '75a290c5e873ec6d'),
            'local': ('04bed8468e7c4173', '41d5461a6c72f599', '099c72f474c07cce'),
            'query': ('b8a02a2c32d6a29c', '6c485c9243ca0140', '65ccd66d35b574e1'),
        },
    ),
}


def pattern(width, height):
    y, x = np.mgrid[:height, :width]
    levels = np.stack([(x * 3 + y) % 256, (x * y // 7) % 256, (255 - x + 2 * y) % 256], axis=-1)
    return Image.fromarray(levels.astype(np.uint8))


@pytest.mark.parametrize('name', DIGESTS)
def test_samples_of_the_pillow_backend_are_those_of_earlier_versions(name):
    settings, size, expected = DIGESTS[name]
    rng = np.random.default_rng((3, 5, 7))
    got = MultiCrop(**settings, backend='pillow')(dict(image=pattern(*size), rng=rng))
    for kind, digests in expected.items():
        for part, digest in zip(('views', 'boxes', 'photometric'), digests, strict=True):
            if part == 'views' and int(PIL.__version__.partition('.')[0]) < 13:
                continue
            data = got[f'{kind}_{part}'].contiguous().numpy().tobytes()
            assert hashlib.sha256(data).hexdigest()[:16] == digest, (kind, part)


# --- the fast backend ------------------------------------------------------------------------------------------------------


def fast_crop(image, box, size):
    source = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    out = torch.zeros(1, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    resize_into(out, source, box)
    return out[0].numpy()


def photograph(width, height):
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(20, 236, (15, 20, 3), dtype=np.uint8))
    fine = rng.normal(0, 4, (height, width, 3))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + fine
    return Image.fromarray(smooth.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize('size', [16, 96, 224])
def test_fast_crops_are_two_levels_from_pillows_passes(size):
    """Also for noise of black and white, where overshoots are clipped between the passes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray((rng.integers(0, 2, (150, 200, 3)) * 255).astype(np.uint8))
    for image in (noise, photograph(200, 150)):
        for box in ((0, 0, 200, 150), (20, 10, 70, 140), (90, 30, 199, 77), (3, 3, 19, 19)):
            horizontal = image.crop(box).resize((size, box[3] - box[1]), Image.Resampling.BICUBIC)
            expected = np.asarray(horizontal.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            off = abs(fast_crop(image, box, size).astype(int) - expected)
            assert off.max() <= 2
            assert off.mean() < 0.1


def test_fast_samples_have_the_draws_and_nearly_the_pixels_of_pillow():
    image = photograph(240, 180)
    settings = dict(global_size=112, local_size=48, num_query=5)
    fast, pillow = sample(image, **settings), sample(image, **settings, backend='pillow')
    assert fast.keys() == pillow.keys()
    for kind in ('global', 'local', 'query'):
        assert torch.equal(fast[f'{kind}_boxes'], pillow[f'{kind}_boxes'])
        assert torch.equal(fast[f'{kind}_photometric'], pillow[f'{kind}_photometric'])
        off = (fast[f'{kind}_views'].int() - pillow[f'{kind}_views'].int()).abs().float()
        assert off.mean() < 0.15
        assert off.max() <= 2


def test_crops_are_antialiased():
    """A fine check pattern becomes gray in a small crop; sampling without a filter would leave black and white."""
    check = Image.fromarray((np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert('RGB')
    for backend in ('fast', 'pillow'):
        views = sample(check, query_scale=(0.9, 1.0), backend=backend)['query_views']
        assert views[..., 1:-1, 1:-1].float().std() < 4
        assert abs(views.float().mean() - 127.5) < 3


def jpeg(image, quality=95):
    buffer = io.BytesIO()
    image.save(buffer, 'jpeg', quality=quality)
    return buffer.getvalue()


class Recorder(EncodedImage):
    """Remembers at which fraction it was decoded."""

    def decode(self, shrink=1, scratch=None):
        self.shrink = shrink
        return super().decode(shrink, scratch)


@pytest.mark.parametrize(('side', 'expected'), [(60, 1), (280, 2), (560, 4), (1120, 8)])
def test_large_jpegs_are_decoded_no_larger_than_the_crops_need(side, expected):
    data = jpeg(photograph(side, side))
    shrinks = set()
    for seed in range(5):
        image = Recorder(data, '')
        got = sample(image, seed, num_local=0, global_scale=(0.3, 1.0), global_size=64, query_size=16)
        shrinks.add(image.shrink)
        sides = torch.cat([got['global_boxes'], got['query_boxes']]).reshape(-1, 2, 2).diff(dim=1).amin(dim=(1, 2))
        needed = torch.tensor([64] * 2 + [16] * 2)
        if image.shrink > 1:  # no crop is enlarged for it
            assert (sides // image.shrink - 1 >= needed).all()
        assert image.shrink == 8 or (sides < 2 * image.shrink * (needed + 1)).any()
    assert max(shrinks) == expected


def test_crops_of_a_shrunk_jpeg_are_close_to_the_whole_ones():
    data = jpeg(photograph(1120, 840))
    settings = dict(global_size=64, local_size=24, num_local=6, local_scale=(0.1, 0.3))
    image = Recorder(data, '')
    fast = sample(image, **settings)
    assert image.shrink > 1
    whole = sample(Image.open(io.BytesIO(data)), **settings, backend='pillow')
    for kind in ('global', 'local', 'query'):
        assert torch.equal(fast[f'{kind}_boxes'], whole[f'{kind}_boxes'])
        off = (fast[f'{kind}_views'].int() - whole[f'{kind}_views'].int()).abs().float()
        assert off.mean() < 2.5  # levels; edges moved by up to half a pixel


def test_batch_bytes_are_those_of_the_arrays():
    transform = MultiCrop(**SMALL)
    arrays = transform.allocate(5)
    assert transform.batch_bytes(5) == sum(array.nbytes for array in arrays.values())
    assert MultiCrop(num_query=10).batch_bytes(1) == 585216


@pytest.mark.parametrize('counts', [dict(num_local=0), dict(num_query=0), dict(num_local=0, num_query=0)])
def test_counts_may_be_zero_and_are_independent(image, counts):
    got = sample(image, **counts)
    expected = SMALL | counts
    assert got['local_views'].shape[0] == expected['num_local']
    assert got['query_views'].shape[0] == expected['num_query']
    assert got['query_photometric'].shape == (1, expected['num_query'], 12)
    # Global views are drawn first: they are the same whatever else is asked for.
    assert torch.equal(got['global_views'], sample(image)['global_views'])


def test_per_view_draws_differ_and_shared_ones_are_one(image):
    draws = sample(image, query_photometric='per_view')['query_photometric']
    assert draws.shape == (2, 2, 12)
    assert not torch.equal(draws[0], draws[1])


def test_queries_from_the_view_lie_in_it(image):
    for seed in range(30):
        got = sample(image, seed, query_source='view', global_scale=(0.3, 0.4))
        left, top, right, bottom = got['global_boxes'][0].tolist()
        boxes = got['query_boxes']
        assert (boxes[:, :2] >= torch.tensor([left, top])).all()
        assert (boxes[:, 2:] <= torch.tensor([right, bottom])).all()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_local=-1), 'must not be negative'),
        (dict(query_source='crop'), "query_source='crop'"),
        (dict(query_photometric='both'), "query_photometric='both'"),
        (dict(backend='cv2'), "backend='cv2': choose 'fast', 'device' or 'pillow'"),
        (dict(backend='device', decode='gpu'), "decode='gpu': choose 'worker' or 'device'"),
        (dict(backend='fast', decode='device'), "decode='device' with backend='fast': .*set backend='device'"),
        (dict(local=dict(blurr=1.0)), 'blurr'),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**kwargs)


def test_image_smaller_than_a_query_crop():
    tiny = Image.new('RGB', (7, 50))
    with pytest.raises(ImageTooSmallError, match='7x50 pixels are smaller than a query crop of 8'):
        sample(tiny)
    assert sample(tiny, num_query=0)['global_views'].shape == (2, 3, 32, 32)


def torchvision_center_crop(resize, size):
    return torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(resize, torchvision.transforms.InterpolationMode.BICUBIC),
            torchvision.transforms.CenterCrop(size),
            torchvision.transforms.PILToTensor(),
        ]
    )


# 49: times the rounded 40 / 49 or 256 / 49, multiples of 49 fall below a whole number.
@pytest.mark.parametrize('size', [(90, 60), (60, 90), (41, 97), (40, 40), (49, 49), (49, 98), (147, 49), (1, 3), (500, 7)])
@pytest.mark.parametrize(('resize', 'crop'), [(40, 32), (40, 33), (256, 224)])
def test_center_crop_equals_torchvision(size, resize, crop):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    found = ResizeCenterCrop(resize, crop, 'pillow')(dict(image=image))['images']
    assert torch.equal(found, torchvision_center_crop(resize, crop)(image))


class SizedImage:
    """An image of which only the size matters: remembers to which size it was resized, and what was cut out of it."""

    def __init__(self, size):
        self.size = size

    def resize(self, size, resample):
        assert resample == Image.Resampling.BICUBIC
        self.resized = size
        return self

    def crop(self, box):
        self.box = box
        return np.zeros((box[3] - box[1], box[2] - box[0], 3), dtype=np.uint8)


CENTER_CROPS = [(16, 4), (37, 5), (48, 4), (224, 5), (256, 4), (257, 4), (518, 5), (585, 5)]


@pytest.mark.parametrize(('resize', 'crop'), CENTER_CROPS)
def test_sizes_and_boxes_of_center_crops_are_those_of_torchvision_for_every_size(resize, crop, monkeypatch):
    """All sides from 1 to 120, and every seventh to 1500; each resize has an eighth of the short sides."""
    monkeypatch.setattr(center_crop, 'MAX_RESIZED', math.inf)
    sides, transform = [*range(1, 120), *range(120, 1500, 7)], ResizeCenterCrop(resize, crop, 'pillow')
    first = CENTER_CROPS.index((resize, crop))
    for place in range(first, len(sides), len(CENTER_CROPS)):
        short = sides[place]
        for long in sides[place:]:
            for size in ((short, long), (long, short)):
                image = SizedImage(size)
                transform(dict(image=image))
                height, width = _compute_resized_output_size((size[1], size[0]), [resize])
                assert image.resized == (width, height), (size, resize)
                left, top = round((width - crop) / 2.0), round((height - crop) / 2.0)
                assert image.box == (left, top, left + crop, top + crop), (size, resize)


def test_center_crop_larger_than_the_image_is_explained():
    with pytest.raises(ValueError, match='size=64 must not exceed resize=32'):
        ResizeCenterCrop(32, 64)
