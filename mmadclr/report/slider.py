"""Features over a run, as a section of the page with a slider over its moments."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from mmadclr.report.features import History
from mmadclr.report.markup import Html, joined, section, tag

MOMENTS = 40  # on the slider; of more, so many are shown, evenly spread, with the first and the last
NOTE = (
    'The teacher on the same images at several moments of the run. Colors: the first three principal components of the '
    'patches of all images, turned from one moment to the next so that similar patches keep their color; gray if the '
    'patches do not vary. Attention: of [CLS] in the last block, mean over heads, from its smallest to its largest value.'
)


def features(history: History | None) -> Html:
    """The section; empty without a history."""
    if history is None:
        return Html('')
    shown = history._replace(snapshots=spread(history.snapshots))
    frames = frames_of(shown)
    labels = [label(each.iteration, each.epoch) for each in shown.snapshots]
    rows = (figure(*row) for row in zip(shown.snapshots[-1].names, shown.images, frames[-1], strict=True))
    box = tag(
        'div',
        control(labels),
        tag('div', *rows, class_='frames'),
        class_='features',
        data_frames=json.dumps(dict(labels=labels, frames=frames), separators=(',', ':')),
    )
    return section('Features over the run', tag('p', NOTE, class_='note'), box)


def spread(found: Sequence) -> list:
    """At most ``MOMENTS`` of them."""
    if len(found) <= MOMENTS:
        return list(found)
    return [found[round(i * (len(found) - 1) / (MOMENTS - 1))] for i in range(MOMENTS)]


def label(iteration: int, epoch: float | None) -> str:
    """``epoch 2.5, iteration 1,234``; ``the start`` before the first."""
    if iteration == 0:
        return 'the start'
    return f'iteration {iteration:,}' if epoch is None else f'epoch {epoch:g}, iteration {iteration:,}'


def control(labels: Sequence[str]) -> Html:
    """The slider, at the newest moment, and its label; the label alone if there is one moment."""
    text = tag('output', labels[-1])
    if len(labels) == 1:
        return tag('p', text, class_='moment')
    last = str(len(labels) - 1)
    slider = f'<input type="range" min="0" max="{last}" value="{last}" step="1" aria-label="moment of the run">'
    return tag('p', Html(slider), text, class_='moment')


def frames_of(history: History) -> list[list[list[str]]]:
    """For every moment and image, data URLs of the components and, with class token, of attention: a pixel a patch."""
    from mmadclr.show.snapshots import colors_over_time

    colors = colors_over_time(history.snapshots)
    return [
        [[png(part) for part in parts] for parts in zip(painted, *heated(each.attention), strict=True)]
        for painted, each in zip(colors, history.snapshots, strict=True)
    ]


def heated(maps: Sequence[Tensor]) -> list[list[Tensor]]:
    """Maps (h, w) as colors (h, w, 3), in a list of one or of nothing, as there are any."""
    return [[heat(values) for values in maps]] if maps else []


def heat(values: Tensor) -> Tensor:
    """(h, w) -> (h, w, 3) in [0, 1], from the smallest to the largest value."""
    import torch
    from matplotlib import colormaps

    from mmadclr.show.drawing import HEAT

    unit = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    return torch.from_numpy(colormaps[HEAT](unit.numpy())[..., :3])


def png(colors: Tensor) -> str:
    """(h, w, 3) in [0, 1] as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray((colors * 255 + 0.5).numpy().astype(np.uint8)).save(buffer, 'PNG', optimize=True)
    return f'data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def figure(name: str, image: bytes, frame: Sequence[str]) -> Html:
    """An image beside its pictures at the newest moment, which the script of the page replaces."""
    with Image.open(io.BytesIO(image)) as opened:
        ratio = f'aspect-ratio:{opened.width}/{opened.height}'
    source = f'data:image/jpeg;base64,{base64.b64encode(image).decode()}'
    kinds = zip(('components', 'attention'), frame, strict=False)
    pictures = [picture(source, 'image', ratio), *(picture(url, kind, ratio) for kind, url in kinds)]
    return tag('figure', tag('div', *pictures, class_='strip'), tag('figcaption', name))


def picture(url: str, kind: str, ratio: str) -> Html:
    return joined([tag('div', Html(f'<img class="{kind}" alt="{kind}" src="{url}" style="{ratio}">'), tag('span', kind))])
