"""OriginalAnchor: keeps a network that continues from public weights close to what it was.

Shape legend: R rows (images, or views of images), N patches of an image, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmadclr.models.backbones.query_vit import ViewGroup, ViTOutput
from mmadclr.models.losses.chunked_cross_entropy import at_least_fp32
from mmadclr.registry import MODELS
from mmadclr.schedules import held_cosine


@MODELS.register_module()
class OriginalAnchor(nn.Module):
    """``L = g L_gram + c L_cls`` between the student and a frozen copy of the network that it started from.

    ``L_gram = mean (X X^T - Y Y^T)^2``, with the student's patches X of an image and the original's Y, both (N, D) with rows
    of length 1; the mean is over all N^2 pairs and all images. It depends on the similarities of patches alone, so the
    features may rotate (Gram anchoring: Simeoni et al., *DINOv3*, 2025, section 4.2). ``L_cls = mean (1 - cos)`` between the
    [CLS] of both. Both see the global views that the student sees; where patches are masked, only for the student.

    Args:
        original: The student's backbone; a copy is kept, which does not train, and is part of checkpoints.
        gram_weight, cls_weight: g and c at the start and at the end of the run (2 is DINOv3's g; all else is not measured).
        hold: Fraction of the run in which both keep their first value; half a cosine leads to the second.

    Raises:
        ValueError: A weight is negative, or ``hold`` is not in [0, 1).
    """

    def __init__(
        self,
        original: nn.Module,
        gram_weight: Sequence[float] = (2.0, 2.0),
        cls_weight: Sequence[float] = (1.0, 0.1),
        hold: float = 1 / 3,
    ) -> None:
        super().__init__()
        for key, values in (('gram_weight', gram_weight), ('cls_weight', cls_weight)):
            if len(values) != 2 or min(values) < 0:
                raise ValueError(f'OriginalAnchor: {key}={tuple(values)} must be two weights of at least 0, first and last')
        if not 0 <= hold < 1:
            raise ValueError(f'OriginalAnchor: hold={hold} must be in [0, 1)')
        copy: Any = original.requires_grad_(False)
        copy.mask_token = None
        self.original: Any = copy
        self.gram_ends, self.cls_ends, self.hold = tuple(gram_weight), tuple(cls_weight), hold
        self.progress = 0.0  # of the run, in [0, 1]; set by the schedule hook
        self.train()

    def train(self, mode: bool = True) -> OriginalAnchor:
        super().train(mode)
        self.original.eval()
        return self

    def start_at(self, backbone: nn.Module) -> None:
        """Copies the weights that training starts from."""
        weights = backbone.state_dict()
        self.original.load_state_dict({name: weights[name] for name in self.original.state_dict()})

    @property
    def weights(self) -> dict[str, float]:
        """g and c at the present ``progress``."""
        ends = {'gram': self.gram_ends, 'cls': self.cls_ends}
        return {name: held_cosine(first, last, self.progress, self.hold) for name, (first, last) in ends.items()}

    def forward(self, views: ViewGroup, student: ViTOutput) -> dict[str, Tensor]:
        """Weighted terms by name; ``student`` is what the student made of ``views``, with patches."""
        with torch.no_grad():
            original = self.original(views.images)
        weights = self.weights
        terms = {'loss_anchor_gram': weights['gram'] * gram_distance(student.patches, original.patches)}
        if student.cls is not None:
            terms['loss_anchor_cls'] = weights['cls'] * cosine_distance(student.cls, original.cls)
        return terms


def gram_distance(student: Tensor, original: Tensor) -> Tensor:
    """() mean squared difference of the cosines between the patches (R, N, D) of an image; no gradient to ``original``."""
    with torch.autocast(student.device.type, enabled=False):
        x, y = (F.normalize(at_least_fp32(patches), dim=-1) for patches in (student, original.detach()))
        return (x @ x.mT - y @ y.mT).square().mean()


def cosine_distance(student: Tensor, original: Tensor) -> Tensor:
    """() mean of 1 - cos between rows (R, D); no gradient to ``original``."""
    with torch.autocast(student.device.type, enabled=False):
        return (1 - F.cosine_similarity(at_least_fp32(student), at_least_fp32(original.detach()), dim=-1)).mean()


class Watched:
    """The first group of views that a backbone encoded, and its output."""

    views: ViewGroup | None = None
    output: ViTOutput | None = None


@contextmanager
def watch_first_group(backbone: nn.Module) -> Iterator[Watched]:
    """Context in which the backbone keeps the first group of views it encodes, global ones, and makes patches of it.

    So methods whose losses need no patches stay as they are; their other outputs are unchanged up to rounding.
    """
    seen = Watched()

    def ask_for_patches(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if seen.views is not None:
            return None
        first, *rest = args[0] if not isinstance(args[0], Tensor) else [ViewGroup(*args, **kwargs)]
        seen.views = first._replace(patches=True)
        return (tuple(seen.views), {}) if isinstance(args[0], Tensor) else (((seen.views, *rest),), kwargs)

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        if seen.output is None:
            seen.output = output if isinstance(output, ViTOutput) else output[0]

    handles = backbone.register_forward_pre_hook(ask_for_patches, with_kwargs=True), backbone.register_forward_hook(keep)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
