"""Dense self-supervised pretraining of vision transformers: ADCLR and the methods it is compared with."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = '0.1.0'
__all__ = ['extract_features', 'load_backbone', 'show']

if TYPE_CHECKING:
    from mmadclr import show
    from mmadclr.api import extract_features, load_backbone


def __getattr__(name: str):
    """Imports :mod:`mmadclr.show` and the functions of :mod:`mmadclr.api` on first access, so that imports are fast."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name == 'show':
        return import_module('mmadclr.show')
    return getattr(import_module('mmadclr.api'), name)
