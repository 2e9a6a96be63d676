"""Dense self-supervised pretraining of vision transformers: ADCLR and the systems it is compared with."""

from typing import TYPE_CHECKING

__version__ = '0.1.0'
__all__ = ['extract_features', 'load_backbone']

if TYPE_CHECKING:
    from mmadclr.api import extract_features, load_backbone


def __getattr__(name: str):
    """The functions of :mod:`mmadclr.api`, imported when they are asked for: the package itself stays light."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmadclr import api

    return getattr(api, name)
