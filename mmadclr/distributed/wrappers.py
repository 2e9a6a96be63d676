"""Looking through the wrappers of distributed training."""

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, whether or not it is wrapped for distributed training."""
    wrapper: Any = model
    return wrapper.module if is_model_wrapper(model) else model
