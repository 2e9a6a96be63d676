"""Statistics of a method in training, from the student and teacher sides of its losses, by which collapse is judged."""

from __future__ import annotations

import torch
from mmengine import dist
from torch import Tensor

from mmadclr.distributed.shards import full_norms
from mmadclr.evaluation import collapse
from mmadclr.evaluation.collapse import evenly
from mmadclr.models.losses.self_distillation import PAIRINGS, ProjectedFeatures, SelfDistillationLoss
from mmadclr.models.selfsup.base import SelfDistillation


def rows_of_first_pair(
    loss: SelfDistillationLoss, student: ProjectedFeatures, teacher: ProjectedFeatures, number: int
) -> tuple[ProjectedFeatures, ProjectedFeatures]:
    """At most ``number`` rows (N, D) of the first pair of views, the same rows of student and teacher."""
    pairs = PAIRINGS[loss.pairing](len(teacher.features), len(student.features))
    u, v = pairs.nonzero()[0].tolist()
    of_student, of_teacher = (
        side._replace(features=evenly(side.features[view].flatten(0, -2), number).float())
        for side, view in ((student, v), (teacher, u))
    )
    return of_student, of_teacher


def term_statistics(loss: SelfDistillationLoss, student: ProjectedFeatures, teacher: ProjectedFeatures) -> dict[str, Tensor]:
    """Scalars from matching rows (N, D) of student and teacher; ``rank`` synchronizes with the device."""
    targets = loss.targets(teacher.logits())
    log_probs = (student.logits() / loss.student_temp).log_softmax(dim=-1)
    return {
        'entropy': collapse.relative_entropy(targets),
        'kl': collapse.kl_divergence(targets, log_probs),
        'prototypes': collapse.prototypes_in_use(targets),
        'top_share': collapse.top_share(targets),
        'spread': collapse.feature_spread(teacher.features),
        'rank': collapse.rank_me(teacher.features),
        'cosine': collapse.cosine(student.features, teacher.features),
    }


@torch.no_grad()
def teacher_statistics(model: SelfDistillation) -> dict[str, Tensor]:
    """Norm of the teacher's parameters, and its relative distance to the student; collective if sharded."""
    names, teacher = zip(*model.teacher.named_parameters(), strict=True)
    values = dict(model.student.named_parameters())
    student: list[Tensor] = [values[name] for name in names]
    gaps = torch._foreach_sub(list(teacher), student)
    gap, norm = (torch.stack(full_norms(tensors)).norm() for tensors in (gaps, list(teacher)))
    return {'distance': gap / norm, 'norm': norm}


def fetch_means(groups: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Means over processes of nested scalars, in one all-reduce."""
    values = torch.stack([value.float() for statistics in groups.values() for value in statistics.values()])
    dist.all_reduce(values, 'mean')
    numbers = iter(values.tolist())
    return {name: {key: next(numbers) for key in statistics} for name, statistics in groups.items()}
