"""Colors, blur and normalization of the crops of an image: ``python benchmarks/photometric.py``.

'float' arithmetic against 'pillow' arithmetic of ``ViewPreprocessor``, and against the published form: every crop on its own
through Pillow and torchvision to a float tensor, with the same drawn parameters. Also: the difference of both from Pillow,
and exact counts on the ``meta`` device, which has no values, so an operation that would wait for a device ends the program.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from common import Row, compare, count, counted_row, parser, report
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from mmadclr.datasets.photometric_recipe import COLUMNS, JITTER, NO_OP, build_recipe
from mmadclr.models.preprocessors import ViewPreprocessor

# Name in the batch and in the result, side in pixels, recipe of each crop of an image.
KINDS = (
    ('global', 'global_views', 224, ('global_1', 'global_2')),
    ('local', 'local_views', 96, ('local',) * 10),
    ('query', 'query_crops', 16, ('query',) * 10),
)


def draw_batch(images: int, seed: int = 0) -> dict[str, Tensor]:
    """Crops like those of photographs (soft shapes with fine texture) and parameters of DINO's recipes."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    batch = {}
    for kind, _, size, recipes in KINDS:
        shape = (images * len(recipes), 3, size, size)
        gray, color = (torch.randn(shape[0], channels, 5, 5, generator=generator) for channels in (1, 3))
        soft = F.interpolate(128 + 48 * gray + 32 * color, (size, size), mode='bicubic')
        pixels = soft + 8 * torch.randn(shape, generator=generator)
        batch[f'{kind}_views'] = pixels.clamp(0, 255).byte().unflatten(0, (images, -1))
        drawn = [build_recipe(view, None).draw(rng) for _ in range(images) for view in recipes]
        batch[f'{kind}_photometric'] = torch.from_numpy(np.stack(drawn)).unflatten(0, (images, -1))
    batch['query_photometric'] = batch['query_photometric'].unsqueeze(1)  # one draw for both views
    return batch


def render_with_pillow(picture: Image.Image, row: Tensor) -> Image.Image:
    """One crop through Pillow and torchvision, in DINO's order, with drawn parameters (NUM_PARAMS,)."""
    values = dict(zip(COLUMNS, row.tolist(), strict=True))
    if values['flip']:
        picture = ImageOps.mirror(picture)
    for position in range(len(JITTER)):
        if values[f'order_{position}'] != NO_OP:
            name = JITTER[int(values[f'order_{position}'])]
            picture = getattr(TF, f'adjust_{name}')(picture, values[name])
    if values['gray']:
        picture = TF.to_grayscale(picture, 3)
    if values['blur_radius']:
        picture = picture.filter(ImageFilter.GaussianBlur(values['blur_radius']))
    return ImageOps.solarize(picture) if values['solarize'] else picture


def to_pictures(views: Tensor) -> list[Image.Image]:
    """uint8 crops (..., 3, H, W) -> Pillow images."""
    return [Image.fromarray(view.permute(1, 2, 0).numpy()) for view in views.flatten(0, -4)]


def published_form(
    pictures: dict[str, list[Image.Image]], batch: dict[str, Tensor], mean: list, std: list
) -> dict[str, Tensor]:
    """Views (N, 3, H, W) of each kind, crop by crop."""
    result = {}
    for kind, name, _, _ in KINDS:
        rows = batch[f'{kind}_photometric'].flatten(0, -2)
        rendered = [render_with_pillow(*pair) for pair in zip(pictures[kind], rows, strict=True)]
        result[name] = torch.stack([TF.normalize(TF.to_tensor(picture), mean, std) for picture in rendered])
    return result


def deviation(views: dict[str, Tensor], expected: dict[str, Tensor], std: Tensor) -> tuple[float, float, float]:
    """Mean, 99.9th percentile and maximum of the absolute difference, in gray levels."""
    parts = []
    for name, reference in expected.items():
        got = views[name][:, 0] if name == 'query_crops' else views[name]  # the queries of both views are the same
        parts.append(((got.flatten(0, 1).cpu() - reference) * std).abs().flatten())
    levels = torch.cat(parts).sort().values
    return levels.mean().item(), levels[int(0.999 * len(levels))].item(), levels[-1].item()


def timed(quantity: str, ours: Callable, reference: Callable, images: int, args, target: str = '') -> Row:
    mine, theirs, ratio, ratios = compare(ours, reference, args.rounds, args.device)
    scale = 1e3 / images
    return Row(quantity, 'ms an image', mine * scale, theirs * scale, ratio, (ratios[0], ratios[-1]), target)


def counted_rows(batch: dict[str, Tensor]) -> list[Row]:
    """What a batch costs on a device, counted where nothing is computed."""
    counts = []
    for arithmetic in ('float', 'pillow'):
        run = partial(ViewPreprocessor(arithmetic=arithmetic).to('meta'), batch, True)
        run()  # constants are made once
        counts.append(count(run))
    ours, reference = counts
    return [
        counted_row('operations of a batch: float, pillow', '', ours.operations, reference.operations),
        counted_row('waits for the device: float, pillow', '', len(ours.syncs), len(reference.syncs), target='0'),
        counted_row('copies to the device: 3 of crops, 1 of parameters', '', ours.copies, reference.copies, target='4'),
    ]


def main() -> None:
    args = parser(__doc__.splitlines()[0], images=8, rounds=7).parse_args()
    batch = draw_batch(args.images)
    exact, ours = (ViewPreprocessor(arithmetic=name).to(args.device) for name in ('pillow', 'float'))
    mean, std = ((buffer.flatten() / 255).tolist() for buffer in (exact.mean.cpu(), exact.std.cpu()))
    pictures = {kind: to_pictures(batch[f'{kind}_views']) for kind, *_ in KINDS}
    published = partial(published_form, pictures, batch, mean, std)
    expected, scale = published(), exact.std.cpu()
    differences = [deviation(each(batch, True)['views'], expected, scale) for each in (ours, exact)]
    rows = [
        timed(
            'float arithmetic, Pillow crop by crop',
            partial(ours, batch, True),
            published,
            args.images,
            args,
            '4 ms on a CPU',
        ),
        timed('float, pillow arithmetic', partial(ours, batch, True), partial(exact, batch, True), args.images, args),
        *counted_rows(batch),
    ]
    names = ('mean', '99.9th percentile', 'maximum')
    for name, mine, theirs in zip(names, *differences, strict=True):
        rows.append(Row(f'difference from Pillow, {name}: float, pillow', 'gray levels', mine, theirs))
    report('photometric', rows, args)


if __name__ == '__main__':
    main()
