"""Masks as people bring them: what leaves nothing to learn, fits no image or has no clear meaning is refused or said."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image, ImageOps

from mmadclr.datasets import MaskedImageDataset, checks, masked_images
from mmadclr.datasets.checks import DatasetError, check_dataset
from mmadclr.datasets.label_maps import LabelMapError, count_labels, meanings, open_label_map, too_few_classes
from mmadclr.evaluation import DenseProbe, dense_probe

dense = pytest.mark.dense
SIZE = (40, 30)  # width, height
CLASSES = ('background', 'object')


@pytest.fixture(autouse=True)
def _stand_in():
    import mmadclr.ops  # noqa: F401


@pytest.fixture
def said(monkeypatch):
    """What is logged, with its level."""
    lines = []
    for module in (checks, masked_images, dense_probe):
        monkeypatch.setattr(module, 'print_log', lambda text, logger, level: lines.append((text, level)))
    return lines


def split(labels, share=4):
    """A label map of two labels, the second on the left quarter."""
    pixels = np.full(SIZE[::-1], labels[0], np.int64)
    pixels[:, : SIZE[0] // share] = labels[-1]
    return pixels


def save(root, masks, part='train', image=None, **options):
    """Writes images with these masks (arrays or Pillow's images); ``image`` (H, W, 3) is that of all."""
    for folder in ('img', 'mask'):
        (root / folder / part).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        pixels = np.zeros((*SIZE[::-1], 3), np.uint8) if image is None else image
        Image.fromarray(pixels).save(root / 'img' / part / f'{number}.jpg', quality=95, **options)
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask, np.uint8))
        mask.save(root / 'mask' / part / f'{number}.png', **({'exif': mask.info['exif']} if 'exif' in mask.info else {}))


def data(root, num_classes=2, part='train', size=20, **kwargs):
    return MaskedImageDataset(str(root), f'img/{part}', f'mask/{part}', size, num_classes, **kwargs)


def probe(root, num_classes=2, **kwargs):
    train = dict(data_root=str(root), img_dir='img/train', mask_dir='mask/train', size=20, num_classes=num_classes, **kwargs)
    return DenseProbe(train, dict(img_dir='img/val', mask_dir='mask/val'))


def check(root, part='train', num_items=None, classes=CLASSES, model=None, evaluator=None, **kwargs):
    prefix = dict(img_path=f'img/{part}', seg_map_path=f'mask/{part}')
    meta = dict(classes=classes) if classes else {}
    cfg = dict(type='BaseSegDataset', data_root=str(root), data_prefix=prefix, metainfo=meta, **kwargs)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return check_dataset(cfg, num_items, evaluator=evaluator, model=model)


# What leaves at most one class: labels in the masks, settings, and what the message says.
NOTHING_TO_LEARN = [
    (
        [0, 255],
        {},
        r'masks contain 0 \(75 %\) and 255 \(25 %\): 255 is ignored here, only class 0 is left.*any score is 100 %',
    ),
    (
        [0, 255],
        {},
        r'nothing to learn and any score is 100 %\. If 255 is a class, rewrite the masks to the labels 0 to 1',
    ),
    ([0, 1], dict(ignore_index=0), r'0 is ignored here, only class 1 is left'),
    ([0, 1], dict(reduce_zero_label=True), r'only class 0 is left.*Remove reduce_zero_label if 0 is a class'),
    ([255, 255], {}, r'masks contain 255 \(100 %\): 255 is ignored here, no class is left'),
    ([1, 1], {}, r'masks contain 1 \(100 %\): only class 1 is left.*with one for every class'),
]


@pytest.mark.parametrize(('labels', 'settings', 'message'), NOTHING_TO_LEARN)
@pytest.mark.parametrize('bad', ['train', 'val'])
def test_a_probe_of_one_class_is_refused(tmp_path, labels, settings, message, bad):
    sound, num_classes = ([1, 2], 3) if settings else ([0, 1], 2)
    for part in ('train', 'val'):
        save(tmp_path, [split(labels if part == bad else sound)] * 2, part)
    with pytest.raises(ValueError, match=message) as error:
        probe(tmp_path, num_classes, **settings)
    assert f'mask/{bad}: ' in str(error.value)


@dense
@pytest.mark.parametrize(('labels', 'settings', 'message'), NOTHING_TO_LEARN)
def test_a_check_of_one_class_is_refused(tmp_path, labels, settings, message):
    save(tmp_path, [split(labels)] * 2)
    with pytest.raises(DatasetError, match=message):
        check(tmp_path, **settings)


def test_two_classes_pass_beside_ignored_pixels(tmp_path, said):
    mask = split([0, 1])
    mask[:3] = 255
    for part in ('train', 'val'):
        save(tmp_path, [mask], part)
    probe(tmp_path)
    assert not said


def test_classes_that_occur_nowhere_are_said_by_the_probe(tmp_path, said):
    save(tmp_path, [split([0, 1])], 'train')
    save(tmp_path, [split([0, 2])], 'val')
    probe(tmp_path, num_classes=4)
    assert {level for _, level in said} == {logging.WARNING}
    train, val, both = (text for text, _ in said)
    assert 'mask/train: 2 of 4 classes do not occur in 1 masks: 2 (2), 3 (3)' in train
    assert 'mask/val: 2 of 4 classes do not occur in 1 masks: 1 (1), 3 (3)' in val
    assert 'classes [2] do not occur in the training masks, so they cannot be predicted' in both


def test_the_mean_is_over_classes_of_the_labels():
    """Label 0 three times of four and 1 once; class 2 is only predicted, and takes from 0 what it takes."""
    masks, prediction = torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 2, 0, 1]])
    confusion = dense_probe.confusion_matrix(prediction, masks, 3)
    assert dense_probe.mean_iou(confusion) == pytest.approx(100 * (2 / 3 + 1) / 2)
    with pytest.raises(ValueError, match='no pixel is annotated with a class'):
        dense_probe.mean_iou(torch.zeros(3, 3))


@dense
def test_classes_that_occur_nowhere_are_said_by_the_check(tmp_path, said):
    save(tmp_path, [split([0, 1])] * 3)
    assert check(tmp_path, classes=('a', 'b', 'c')).endswith('all items OK')
    ((text, level),) = said
    assert 'mask/train: 1 of 3 classes do not occur in 3 masks: 2 (c)' in text
    assert level == logging.WARNING


@dense
def test_classes_are_looked_for_beyond_the_first_masks(tmp_path, said):
    save(tmp_path, [split([0, 0])] * 5 + [split([0, 1])])
    assert check(tmp_path, num_items=2).endswith('the first 2 items OK')
    assert not said
    save(tmp_path, [split([0, 255])] * 6)
    with pytest.raises(DatasetError, match=r'only class 0 is left'):
        check(tmp_path, num_items=2)
    save(tmp_path, [split([0, 0])] * 5 + [split([0, 9])])
    with pytest.raises(DatasetError, match=r'5\.png has labels \[9\]'):
        check(tmp_path, num_items=2)


@dense
def test_parts_of_a_concatenation_count_together(tmp_path):
    save(tmp_path, [split([0, 0])], 'a')
    save(tmp_path, [split([1, 1])], 'b')
    parts = []
    for part in 'ab':
        prefix = dict(img_path=f'img/{part}', seg_map_path=f'mask/{part}')
        meta = dict(classes=CLASSES)
        parts.append(dict(type='BaseSegDataset', data_root=str(tmp_path), data_prefix=prefix, metainfo=meta))
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_dataset(dict(type='ConcatDataset', datasets=parts))
        with pytest.raises(DatasetError, match='only class 1 is left'):
            check_dataset(dict(type='ConcatDataset', datasets=[parts[1]] * 2))


@dense
def test_chosen_classes_count_as_mmseg_maps_them(tmp_path):
    """Of ADE20K's classes wall (1 in the files) and sky (3): the others are ignored."""
    prefix = dict(img_path='img/train', seg_map_path='mask/train')
    cfg = dict(type='ADE20KDataset', data_root=str(tmp_path), data_prefix=prefix, metainfo=dict(classes=('sky', 'wall')))
    save(tmp_path, [split([1, 3])])
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert check_dataset(cfg).endswith('all items OK')
        save(tmp_path, [split([1, 5])])
        with pytest.raises(DatasetError, match='5 is ignored here, only class 1 is left'):
            check_dataset(cfg)


# Forms whose pixels are labels.
ACCEPTED = {
    'gray': lambda x: Image.fromarray(x.astype(np.uint8)),
    'palette': lambda x: paletted(x),
    'one bit': lambda x: Image.fromarray(x.astype(bool)),
    '16 bits': lambda x: Image.fromarray(x.astype(np.uint16)),
}


def paletted(labels):
    image = Image.fromarray(labels.astype(np.uint8)).convert('P')
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.putdata(labels.ravel().tolist())
    return image


@dense
@pytest.mark.parametrize('form', ACCEPTED)
def test_label_maps_of_one_channel_are_read_as_mmseg_does(tmp_path, form):
    from mmseg.datasets.transforms import LoadAnnotations

    labels = split([0, 1])
    save(tmp_path, [ACCEPTED[form](labels)])
    assert np.array_equal(np.asarray(open_label_map(tmp_path / 'mask/train/0.png')), labels)
    found = data(tmp_path).mask(0)
    assert set(found.unique().tolist()) == {0, 1}
    assert (found[:, :5] == 1).all()
    assert check(tmp_path).endswith('all items OK')
    item = dict(seg_map_path=str(tmp_path / 'mask/train/0.png'), reduce_zero_label=False, label_map=None, seg_fields=[])
    assert np.array_equal(LoadAnnotations().transform(item)['gt_seg_map'], labels)


def tagged(labels):
    image = Image.fromarray(labels.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info['exif'] = exif.tobytes()
    return image


def bands(labels, number):
    return Image.fromarray(np.stack([labels] * number, axis=-1).astype(np.uint8))


REFUSED = {
    'colors': (
        lambda x: bands(x, 3),
        r'has 3 channels .*; label maps have one',
    ),
    'alpha': (lambda x: bands(x, 4), r'has 4 channels \(RGBA\)'),
    'gray alpha': (lambda x: bands(x, 2), r'has 2 channels'),
    'turned': (tagged, r'has EXIF orientation 6, which some mask readers apply and others ignore'),
    'other size': (lambda x: Image.fromarray(x.astype(np.uint8)).resize((20, 15), 0), r'20x15'),
    'turned by hand': (lambda x: Image.fromarray(x.T.astype(np.uint8)), r'30x40'),
    'other labels': (lambda x: Image.fromarray((x * 7).astype(np.uint8)), r'labels \[7\]'),
    'beyond 8 bits': (lambda x: Image.fromarray((x * 256).astype(np.uint16)), r'labels \[256\]'),
}


@dense
@pytest.mark.parametrize('form', REFUSED)
def test_what_is_no_label_map_of_its_image_is_refused(tmp_path, form):
    make, message = REFUSED[form]
    save(tmp_path, [make(split([0, 1]))])
    with pytest.raises(LabelMapError, match=message) as error:
        data(tmp_path).mask(0)
    assert 'mask/train/0.png' in str(error.value)
    with pytest.raises(DatasetError, match=message) as error:
        check(tmp_path)
    assert 'mask/train/0.png' in str(error.value)


def test_pages_fractions_and_broken_files_are_refused(tmp_path):
    gray = Image.fromarray(split([0, 1]).astype(np.uint8))
    gray.save(tmp_path / 'pages.png', save_all=True, append_images=[ImageOps.invert(gray)])
    Image.fromarray(split([0, 1]).astype(np.float32)).save(tmp_path / 'fractions.tif')
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'pages.png').read_bytes()[:60])
    for name, message in (
        ('pages.png', r'pages\.png has 2 pages or frames'),
        ('fractions.tif', r'fractions\.tif contains floats'),
        ('broken.png', r'broken\.png of a\.jpg cannot be read'),
        ('none.png', r'none\.png of a\.jpg cannot be read'),
    ):
        with pytest.raises(LabelMapError, match=message):
            open_label_map(tmp_path / name, 'a.jpg')


def photograph():
    """Upright, (48, 32, 3): a bright top half; stored turned, with the tag that turns it back."""
    shown = np.full((48, 32, 3), 30, np.uint8)
    shown[:24] = 220
    exif = Image.Exif()
    exif[0x0112] = 6
    return shown, dict(image=np.rot90(shown, 1).copy(), exif=exif)


@dense
def test_masks_are_drawn_on_images_as_displayed(tmp_path):
    import mmcv

    shown, stored = photograph()
    mask = (shown[..., 0] > 100).astype(np.uint8)
    save(tmp_path, [mask], **stored)
    dataset = data(tmp_path, size=32)
    image, labels = dataset[0]['images'].float().mean(0), dataset.mask(0)
    assert image[labels == 1].mean() == pytest.approx(220, abs=5)
    assert image[labels == 0].mean() == pytest.approx(30, abs=5)
    assert check(tmp_path).endswith('all items OK')
    loaded = mmcv.imread(str(tmp_path / 'img/train/0.jpg')).mean(-1)
    assert loaded[mask == 1].mean() == pytest.approx(220, abs=5)


@dense
def test_masks_of_the_stored_pixels_are_refused(tmp_path):
    shown, stored = photograph()
    save(tmp_path, [np.rot90(shown[..., 0] > 100, 1).copy()], **stored)
    with pytest.raises(LabelMapError, match=r'0\.png has 48x32 pixels, but its image .*0\.jpg has 32x48 as displayed'):
        data(tmp_path).mask(0)
    with pytest.raises(DatasetError, match=r'stored as 48x32 and rotated by its EXIF orientation 6 when loaded'):
        check(tmp_path, pipeline=[dict(type='LoadImageFromFile')])
    as_stored = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation')]
    assert check(tmp_path, pipeline=as_stored).endswith('all items OK')


@dense
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', 'tiff'])
def test_the_check_knows_what_mmcv_turns(tmp_path, kind, backend):
    """The loader's word for every format: OpenCV turns no WebP."""
    import mmcv

    from mmadclr.datasets.loaders import Loading, image_sizes

    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new('RGB', (40, 30)).save(tmp_path / 'a', kind, exif=exif)
    for flag in ('color', 'color_ignore_orientation', 'unchanged'):
        found = image_sizes(tmp_path / 'a', Loading(image_flag=flag, image_backend=backend)).loaded
        assert found[::-1] == mmcv.imread(str(tmp_path / 'a'), flag=flag, backend=backend).shape[:2]


@dense
def test_palettes_read_as_colors_are_refused(tmp_path):
    save(tmp_path, [paletted(split([0, 1]))])
    with pytest.raises(DatasetError, match=r"imdecode_backend='cv2' does not return the labels in the file"):
        check(tmp_path, pipeline=[dict(type='LoadAnnotations', imdecode_backend='cv2')])


@dense
@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(model=dict(decode_head=dict(num_classes=5))), r'model\.decode_head\.num_classes=5, but the data set has 2'),
        (dict(model=dict(auxiliary_head=[dict(num_classes=2), dict(num_classes=3)])), r'auxiliary_head\[1\]\.num_classes=3'),
        (
            dict(model=dict(decode_head=dict(num_classes=2, ignore_index=0))),
            r'decode_head ignores label 0, but the data set ignores 255',
        ),
        (
            dict(ignore_index=7, model=dict(decode_head=dict(num_classes=2))),
            r'decode_head ignores label 255, but the data set ignores 7',
        ),
        (
            dict(evaluator=dict(type='IoUMetric', ignore_index=0)),
            r'the evaluator ignores label 0, but the data set ignores 255',
        ),
        (
            dict(pipeline=[dict(type='LoadAnnotations', reduce_zero_label=True)]),
            r'LoadAnnotations has reduce_zero_label=True',
        ),
        (dict(classes=None), r'BaseSegDataset has no classes: set metainfo'),
    ],
)
def test_settings_agree_on_what_labels_mean(tmp_path, settings, message):
    save(tmp_path, [split([0, 1])])
    sound = dict(model=dict(decode_head=dict(num_classes=2)), evaluator=dict(type='IoUMetric'))
    assert check(tmp_path, **sound).endswith('all items OK')
    with pytest.raises(DatasetError, match=message):
        check(tmp_path, **settings)


@dense
@pytest.mark.parametrize('bad', ['train', 'val'])
def test_runs_end_before_their_first_step(tmp_path, bad):
    from mmengine.config import Config
    from places import REPO

    from mmadclr.engine import Runner

    cfg = Config.fromfile(REPO / 'configs/benchmarks/small/upernet_aerial.py')
    for part in ('train', 'val'):
        save(tmp_path, [split([0, 255] if part == bad else [0, 1])] * 2, part)
        dataset = cfg[f'{part}_dataloader'].dataset
        dataset.update(data_root=str(tmp_path), metainfo=dict(classes=CLASSES))
        dataset.data_prefix = dict(img_path=f'img/{part}', seg_map_path=f'mask/{part}')
    cfg.model.decode_head.num_classes = 2
    cfg.work_dir, cfg.test_dataloader, cfg.test_cfg, cfg.test_evaluator = str(tmp_path / 'work'), None, None, None
    runner = Runner.from_cfg(cfg)
    with pytest.raises(DatasetError, match=rf'mask/{bad}: masks contain 0 .* 255 is ignored here'):
        runner.train()
    assert runner.iter == 0
    if bad == 'val':
        with pytest.raises(DatasetError, match=r'mask/val'):
            runner.val()


def test_labels_are_counted_in_every_depth():
    values = np.array([[0, 3, 3], [255, 3, 0]])
    expected = {0: 2, 3: 3, 255: 1}
    for kind in (np.uint8, np.uint16, np.int32, np.int64):
        assert count_labels(values.astype(kind)) == expected == Counter(values.ravel().tolist())
    assert count_labels(values > 2) == {0: 2, 1: 4}


def test_meanings_of_labels():
    assert meanings(2, 255, False) == {0: 0, 1: 1, 255: -1}
    assert meanings(2, 255, True) == {0: -1, 1: 0, 2: 1, 255: -1}
    assert meanings(3, 1, False) == {0: 0, 1: -1, 2: 2}
    assert too_few_classes({0: 5, 1: 1}, meanings(2, 255, False), 'masks') is None
