"""Base of self-distillation methods: a student, its moving-average teacher, and features for evaluation."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Annotated, Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmadclr.annotations import MaybeNone
from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.transforms import MultiCrop
from mmadclr.models.backbones.low_rank import LowRankUpdates
from mmadclr.models.containers import Network
from mmadclr.models.losses.original_anchor import OriginalAnchor, watch_first_group
from mmadclr.models.losses.self_distillation import SelfDistillationLoss
from mmadclr.models.selfsup.teacher_copies import LowPrecisionCopies
from mmadclr.registry import MODELS, ConfigOf


class SelfDistillation(BaseModel):
    """Student and teacher of the same architecture; the teacher is the moving average of the student.

    The teacher has no gradients, shares no storage with the student and stays in evaluation mode (so it never drops
    paths). The optimizer's step calls :meth:`after_step`, which updates the centers of the losses and then the teacher, once
    per *optimizer* step (``SelfDistillationOptimWrapper.step``).

    Args:
        backbone, head: Configs of the two parts, built once for the student and copied for the teacher. The head's
            ``in_dim`` is the backbone's width.
        data_preprocessor: Config of the preprocessor; ``ViewPreprocessor`` by default.
        extra_heads: Configs of additional heads by name, for tokens other than [CLS].
        teacher_momentum: Fraction of the old teacher kept in an update; overwritten every iteration by the schedule hook.
        teacher_copies: With bf16 autocast, cast the teacher's matrices in one operation per batch instead of one by one;
            losses are bit-identical. Needs two more bytes per teacher parameter. Not compatible with ``sharding``.
        frozen_blocks: Number of first blocks of the backbone that keep their initial weights, as do then the embeddings.
        anchor: Config of an ``OriginalAnchor``, whose terms keep the student close to the weights it starts from.
        low_rank: Config of ``LowRankUpdates``: of the backbone only low-rank updates of attention are trained, in the
            blocks that are not frozen. Not compatible with ``sharding``.

    Raises:
        ValueError: More frozen blocks than the backbone has, or fewer than 0.
    """

    uses_queries = True  # whether the loss uses query crops

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: Annotated[dict, ConfigOf('ViewPreprocessor')] | None = None,
        extra_heads: dict[str, dict] | None = None,
        teacher_momentum: float = 0.996,
        teacher_copies: bool = False,
        frozen_blocks: int = 0,
        anchor: Annotated[dict, ConfigOf('OriginalAnchor')] | None = None,
        low_rank: Annotated[dict, ConfigOf('LowRankUpdates')] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=MODELS.build({'type': 'ViewPreprocessor', **(data_preprocessor or {})}))
        self.student = Network({'backbone': MODELS.build(backbone)})
        in_dim = self.student['backbone'].embed_dim
        for name, cfg in {'head': head, **(extra_heads or {})}.items():
            self.student[name] = MODELS.build({'in_dim': in_dim, **cfg})
        self.frozen = freeze_first(self.student['backbone'], frozen_blocks)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.anchor = self.build_anchor(anchor)
        updates = {'type': 'LowRankUpdates', 'first_block': frozen_blocks, **(low_rank or {})}
        self.low_rank: LowRankUpdates | None
        self.low_rank = None if low_rank is None else MODELS.build({**updates, 'backbone': self.student['backbone']})
        self.teacher_momentum = teacher_momentum
        self.copies = LowPrecisionCopies(self.teacher) if teacher_copies else None
        self.inputs = frozenset(inspect.signature(self.loss).parameters)
        self.averaged: Averaged | None = None
        self.train()

    def build_anchor(self, anchor: dict | None) -> OriginalAnchor | None:
        if anchor is None:
            return None
        return MODELS.build({'type': 'OriginalAnchor', **anchor, 'original': deepcopy(self.student['backbone'])})

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Views that are created but not used, and an anchor without weights to start from."""
        settings, start = place.settings, f'{place.path}.backbone.init_cfg.checkpoint'
        if settings['anchor'] and not (place.get(start) or place.get('load_from') or place.get('resume')):
            yield Finding(f'{place.path}.anchor keeps the student close to the weights of {start}, which is not set: set it')
        for crops in place.config.of_kind(MultiCrop):
            queries = crops.settings['num_query']
            if queries and not cls.uses_queries:
                text = f'{crops.path}.num_query={queries}: {cls.__name__} does not use query crops; set 0'
                yield Finding(text, fatal=False)

    def init_weights(self) -> None:
        """Initializes the student's weights, and copies them to the teacher."""
        for part in self.student.values():
            part.init_weights()
        weights = self.student.state_dict()
        self.teacher.load_state_dict({name: weights[name] for name in self.teacher.state_dict()})
        if self.anchor is not None:
            self.anchor.start_at(self.student['backbone'])
        if self.low_rank is not None:
            self.low_rank.start()

    def train(self, mode: bool = True) -> SelfDistillation:
        super().train(mode)
        self.teacher.eval()
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, views: dict | MaybeNone = None, images: Tensor | MaybeNone = None, mode: str = 'tensor'):
        """``mode='loss'``: losses of ``views``. ``'tensor'`` and ``'predict'``: teacher features (B, D) of ``images``;
        ``'patches'``: features of every patch (B, N, D).
        """
        if mode == 'loss':
            self.check_views(views)
            with self.copies.in_place() if self.copies else nullcontext(), self.updated_student():
                return self.loss(**views) if self.anchor is None else self.anchored_loss(self.anchor, views)
        if mode == 'patches':
            return self.patch_features(images)
        return self.image_features(images)

    @abstractmethod
    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor) -> dict[str, Tensor]:
        """Named losses whose sum is minimized."""

    def updated_student(self) -> AbstractContextManager[None]:
        """Context in which the student's weights carry gradients to their low-rank updates, if there are any."""
        return nullcontext() if self.low_rank is None else self.low_rank.in_place()

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All that changes the student's backbone in training, by names of the backbone."""
        yield from ((name, p) for name, p in self.student['backbone'].named_parameters() if p.requires_grad)
        if self.low_rank is not None:
            yield from self.low_rank.named_factors()

    def anchored_loss(self, anchor: OriginalAnchor, views: dict) -> dict[str, Tensor]:
        """The method's losses and those of the anchor."""
        with watch_first_group(self.student['backbone']) as seen:
            losses = self.loss(**views)
        return losses | anchor(seen.views, seen.output)

    def check_views(self, views: dict) -> None:
        """Raises ValueError for inputs in the samples that the method does not support, such as masks."""
        unused = views.keys() - self.inputs
        if unused:
            raise ValueError(
                f'{type(self).__name__} does not use the {", ".join(sorted(unused))} of the samples: remove the option of '
                'MultiCrop that creates them, or choose a method that uses them'
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
        """Updates the centers and then the teacher, after an optimizer step.

        Args:
            skipped: () 0 or 1, on the device: if it is 1, the step was skipped and nothing changes. None: not skipped.
        """
        for loss in self.distillation_losses():
            loss.update_center(skipped)
        if self.low_rank is not None:
            self.low_rank.merge()
        self.averaged = self.averaged or averaged_parameters(self.teacher, self.student)
        update_teacher(self.teacher, self.student, self.teacher_momentum, skipped, self.averaged)

    def distillation_losses(self) -> list[SelfDistillationLoss]:
        """All of the model; networks, which have none, are not searched in every step."""
        parts = (part for name, part in self.named_children() if name not in ('student', 'teacher', 'anchor'))
        return [module for part in parts for module in part.modules() if isinstance(module, SelfDistillationLoss)]


def freeze_first(backbone: nn.Module, number: int) -> list[nn.Module]:
    """Freezes the first blocks and the embeddings before them, if ``number`` is not 0; the modules frozen.

    Raises:
        ValueError: ``number`` is not one of 0 to the number of blocks.
    """
    blocks: Any = backbone.blocks
    if not 0 <= number <= len(blocks):
        raise ValueError(f'frozen_blocks={number} must be between 0 (none) and {len(blocks)} (all blocks)')
    modules = [backbone.patch_embed, *blocks[:number]] if number else []
    names = ('pos_embed', 'cls_token', 'reg_token') if number else ()
    for part in (*modules, *(getattr(backbone, name) for name in names)):
        if part is not None:
            part.requires_grad_(False)
    return modules


# Modules of teacher and student, and the name of a parameter in both.
Averaged = list[tuple[nn.Module, nn.Module, str]]


def averaged_parameters(teacher: nn.Module, student: nn.Module) -> Averaged:
    """Places of the teacher's parameters, in order; finding them takes longer than an update.

    Parameters that only the student has, such as a mask token, are not averaged. Sharding replaces the parameters of a
    module, which is why their places are returned. What two modules share is averaged once.
    """
    modules, seen, found = dict(student.named_modules()), set(), []
    for path, module in teacher.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found.append((module, modules[path], name))
    return found


@torch.no_grad()
def update_teacher(
    teacher: nn.Module,
    student: nn.Module,
    momentum: float,
    skipped: Tensor | None = None,
    averaged: Averaged | None = None,
) -> None:
    """``teacher = momentum * teacher + (1 - momentum) * student`` over the teacher's parameters.

    Args:
        teacher, student: Networks.
        momentum: Fraction of the old teacher kept.
        skipped: (); if it is 1 the momentum is 1, so that nothing changes, without synchronizing with the device.
        averaged: Their :func:`averaged_parameters`, if already found.
    """
    averaged = averaged or averaged_parameters(teacher, student)
    averages = _local(getattr(module, name) for module, _, name in averaged)
    targets = _local(getattr(module, name) for _, module, name in averaged)
    skipped = averages[0].new_zeros(()) if skipped is None else skipped.to(averages[0].dtype)
    share = (1 - momentum) * (1 - skipped)
    (move_together if averages[0].is_cuda else move_each)(averages, targets, share)


def move_together(averages: list[Tensor], targets: list[Tensor], share: Tensor) -> None:
    """Moves tensors by a fraction ``share`` () toward their targets, in three operations over all of them."""
    kept = 1 - share
    torch._foreach_mul_(averages, kept)
    torch._foreach_add_(averages, torch._foreach_mul(targets, 1 - kept))  # factors sum to exactly 1, which avoids drift


def move_each(averages: list[Tensor], targets: list[Tensor], share: Tensor) -> None:
    """As ``move_together``, tensor by tensor in one pass over memory: on a GPU, one operation per tensor."""
    torch._foreach_lerp_(averages, targets, [share] * len(averages))


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's shard of every tensor."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
