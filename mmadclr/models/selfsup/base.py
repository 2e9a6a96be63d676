"""What the self-distillation methods share: a student, its moving-average teacher, and features for evaluation."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Annotated

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmadclr.annotations import MaybeNone
from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.transforms import MultiCrop
from mmadclr.models.containers import Network
from mmadclr.models.losses.self_distillation import SelfDistillationLoss
from mmadclr.models.selfsup.teacher_copies import LowPrecisionCopies
from mmadclr.registry import MODELS, ConfigOf


class SelfDistillation(BaseModel):
    """Student and teacher of one architecture; the teacher is the moving average of the student.

    The teacher holds no gradient, shares no storage with the student and stays in evaluation mode (so it never drops
    paths). The optimizer's step calls :meth:`after_step`, which moves the centers of the losses and then the teacher, once
    per *optimizer* step (``SelfDistillationOptimWrapper.step``).

    Args:
        backbone, head: Configs of the two parts, built once for the student and copied for the teacher. The head's
            ``in_dim`` is the backbone's width.
        data_preprocessor: Config of the preprocessor; ``ViewPreprocessor`` by default.
        extra_heads: Configs of further heads by name, for tokens other than [CLS].
        teacher_momentum: Share of the old teacher kept at an update; the schedule hook overwrites it every iteration.
        teacher_copies: Under bf16 autocast, the teacher's matrices are cast in one operation a batch instead of one by one;
            losses are the same to the bit. Takes two more bytes a parameter of the teacher. Not with ``sharding``.
    """

    uses_queries = True  # whether the loss looks at query crops

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: Annotated[dict, ConfigOf('ViewPreprocessor')] | None = None,
        extra_heads: dict[str, dict] | None = None,
        teacher_momentum: float = 0.996,
        teacher_copies: bool = False,
    ) -> None:
        super().__init__(data_preprocessor=MODELS.build({'type': 'ViewPreprocessor', **(data_preprocessor or {})}))
        self.student = Network({'backbone': MODELS.build(backbone)})
        in_dim = self.student['backbone'].embed_dim
        for name, cfg in {'head': head, **(extra_heads or {})}.items():
            self.student[name] = MODELS.build({'in_dim': in_dim, **cfg})
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.teacher_momentum = teacher_momentum
        self.copies = LowPrecisionCopies(self.teacher) if teacher_copies else None
        self.inputs = frozenset(inspect.signature(self.loss).parameters)
        self.train()

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Views that are made but not used."""
        for crops in place.config.of_kind(MultiCrop):
            queries = crops.settings['num_query']
            if queries and not cls.uses_queries:
                text = f'{crops.path}.num_query={queries}: {cls.__name__} does not use query crops; set 0'
                yield Finding(text, fatal=False)

    def init_weights(self) -> None:
        """Draws the student's weights anew and starts the teacher from them."""
        for part in self.student.values():
            part.init_weights()
        weights = self.student.state_dict()
        self.teacher.load_state_dict({name: weights[name] for name in self.teacher.state_dict()})

    def train(self, mode: bool = True) -> SelfDistillation:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, views: dict | MaybeNone = None, images: Tensor | MaybeNone = None, mode: str = 'tensor'):
        """``mode='loss'``: losses of ``views``. ``'tensor'`` and ``'predict'``: teacher features (B, D) of ``images``;
        ``'patches'``: those of every patch (B, N, D)."""
        if mode == 'loss':
            self.check_views(views)
            with self.copies.in_place() if self.copies else nullcontext():
                return self.loss(**views)
        if mode == 'patches':
            return self.patch_features(images)
        return self.image_features(images)

    @abstractmethod
    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor) -> dict[str, Tensor]:
        """Named losses whose sum is minimized."""

    def check_views(self, views: dict) -> None:
        """Raises a ValueError for inputs that the samples carry and the method does not take, such as masks."""
        unused = views.keys() - self.inputs
        if unused:
            raise ValueError(
                f'{type(self).__name__} has no use for the {", ".join(sorted(unused))} of the samples: remove the option of '
                'MultiCrop that draws them, or choose the method that takes them'
            )

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Final-normed [CLS] of the teacher (B, D) for images (B, 3, H, W)."""
        return self.teacher['backbone'](images, patches=False).cls

    @torch.no_grad()
    def patch_features(self, images: Tensor) -> Tensor:
        """Final-normed patch tokens of the teacher (B, N, D) for images (B, 3, H, W)."""
        return self.teacher['backbone'](images).patches

    @torch.no_grad()
    def after_step(self, skipped: Tensor | None = None) -> None:
        """Moves the centers and then the teacher, after an optimizer step.

        Args:
            skipped: () 0 or 1, on the device: where it is 1, the student stayed, and so does everything here. None: it
                did not stay.
        """
        for loss in self.distillation_losses():
            loss.update_center(skipped)
        update_teacher(self.teacher, self.student, self.teacher_momentum, skipped)

    def distillation_losses(self) -> list[SelfDistillationLoss]:
        return [module for module in self.modules() if isinstance(module, SelfDistillationLoss)]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float, skipped: Tensor | None = None) -> None:
    """``teacher = momentum * teacher + (1 - momentum) * student`` over the teacher's parameters.

    What the student has beyond them, such as a mask token, stays its own. Where ``skipped`` () is 1 the momentum is 1, so
    that nothing moves; the device decides, and the host does not wait for it.
    """
    values = dict(student.named_parameters())
    names, parameters = zip(*teacher.named_parameters(), strict=True)
    averages, targets = _local(parameters), _local(values[name] for name in names)
    skipped = averages[0].new_zeros(()) if skipped is None else skipped.to(averages[0].dtype)
    share = (1 - momentum) * (1 - skipped)
    (move_together if averages[0].is_cuda else move_each)(averages, targets, share)


def move_together(averages: list[Tensor], targets: list[Tensor], share: Tensor) -> None:
    """Moves tensors by a ``share`` () of the way to their targets, in three operations over all of them."""
    kept = 1 - share
    torch._foreach_mul_(averages, kept)
    torch._foreach_add_(averages, torch._foreach_mul(targets, 1 - kept))  # both sum to 1 exactly, so nothing drifts


def move_each(averages: list[Tensor], targets: list[Tensor], share: Tensor) -> None:
    """The same, tensor by tensor in one pass over its memory: on a GPU that would be an operation for each."""
    torch._foreach_lerp_(averages, targets, [share] * len(averages))


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of every tensor."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
