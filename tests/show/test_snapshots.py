"""Features of a few images at moments of a run: what is stored, and colors that stay from one moment to the next."""

import numpy as np
import pytest
import torch
from backbones_shown import backbone, picture
from PIL import Image

from mmadclr.checkpoint.architecture import IMAGENET_MEAN, IMAGENET_STD
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.sources import Source
from mmadclr.show.components import principal_components
from mmadclr.show.snapshots import (
    Example,
    Snapshot,
    aligned,
    colors_over_time,
    examples,
    read_snapshot,
    rotation,
    side_of,
    snapshot,
    unit_scores,
    write_snapshot,
)
from mmadclr.show.study import Subject

GRIDS = ((4, 6), (5, 3))


def subject(**settings):
    return Subject('teacher', backbone(**settings), IMAGENET_MEAN, IMAGENET_STD)


def shown(*sizes):
    return [Example(f'{i}.png', picture(*size, seed=i)) for i, size in enumerate(sizes or ((48, 32), (32, 48)))]


def grids(seed=0, width=16):
    """Random patches (h, w, D) with clearly different variances."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.5, width)
    return [torch.randn(*size, width, generator=generator) * scale for size in GRIDS]


def moment(parts, iteration=0):
    return Snapshot(iteration, None, ('a', 'b'), unit_scores(parts), [])


def orthogonal(width, seed):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed))).Q


def dataset(folder):
    return ImageDataset(str(folder), dict(type='ResizeCenterCrop', resize=32, size=32))


# --- colors ----------------------------------------------------------------------------------------------------------------


def test_the_last_moment_has_its_principal_components_as_colors():
    parts = grids()
    rows = torch.cat([part.flatten(0, 1) for part in parts]).double().numpy()
    left, _, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    signs = [np.sign(axis[np.abs(axis).argmax()]) for axis in right[:3]]
    scores = left[:, :3] * signs
    ordered = np.sort(scores, axis=0)
    low, high = (ordered[round(share * (len(rows) - 1))] for share in (0.01, 0.99))
    expected = ((scores - low) / (high - low)).clip(0, 1)
    (found,) = colors_over_time([moment(parts)])
    np.testing.assert_allclose(torch.cat([part.flatten(0, 1) for part in found]), expected, atol=1e-5)


def test_colors_do_not_depend_on_the_basis_of_the_features():
    """A network may turn its features from one moment to the next; what is alike stays alike, and so do the colors."""
    parts = grids()
    moments = [moment([part @ orthogonal(16, seed) for part in parts], seed) for seed in range(4)]
    found = colors_over_time(moments)
    for colors in found[:-1]:
        torch.testing.assert_close(colors, found[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize('change', [[[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]])
def test_exchanged_and_reversed_components_do_not_make_colors_jump(change):
    last = moment(grids())
    before = last._replace(scores=[part @ torch.tensor(change).float() for part in last.scores])
    colors = colors_over_time([before, last])
    torch.testing.assert_close(colors[0], colors[1], atol=1e-5, rtol=0)


def test_components_of_equal_variance_do_not_make_colors_jump():
    """Half a degree of freedom that order and sign do not fix: 45 degrees between two components."""
    last = moment(grids())
    half = 0.5**0.5
    turn = torch.tensor([[half, half, 0], [-half, half, 0], [0, 0, 1]])
    before = last._replace(scores=[part @ turn for part in last.scores])
    colors = colors_over_time([before, last])
    torch.testing.assert_close(colors[0], colors[1], atol=1e-5, rtol=0)


def test_rotations_are_those_of_scipy():
    linalg = pytest.importorskip('scipy.linalg')
    source, target = (torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    expected, _ = linalg.orthogonal_procrustes(source.numpy(), target.numpy())
    np.testing.assert_allclose(rotation(source, target), expected, atol=1e-12)


def test_patches_that_do_not_vary_are_gray_and_leave_the_others_as_they_are():
    parts = grids()
    flat = moment([torch.ones_like(part) for part in parts])
    turned = moment([part @ orthogonal(16, 1) for part in parts])
    first, gray, last = colors_over_time([turned, flat, moment(parts)])
    assert all((part == 0.5).all() for part in gray)
    torch.testing.assert_close(first, last, atol=1e-4, rtol=0)
    assert all((part == 0).all() for part in flat.scores)
    only, _ = aligned([torch.eye(3), torch.zeros(3, 3)])
    torch.testing.assert_close(only, torch.eye(3))


# --- features --------------------------------------------------------------------------------------------------------------


def test_scores_and_attention_are_those_of_the_backbone():
    viewed, pictures = subject(), shown()
    found = snapshot(viewed, pictures, 7, 1.5)
    assert (found.iteration, found.epoch, found.names) == (7, 1.5, ('0.png', '1.png'))
    assert found.shown == (('0.png', '1.png'), ((5, 8, 3), (8, 5, 3)))
    tensors = [viewed.pixels(image.resize((64, 40) if image.width > image.height else (40, 64), 3)) for _, image in pictures]
    patches = [viewed.model(pixels).patches[0] for pixels in tensors]
    rows = torch.cat(patches)
    components = principal_components(rows, 3)
    for pixels, patch, scores, attention in zip(tensors, patches, found.scores, found.attention, strict=True):
        expected = components.scores(patch) / components.variances.sqrt()
        torch.testing.assert_close(scores.flatten(0, 1), expected.float(), atol=1e-4, rtol=1e-4)
        whole = viewed.model.last_attention(pixels)[0, :, 0, 1:].mean(dim=0)
        torch.testing.assert_close(attention.flatten(), whole, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(torch.cat([s.flatten(0, 1) for s in found.scores]).std(dim=0, correction=0), torch.ones(3))


def test_backbones_without_class_token_have_no_attention():
    found = snapshot(subject(class_token=False), shown(), 0)
    assert (found.attention, found.epoch, len(found.scores)) == ([], None, 2)


def test_features_that_are_not_finite_are_refused():
    viewed = subject()
    viewed.model.norm.weight[0] = float('nan')
    with pytest.raises(ValueError, match='features of teacher are not finite after 3 iterations'):
        snapshot(viewed, shown(), 3)


@pytest.mark.parametrize(
    ('patch', 'size', 'side'), [(8, 32, 64), (16, 224, 448), (14, 518, 392), (8, 224, 224), (16, 16, 32)]
)
def test_images_have_twice_the_size_of_training_but_no_more_than_28_patches(patch, size, side):
    assert side_of(subject(patch_size=patch, img_size=size)) == side


# --- files -----------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    found = snapshot(subject(), shown(), 12, 0.5)
    path = write_snapshot(found, tmp_path / 'features')
    again = read_snapshot(path)
    assert (path.name, again[:3]) == ('iter_12.npz', found[:3])
    torch.testing.assert_close(again.scores, found.scores, atol=2e-3, rtol=2e-3)
    for one, other in zip(again.attention, found.attention, strict=True):
        torch.testing.assert_close(one, other / other.max(), atol=1e-3, rtol=1e-3)
    assert path.stat().st_size < 4000


@pytest.mark.parametrize('damage', ['cut', 'text', 'shape', 'key', 'nan', 'epoch'])
def test_damaged_files_are_named(tmp_path, damage):
    path = write_snapshot(snapshot(subject(), shown(), 12), tmp_path)
    with np.load(path) as file:
        content = dict(file)
    if damage == 'cut':
        path.write_bytes(path.read_bytes()[:200])
    elif damage == 'text':
        path.write_text('nothing')
    else:
        content.pop('scores_1' if damage == 'key' else '', None)
        content |= dict(scores_0=np.zeros(3)) if damage == 'shape' else {}
        content |= dict(attention_1=np.full((8, 5), np.nan)) if damage == 'nan' else {}
        content |= dict(about=np.array('{"iteration": 1, "epoch": "x", "names": ["a", "b"]}')) if damage == 'epoch' else {}
        np.savez(path, **content)
    with pytest.raises(ValueError, match=r'iter_12\.npz is not readable as features .*; remove it'):
        read_snapshot(path)


# --- images ----------------------------------------------------------------------------------------------------------------


def test_images_are_spread_over_the_data_and_always_the_same(image_folder):
    found = examples(dataset(image_folder(12, classes=2)))
    assert [name for name, _ in found] == ['class0/002.png', 'class0/008.png', 'class1/003.png', 'class1/009.png']
    assert [image.size for _, image in found] == [(48, 40)] * 4
    assert [name for name, _ in examples(dataset(image_folder(2, classes=1, name='few')))] == [
        'class0/000.png',
        'class0/001.png',
    ]


def test_unreadable_images_are_replaced_by_the_next(image_folder):
    folder = image_folder(12, classes=1)
    for number in (1, 2):
        (folder / f'class0/{number:03d}.png').write_bytes(b'no image')
    found = examples(dataset(folder))
    assert [name for name, _ in found] == [f'class0/{number:03d}.png' for number in (3, 4, 7, 10)]
    for path in folder.rglob('*.png'):
        path.write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'10 consecutive images of .* cannot be read; the first: .*001\.png'):
        examples(dataset(folder))


def test_pixels_are_read_as_the_data_set_reads_them(tmp_path):
    deep = np.linspace(0, 4000, 64 * 64).reshape(64, 64).astype(np.uint16)
    for number in range(2):
        Image.fromarray(deep).save(tmp_path / f'{number}.png')
    settings = dict(type='ResizeCenterCrop', resize=64, size=64)
    found = examples(ImageDataset(str(tmp_path), settings, value_range=(0, 4000)), 1)
    values = np.asarray(found[0].image)
    assert (values.min(), values.max()) == (0, 255)


def test_what_a_source_opens_on_reading_stays_out_of_the_data_set():
    """Workers are forked afterwards, and must not share a connection."""

    class Lazy(Source):
        handle = None

        def __len__(self):
            return 3

        def name(self, index):
            return f'{index}'

        def read(self, index):
            self.handle = self.handle or object()
            return np.full((8, 8, 3), index, dtype=np.uint8)

    source = Lazy()
    found = examples(ImageDataset(source=source, transform=dict(type='ResizeCenterCrop', resize=32, size=32)), 3)
    assert [int(np.asarray(image).max()) for _, image in found] == [0, 1, 2]
    assert source.handle is None
