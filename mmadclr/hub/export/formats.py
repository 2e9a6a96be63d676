"""Interface of export formats."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from mmadclr.checkpoint.loading import attention_facts
from mmadclr.hub.opening import OpenedBackbone

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
INSTALL = "pip install 'mmadclr[export]'"
Features = Callable[[Tensor], tuple[Tensor, ...]]


class Format(ABC):
    """A folder format.

    ``packages``: imports beyond those of the core. ``loaders``: what reads the folder, for the model card. ``any_side``:
    whether image sides need not be multiples of the patch size. ``preparation``: a sentence for the model card on how the
    library preprocesses images from the folder's settings.
    """

    packages: tuple[str, ...] = ()
    loaders: str
    any_side: bool = False
    preparation: str = ''

    def check(self, opened: OpenedBackbone) -> None:  # noqa: B027 (most formats support every backbone)
        """Raises ValueError if the format does not support the backbone."""

    @abstractmethod
    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        """Writes weights and configuration into an existing folder."""

    @abstractmethod
    def load(self, folder: Path) -> Features:
        """Loads the folder with its own library, without our classes: images -> cls and patches, or only patches."""

    @abstractmethod
    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        """Python code that loads a folder, or a repository ``USER/NAME`` of the hub, and computes tokens from ``images``."""

    @abstractmethod
    def keeps_rule(self, opened: OpenedBackbone) -> bool:
        """Whether positions are resized to other sizes as in ``opened.model``, so that all sizes give the same features."""

    def norm_eps(self, opened: OpenedBackbone) -> float | None:
        """Eps of the library's norms, if the folder cannot specify another."""
        return None

    def exported(self, opened: OpenedBackbone) -> OpenedBackbone:
        """The backbone that the folder describes, if the format must round something."""
        return opened

    def takes_other_sizes(self, opened: OpenedBackbone) -> bool:
        """Whether images of other sizes than the stored one are supported."""
        return True


def own_facts(opened: OpenedBackbone) -> dict[str, Any]:
    """What the config of a library does not contain, for reading the folder back: see ``OWN_FACTS``."""
    model = opened.model
    facts = dict(layer_scale=model.layer_scale is not None, **attention_facts(model), **opened.origin)
    if model.rope is None:
        return {**facts, 'pos_embed_resize': model.pos_embed_resize}
    return {**facts, 'rope_periods': model.rope.periods.tolist()}


def require(package: str, purpose: str) -> ModuleType:
    """Imports a package that only some formats need.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'{purpose} needs {package}, which cannot be imported ({error}); install it: {INSTALL}') from error


def split_tokens(tokens: Tensor, has_cls: bool, num_prefix: int) -> tuple[Tensor, ...]:
    """(B, P + N, D) -> [CLS] (B, D), if present, and patches (B, N, D)."""
    patches = tokens[:, num_prefix:]
    return (tokens[:, 0], patches) if has_cls else (patches,)
