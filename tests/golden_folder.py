"""A second folder of golden files: other widths, depths, batches, prototypes, temperatures, schedules and crops.

No number of it comes from published code: all are computed by ``plain_forms``, Pillow and torchvision.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import golden_checkpoints
import golden_losses
import golden_models
import golden_recipes
import numpy as np
import torch

WRITERS = (
    golden_losses.dino_loss, golden_losses.dino_schedules, golden_losses.ibot_loss, golden_losses.ibot_masks,
    golden_losses.knn_eval, golden_losses.query_loss, golden_losses.selfpatch_loss,
    golden_models.dino_head, golden_models.dino_step, golden_models.dino_vit, golden_models.ibot_step,
    golden_models.ibot_vit, golden_models.query_attention, golden_models.selfpatch_head, golden_recipes.dino_augment_ops,
)  # fmt: skip


def save(path: Path, arrays: dict) -> None:
    np.savez(path, **{key: x.detach().numpy() if torch.is_tensor(x) else np.asarray(x) for key, x in arrays.items()})


def write_golden_folder(folder: Path) -> None:
    (folder / 'checkpoints').mkdir(parents=True)
    for number, write in enumerate(WRITERS):
        torch.manual_seed(number)
        save(folder / f'{write.__name__}.npz', write())
    for number, write in enumerate((golden_checkpoints.dino, golden_checkpoints.ibot, golden_checkpoints.selfpatch)):
        torch.manual_seed(100 + number)
        save(folder / 'checkpoints' / f'{write.__name__}_expected.npz', write(folder / 'checkpoints'))
    (folder / 'dino_augment.json').write_text(json.dumps(golden_recipes.dino_augment()))


if __name__ == '__main__':
    write_golden_folder(Path(sys.argv[1]))
