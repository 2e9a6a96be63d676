"""Finds keys of a config that nothing would ever read, before anything is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.registry import root as root_registries
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmadclr import registry as our_registries


class ConfigError(ValueError):
    """A config names components or arguments that do not exist."""
