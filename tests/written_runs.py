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


DETECTION = """\
default_scope = 'mmdet'
model = dict(type='MaskRCNN')
train_cfg = dict(max_iters=20, type='IterBasedTrainLoop', val_interval=10)
"""


def write_detection(work: Path) -> Path:
    """A session as mmdet's runs write it: losses of several heads, and COCO's metrics, -1 where there are no objects."""
    records = []
    for step in (5, 10, 15, 20):
        losses = {'loss': 5 - step / 10, 'loss_rpn_cls': 0.7, 'loss_bbox': 0.1, 'loss_mask': 1.2, 'acc': 80.0}
        records.append({'lr': 1e-4, 'data_time': 0.02, **losses, 'time': 0.5, 'iter': step, 'step': step})
        if step % 10 == 0:
            found = {'coco/bbox_mAP': step / 100, 'coco/bbox_mAP_l': -1.0, 'coco/segm_mAP': step / 200}
            records.append({**found, 'data_time': 0.03, 'time': 0.8, 'step': step})
    log = [(step, 'INFO', f'Iter(train) [{step:>2}/20]  lr: 1.0e-04  loss: {5 - step / 10:.4f}') for step in (5, 10, 15, 20)]
    folder = write_session(work, records=records, log=log, start=None)
    (folder / 'vis_data' / 'config.py').write_text(DETECTION)
    return folder
