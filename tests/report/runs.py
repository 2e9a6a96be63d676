"""Work dirs for tests of reports: a short run of each kind, made once, and small ones that are written by hand."""

from __future__ import annotations

import json
from pathlib import Path

STAMP = '20260101_120000'
SUMMARY = """\
method   ADCLR
backbone QueryViT (embed_dim=24), 0.02 M parameters
data     640 images in shapes/train (ShapesDataset)
batch    64 images = 64 x 1 process x 1 accumulated
length   2 epochs x 10 iterations = 20 iterations
device   1 x cpu, fp32
rate     0.003, independent of the batch size
work dir work
log      work/log
start    {start}"""


def write_session(work: Path, name: str = STAMP, records=(), log=(), start: str | None = 'random weights') -> Path:
    """A folder of a session with scalars, and a log of (seconds after noon, level, text)."""
    folder = work / name
    (folder / 'vis_data').mkdir(parents=True)
    text = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'vis_data' / 'scalars.json').write_text(text)
    first = [] if start is None else [(0, 'INFO', SUMMARY.format(start=start))]
    lines = [f'2026/01/01 12:{s // 60:02d}:{s % 60:02d} - mmengine - {level} - {t}' for s, level, t in [*first, *log]]
    (folder / f'{name}.log').write_text('\n'.join([*lines, '']))
    return folder


def train_record(iteration: int, loss: float = 1.0, **more: float) -> dict:
    return {'loss': loss, 'lr': 0.1, 'time': 2.0, 'data_time': 0.5, 'epoch': 1, 'iter': iteration, 'step': iteration, **more}


def monitor_record(iteration: int, term: str = 'cls', **changed: float) -> dict:
    """Statistics of a healthy term, but for those that are changed."""
    healthy = dict(entropy=0.2, kl=0.5, prototypes=20.0, top_share=0.2, spread=0.8, rank=15.0, cosine=0.9)
    values = {f'monitor/{term}_{name}': value for name, value in (healthy | changed).items()}
    return {**values, 'step': iteration}
