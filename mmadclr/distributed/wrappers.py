"""Access to models inside distributed wrappers."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without its distributed wrapper, if any."""
    return model.module if is_model_wrapper(model) else model
