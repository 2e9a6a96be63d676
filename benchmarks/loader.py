"""The loader against the published form of it: ``python benchmarks/loader.py``.

The reference is the official structure, written here for the purpose: Pillow decodes, torchvision transforms of Pillow
images (random resized crop, flip, color jitter, gray, blur, solarize), one normalized float32 tensor a crop, 22 tensors an
image. Ours on the same files: the crops path (uint8 crops in three arrays, colors left to the device), the same with the
``pillow`` backend, and everything on the CPU. Before anything is timed, the same boxes and parameters are rendered both ways
and compared.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Row, compare, counted_row, parser, report
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from mmadclr.datasets import ImageDataset, collate_samples
from mmadclr.datasets.photometric_recipe import COLUMNS, JITTER, NO_OP
from mmadclr.datasets.readers import read_folder
from mmadclr.datasets.transforms import KINDS, crop_and_resize
from mmadclr.models.preprocessors import ViewPreprocessor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOCALS = QUERIES = 10


class Blur:
    """Gaussian blur by Pillow with a random radius, as in DINO's ``utils.GaussianBlur``."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, picture: Image.Image) -> Image.Image:
        if random.random() >= self.probability:
            return picture
        return picture.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


class ReferenceAugmentation:
    """Two global views, local views and query crops of a Pillow image, each a normalized float tensor."""

    def __init__(self) -> None:
        large, small = (0.25, 1.0), (0.05, 0.25)
        self.pipelines = [
            (1, self.pipeline(224, large, blur=1.0)),
            (1, self.pipeline(224, large, blur=0.1, solarize=0.2)),
            (LOCALS, self.pipeline(96, small, blur=0.5)),
            (QUERIES, self.pipeline(16, small, blur=0.5, flip=0.0)),
        ]

    @staticmethod
    def pipeline(size: int, scale: tuple, blur: float, solarize: float = 0.0, flip: float = 0.5) -> Callable:
        steps = [
            T.RandomResizedCrop(size, scale=scale, interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(flip),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
            Blur(blur),
            T.RandomSolarize(128, solarize),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
        return T.Compose([step for step in steps if getattr(step, 'p', 1.0) > 0])

    def __call__(self, picture: Image.Image) -> list[Tensor]:
        return [pipeline(picture) for count, pipeline in self.pipelines for _ in range(count)]


class ReferenceDataset(Dataset):
    """Files decoded by Pillow, a list of crops each."""

    def __init__(self, root: Path) -> None:
        self.paths = [root / os.fsdecode(path) for path in read_folder(root).paths]
        self.augment = ReferenceAugmentation()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[Tensor]:
        with Image.open(self.paths[index]) as image:
            return self.augment(image.convert('RGB'))


def natural_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise with the spectrum of photographs (amplitude ~ frequency ^ -1.3), its channels nearly alike."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(width, height)
    amplitude = frequency**-1.3
    gray, *tints = (
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * amplitude, s=(height, width)) for _ in range(4)
    )
    channels = np.stack([gray / gray.std() + 0.15 * tint / tint.std() for tint in tints], axis=-1)
    return Image.fromarray((128 + 52 * channels).clip(0, 255).astype(np.uint8))


def write_images(folder: Path, count: int) -> Path:
    """``count`` JPEG files of 500 x 375 pixels, quality 90: 92 kB on average, as photographs of that size."""
    rng = np.random.default_rng(0)
    for number in range(count):
        natural_image(rng, 500, 375).save(folder / f'{number:03d}.jpg', quality=90)
    return folder


def our_dataset(root: Path, backend: str) -> ImageDataset:
    transform = dict(type='mmadclr.MultiCrop', num_local=LOCALS, num_query=QUERIES, backend=backend)
    return ImageDataset(str(root), transform)


def render(picture: Image.Image, box: list[int], size: int, row: Tensor) -> Tensor:
    """One crop through Pillow and torchvision with given box and parameters; normalized."""
    picture = Image.fromarray(crop_and_resize(picture, box, size).transpose(1, 2, 0))
    values = dict(zip(COLUMNS, row.tolist(), strict=True))
    picture = ImageOps.mirror(picture) if values['flip'] else picture
    for name in (JITTER[int(values[f'order_{i}'])] for i in range(4) if values[f'order_{i}'] != NO_OP):
        picture = getattr(TF, f'adjust_{name}')(picture, values[name])
    picture = TF.to_grayscale(picture, 3) if values['gray'] else picture
    picture = picture.filter(ImageFilter.GaussianBlur(values['blur_radius'])) if values['blur_radius'] else picture
    picture = ImageOps.solarize(picture) if values['solarize'] else picture
    return TF.normalize(TF.to_tensor(picture), MEAN, STD)


def rendered(dataset: ImageDataset, batch: dict) -> list[Tensor]:
    """All crops of a batch by ``render``, kind by kind: (B, number, 3, size, size)."""
    pictures = [Image.open(dataset.path(index)).convert('RGB') for index in batch['index'].tolist()]
    result = []
    for kind in KINDS:
        rows = batch[f'{kind}_photometric'].reshape(len(pictures), -1, len(COLUMNS))
        size = batch[f'{kind}_views'].shape[-1]
        crops = [
            torch.stack([render(picture, box, size, row) for box, row in zip(boxes, some, strict=True)])
            for picture, boxes, some in zip(pictures, batch[f'{kind}_boxes'].tolist(), rows, strict=True)
        ]
        result.append(torch.stack(crops))
    return result


def load(dataset: ImageDataset, epoch: int = 0) -> dict:
    return collate_samples(dataset.__getitems__([(0, epoch, index) for index in range(len(dataset))]))


def views(batch: dict, arithmetic: str) -> list[Tensor]:
    """Final views of a batch, kind by kind: (B, number, 3, size, size)."""
    result = ViewPreprocessor(arithmetic=arithmetic)(batch)['views']
    return [result['global_views'], result['local_views'], result['query_crops'][:, 0]]


def deviation(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    return torch.cat([(a.float() - b.float()).abs().flatten() for a, b in zip(ours, theirs, strict=True)])


def parity_rows(root: Path) -> list[Row]:
    """Crops and final views against Pillow's rendering of the same boxes and parameters.

    Raises:
        RuntimeError: They differ by more than the documented deviations.
    """
    pillow = our_dataset(root, 'pillow')
    batch, exact = load(our_dataset(root, 'fast')), load(pillow)
    crops = deviation(*([some[f'{kind}_views'] for kind in KINDS] for some in (batch, exact)))
    reference = rendered(pillow, exact)
    form = deviation(views(exact, 'pillow'), reference).max().item()
    ours = deviation(views(batch, 'float'), reference) * 58  # from standard deviations to levels, about
    mean, far = crops.mean().item(), (crops > 2).float().mean().item()
    if mean > 0.1 or far > 1e-3 or form > 1e-5 or ours.mean() > 2:
        raise RuntimeError(
            f'not the same numbers: crops {mean} levels off, {far:.2%} by 3 or more; views {form}, {ours.mean()}'
        )
    return [
        Row('crops, deviation from Pillow: mean', 'levels', mean, note='of 255'),
        Row(
            'crops, deviation from Pillow: worst',
            'levels',
            crops.max().item(),
            note=f'{far:.1e} of values are 3 or more off',
        ),
        Row('final views, deviation from Pillow: mean', 'levels', ours.mean().item(), note=f'worst {ours.max().item():.1f}'),
        Row('the same, pillow backend and arithmetic: worst', 'levels', form * 58, note='same boxes and parameters'),
    ]


def speed_rows(root: Path, rounds: int) -> list[Row]:
    """Images a second of one core."""
    reference, fast, pillow = ReferenceDataset(root), our_dataset(root, 'fast'), our_dataset(root, 'pillow')
    preprocessor = ViewPreprocessor(arithmetic='float')
    forms = {
        'crops path': (lambda: load(fast), '>= 8'),
        'everything on the CPU': (lambda: preprocessor(load(fast)), '>= 5'),
        'crops path, pillow backend': (lambda: load(pillow), ''),
    }
    rows = []
    for name, (form, target) in forms.items():
        mine, theirs, ratio, ratios = compare(form, lambda: default_collate([*reference]), rounds)
        count = len(reference)
        rows.append(Row(name, 'images/s/core', count / mine, count / theirs, ratio, (ratios[0], ratios[-1]), target))
    return rows


def batch_rows(root: Path) -> list[Row]:
    """What goes from the workers to the device."""
    mine = [load(our_dataset(root, 'fast'))[f'{kind}_views'] for kind in KINDS]
    reference = ReferenceDataset(root)
    theirs = default_collate([*reference])
    count = len(reference)
    stacked = 'tensors written, then stacked; ours are written in place'
    return [
        counted_row('crops', 'bytes/image', sum(x.nbytes for x in mine) / count, sum(x.nbytes for x in theirs) / count),
        counted_row('tensors to the device', 'per batch', len(mine), len(theirs)),
        Row('crops copied to form the batch', 'per batch', 0, len(theirs) * count, note=stacked),
    ]


def workers_row(root: Path, repeats: int) -> Row:
    """Wall-clock throughput of a loader with two workers, start of the workers left out."""

    def throughput(dataset: Dataset, collate: Callable) -> float:
        indices = list(range(len(dataset))) * repeats
        loader = DataLoader(dataset, 8, sampler=indices, num_workers=2, collate_fn=collate)
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        count = 8 * sum(1 for _ in batches)
        return count / (time.perf_counter() - start)

    mine = throughput(our_dataset(root, 'fast'), collate_samples)
    theirs = throughput(ReferenceDataset(root), default_collate)
    return Row('loader of two workers', 'images/s', mine, theirs, mine / theirs, note='wall clock')


def main() -> None:
    args = parser(__doc__.splitlines()[0], images='', count=16, rounds=5).parse_args()
    args.device = 'cpu'  # whatever else the machine has
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(args.images) if args.images else write_images(Path(folder), args.count)
        rows = [*parity_rows(root), *speed_rows(root, args.rounds), *batch_rows(root), workers_row(root, repeats=6)]
        args.images = args.images or 'generated, 500x375, quality 90'
        report('loader', rows, args)


if __name__ == '__main__':
    main()
