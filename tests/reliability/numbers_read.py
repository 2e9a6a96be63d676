"""A data set alone in its module, which workers import that are not forked."""

import os
import sys

import numpy as np
import torch
from torch.utils.data import Dataset


class Numbers(Dataset):
    """The numbers below 8, each with the process that read it, numbers drawn there, and whether it knows the runner."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index):
        drawn = torch.rand(()).item(), np.random.random()  # noqa: NPY002, as data sets draw
        return index, os.getpid(), *drawn, 'mmengine.runner' in sys.modules
