"""Dense self-supervised pretraining of vision transformers: ADCLR and the methods it is compared with."""

from typing import TYPE_CHECKING

__version__ = '0.1.0'
__all__ = ['extract_features', 'load_backbone']

if TYPE_CHECKING:
    from mmadclr.api import extract_features, load_backbone


def __getattr__(name: str):
    """Imports the functions of :mod:`mmadclr.api` on first access, which keeps importing the package fast."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmadclr import api

    return getattr(api, name)
