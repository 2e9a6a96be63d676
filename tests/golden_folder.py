"""A second folder of golden files: other widths, depths, batches, prototypes, temperatures, schedules and crops.

No number of it comes from published code: all are computed by ``plain_forms``, Pillow and torchvision.
"""

from __future__ import annotations

import sys
from pathlib import Path

import golden_losses
import golden_models
import numpy as np
import torch

WRITERS = (
    golden_losses.dino_loss, golden_losses.dino_schedules, golden_losses.ibot_loss, golden_losses.ibot_masks,
    golden_losses.knn_eval, golden_losses.query_loss, golden_losses.selfpatch_loss,
    golden_models.dino_head, golden_models.dino_step, golden_models.dino_vit, golden_models.ibot_step,
    golden_models.ibot_vit, golden_models.query_attention, golden_models.selfpatch_head,
)  # fmt: skip


def write_golden_folder(folder: Path) -> None:
    for number, write in enumerate(WRITERS):
        torch.manual_seed(number)
        arrays = write()
        arrays = {key: x.detach().numpy() if torch.is_tensor(x) else np.asarray(x) for key, x in arrays.items()}
        np.savez(folder / f'{write.__name__}.npz', **arrays)


if __name__ == '__main__':
    write_golden_folder(Path(sys.argv[1]))
