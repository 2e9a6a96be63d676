"""Optimizer steps skipped because of non-finite values: how they are reported and replayed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from torch import Tensor, nn

from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.distributed.shards import local_tensors

SHOWN = 4  # images per process in one line of the log


@dataclass
class Step:
    """One optimizer step of this process: its start, and the results of each of its batches.

    Attributes:
        iteration, epoch: Of its first batch, both from 0.
        random: States of all random generators before it.
        losses: Of each batch, on the device.
        images: Indices of the images of each batch.
        skipped: () 0 or 1, on the device; None if the optimizer wrapper does not skip steps.
        problem: What was not finite, once known.
    """

    iteration: int
    epoch: int
    random: dict[str, Any]
    losses: list[dict[str, Tensor]] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    skipped: Tensor | None = None
    problem: str = ''


def fetch(steps: Sequence[Step]) -> tuple[list[list[dict[str, float]]], list[list[dict[str, float]]], list[bool]]:
    """Losses of this process and their means over all, by step and batch, and which steps were skipped.

    One all-reduce and one device synchronization; collective call.
    """
    batches = [losses for step in steps for losses in step.losses]
    names = list(batches[0])
    values = [losses[name].float() for losses in batches for name in names]
    flags = [step.losses[0][names[0]].new_zeros(()) if step.skipped is None else step.skipped for step in steps]
    here = torch.stack([*values, *(flag.float() for flag in flags)])
    everywhere = here.clone()
    dist.all_reduce(everywhere, 'mean')
    local, mean = here.tolist(), everywhere.tolist()
    skipped = [flag > 0 for flag in local[len(values) :]]
    return _by_step(steps, names, local), _by_step(steps, names, mean), skipped


def _by_step(steps: Sequence[Step], names: list[str], values: list[float]) -> list[list[dict[str, float]]]:
    rest = iter(values)
    return [[{name: next(rest) for name in names} for _ in step.losses] for step in steps]


def image_names(dataset, images: Sequence[int]) -> list[str]:
    """Paths of images, or the names in their source; indices if it has no names."""
    source = getattr(dataset, 'source', None)
    return [str(number) if source is None else source.name(number) for number in images]


def describe_batches(step: Step, losses: Sequence[dict[str, float]], dataset) -> list[dict[str, Any]]:
    """The batches of a step on this process in plain types: rank, iteration, losses and image names."""
    return [
        {
            'rank': dist.get_rank(),
            'iteration': step.iteration + number,
            'losses': values,
            'images': image_names(dataset, images),
        }
        for number, (values, images) in enumerate(zip(losses, step.images, strict=True))
    ]


def explain(step: Step, batches: Sequence[dict[str, Any]]) -> str:
    """One line about a step from its batches on all processes: those with non-finite losses, otherwise all.

    ``loss, loss_cls not finite at iteration 7 (epoch 1, rank 0), images [a.png, b.png]``
    """
    lines = []
    for batch in batches:
        broken = [name for name, value in batch['losses'].items() if not math.isfinite(value)]
        if broken:
            lines.append(f'{", ".join(broken)} not finite {_where(step, batch)}')
    return '; '.join(lines) or 'gradients not finite ' + '; '.join(_where(step, batch) for batch in batches)


def _where(step: Step, batch: dict[str, Any]) -> str:
    names = batch['images'][:SHOWN]
    more = len(batch['images']) - len(names)
    return (
        f'at iteration {batch["iteration"]} (epoch {step.epoch + 1}, rank {batch["rank"]}), '
        f'images [{", ".join(names)}{f" and {more} more" if more else ""}]'
    )


def add_to_record(path: Path, step: Step, batches: Sequence[dict[str, Any]]) -> None:
    """Appends a skipped step to a JSON-lines file in one write."""
    line = json.dumps({'iteration': step.iteration, 'epoch': step.epoch + 1, 'batches': list(batches)})
    with path.open('ab', buffering=0) as file:
        file.write(f'{line}\n'.encode())  # ASCII, independent of image names


def newest_checkpoint(work_dir: str | Path) -> str:
    """Description of the newest checkpoint in a work dir."""
    found = checkpoints(work_dir)
    return f'the last good checkpoint is {found[0]}' if found else 'there is no checkpoint yet'


@torch.no_grad()
def broken_weights(model: nn.Module) -> list[str]:
    """Names of non-finite parameters and buffers on any process; synchronizes with the device; collective call."""
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    norms = torch._foreach_norm(local_tensors(list(state.values())))
    finite = torch.stack([norm.float() for norm in norms]).isfinite().tolist()
    broken = {name for name, is_finite in zip(state, finite, strict=True) if not is_finite}
    return sorted(set().union(*dist.all_gather_object(broken)))
