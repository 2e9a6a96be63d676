"""What a format of exported backbones has to provide."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import Tensor

from mmadclr.hub.opening import OpenedBackbone

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
INSTALL = "pip install 'mmadclr[export]'"
Features = Callable[[Tensor], tuple[Tensor, ...]]


class Format(ABC):
    """One kind of folder.

    ``packages``: imported beyond those of the core. ``loaders``: what reads the folder, for the model card. ``any_side``:
    whether sides of images may be no multiples of the patch size. ``norm_eps``: of the library's norms, where the folder
    cannot tell another. ``preparation``: a sentence for the model card on how the library prepares images by what the folder
    says.
    """

    packages: tuple[str, ...] = ()
    loaders: str
    any_side: bool = False
    norm_eps: float | None = None
    preparation: str = ''

    def check(self, opened: OpenedBackbone) -> None:  # noqa: B027 (most formats hold every backbone)
        """Raises ValueError if the format cannot hold the backbone."""

    @abstractmethod
    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        """Weights and configuration, into an existing folder."""

    @abstractmethod
    def load(self, folder: Path) -> Features:
        """The folder as its own library opens it, without any class of ours: images -> cls and patches, or patches alone."""

    @abstractmethod
    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        """Lines of Python that open the folder and make tokens from ``images``."""

    @abstractmethod
    def keeps_rule(self, opened: OpenedBackbone) -> bool:
        """Whether positions are resized to other sizes as in ``opened.model``, so that all sizes give the same features."""

    def takes_other_sizes(self, opened: OpenedBackbone) -> bool:
        """Whether images of other sizes than the stored one can be given at all."""
        return True


def require(package: str, purpose: str) -> ModuleType:
    """The module of a package that only some formats need.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'{purpose} needs {package}, which cannot be imported ({error}); install it: {INSTALL}') from error


def split_tokens(tokens: Tensor, has_cls: bool, num_prefix: int) -> tuple[Tensor, ...]:
    """(B, P + N, D) -> [CLS] (B, D), if there is one, and patches (B, N, D)."""
    patches = tokens[:, num_prefix:]
    return (tokens[:, 0], patches) if has_cls else (patches,)
