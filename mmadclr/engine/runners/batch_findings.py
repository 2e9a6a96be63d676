"""What is odd about a run as a whole: settings at the top of its config, and its real numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmadclr.config.components import Place, Places
from mmadclr.config.findings import Finding
from mmadclr.datasets.conflicts import missing
from mmadclr.engine.runners.epoch_loop import length_conflicts
from mmadclr.models.compilation import compile_conflicts
from mmadclr.registry import ConfigOf

# A batch smaller than this share of the one that a recipe was made for gets a warning.
SMALL_BATCH = 0.25
# What parts of a pretraining config are that name no type.
UNTYPED_PARTS = {
    'train_cfg': ConfigOf('EpochBasedTrainLoop'),
    'optim_wrapper': ConfigOf('SelfDistillationOptimWrapper'),
    'data_preprocessor': ConfigOf('ViewPreprocessor'),
}


def run_conflicts(place: Place) -> Iterator[Finding]:
    """How to compile, the length of the run, and checkpoints that do not exist; ``place`` is that of the runner."""
    yield from compile_conflicts(place.get('compile', 'auto'))
    loop = place.at('train_cfg')
    if not hasattr(loop.component, 'find_conflicts'):  # mmengine's loops
        yield from length_conflicts(loop)
    yield from missing('load_from', place.get('load_from'), Path.is_file, 'checkpoint')
    start = 'model.backbone.init_cfg.checkpoint'  # or a folder, as transformers and timm write them
    yield from missing(start, place.get(start), Path.exists, 'checkpoint')


def batch_findings(images: int, batch: int, processes: int, accumulated: int, cfg: Mapping) -> Iterator[Finding]:
    """Odd numbers; to be called when the loader is there.

    Args:
        images: Of the training set.
        batch: Images of one batch of one process.
        processes, accumulated: How many batches make an optimizer step.
        cfg: Config of the run.
    """
    batches, total, places = images // (batch * processes), batch * processes * accumulated, Places(cfg)
    if accumulated > 1 and batches % accumulated:
        yield _odd(
            f'optim_wrapper.accumulative_counts={accumulated} does not divide the {batches} batches of an epoch: a step '
            'that is not complete at the end of an epoch goes on in the next one'
        )
    base, prototypes = places.get('auto_scale_lr.base_batch_size'), places.get('model.head.out_dim')
    if base and total < SMALL_BATCH * base:
        yield _odd(
            f'{total} images a step are few for a recipe made for {base} (auto_scale_lr.base_batch_size), and the center of '
            'the teacher gets noisy: accumulate batches (optim_wrapper.accumulative_counts)'
        )
    if prototypes and prototypes > images:
        yield _odd(
            f'model.head.out_dim={prototypes} prototypes are more than the {images} images: most would never be used, and '
            'the loss may stay at ln K; lower it, as configs/adclr/vits16_small.py does'
        )


def _odd(text: str) -> Finding:
    return Finding(text, fatal=False)
