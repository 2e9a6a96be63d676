"""Checks of the run as a whole: top-level settings of its config, and the resulting batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmadclr.config.components import Place, Places
from mmadclr.config.findings import Finding
from mmadclr.datasets.conflicts import missing
from mmadclr.engine.runners.epoch_loop import length_conflicts
from mmadclr.models.compilation import compile_conflicts
from mmadclr.registry import ConfigOf
from mmadclr.urls import is_public_name

# Batches smaller than this fraction of the recipe's batch size cause a warning.
SMALL_BATCH = 0.25
# Types of those parts of a pretraining config that have no `type` key.
UNTYPED_PARTS = {
    'train_cfg': ConfigOf('EpochBasedTrainLoop'),
    'optim_wrapper': ConfigOf('SelfDistillationOptimWrapper'),
    'data_preprocessor': ConfigOf('ViewPreprocessor'),
}


def run_conflicts(place: Place) -> Iterator[Finding]:
    """Conflicts in compilation, run length and checkpoint paths; ``place`` is that of the runner."""
    yield from compile_conflicts(place.get('compile', 'auto'))
    loop = place.at('train_cfg')
    if not hasattr(loop.component, 'find_conflicts'):  # mmengine's loops
        yield from length_conflicts(loop)
    yield from missing('load_from', place.get('load_from'), Path.is_file, 'checkpoint')
    start = 'model.backbone.init_cfg.checkpoint'  # or a folder, as written by transformers and timm, or a public model
    if not is_public_name(str(place.get(start))):
        yield from missing(start, place.get(start), Path.exists, 'checkpoint')


def batch_findings(images: int, batch: int, processes: int, accumulated: int, cfg: Mapping) -> Iterator[Finding]:
    """Warnings about unusual batch sizes; requires the length of the loader.

    Args:
        images: Size of the training set.
        batch: Batch size per process.
        processes, accumulated: Number of processes, and of accumulated batches per optimizer step.
        cfg: Config of the run.
    """
    batches, total, places = images // (batch * processes), batch * processes * accumulated, Places(cfg)
    if accumulated > 1 and batches % accumulated:
        yield _odd(
            f'optim_wrapper.accumulative_counts={accumulated} does not divide the {batches} batches per epoch: an '
            'optimizer step that is incomplete at the end of an epoch continues in the next one'
        )
    base, prototypes = places.get('auto_scale_lr.base_batch_size'), places.get('model.head.out_dim')
    if base and total < SMALL_BATCH * base:
        yield _odd(
            f'{total} images per step are few for a recipe designed for {base} (auto_scale_lr.base_batch_size), and make '
            "the teacher's center noisy: accumulate batches (optim_wrapper.accumulative_counts)"
        )
    if prototypes and prototypes > images:
        yield _odd(
            f'model.head.out_dim={prototypes} prototypes are more than the {images} images: most are never used, and '
            'the loss may stay at ln K; lower it, as configs/adclr/vits16_small.py does'
        )


def _odd(text: str) -> Finding:
    return Finding(text, fatal=False)
