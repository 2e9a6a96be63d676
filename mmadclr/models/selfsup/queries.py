"""ADCLR's query term for other methods: a loss of query tokens, and separately encoded crops.

Shape legend: B images, V global views, Q query crops, T tokens per crop, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmadclr.models.containers import Network
from mmadclr.models.losses.self_distillation import ProjectedFeatures, SelfDistillationLoss
from mmadclr.models.selfsup.dino import by_view, flat

TEACHER_QUERIES = ('with_view', 'alone')


class QueryTerm:
    """Mixin for methods based on ``DINO``: ``+ lambda L_query``, DINO's loss on query tokens instead of [CLS].

    Must precede the method in the list of bases; query tokens are projected by ``query_head(network)``.
    """

    uses_queries = True
    teacher: Network
    build_loss: Callable[..., SelfDistillationLoss]

    def add_query_term(self, weight: float, loss: dict | None, teacher_queries: str, **defaults) -> None:
        """Must be called at the end of the constructor.

        Args:
            weight: lambda.
            loss: Config of the loss, which has its own center; ``defaults`` are its default settings.
            teacher_queries: ``'with_view'`` (the teacher's query tokens attend to its view, so targets differ between views)
                or ``'alone'`` (each crop is encoded separately as a small image, with its patch tokens as targets).

        Raises:
            ValueError: Unknown ``teacher_queries``.
        """
        if teacher_queries not in TEACHER_QUERIES:
            raise ValueError(f"teacher_queries={teacher_queries!r}: choose 'with_view' or 'alone'")
        self.query_weight = weight
        self.teacher_queries = teacher_queries
        self.loss_query = self.build_loss(loss, **defaults)

    def query_term(self, student: ProjectedFeatures, teacher: ProjectedFeatures) -> dict[str, Tensor]:
        """The loss of query tokens (V, B, Q*T, D) by its name in the log."""
        return {'loss_query': self.query_weight * self.loss_query(student, teacher)}

    @torch.no_grad()
    def project_alone(self, query_crops: Tensor) -> ProjectedFeatures:
        """The teacher's V * B * Q*T patch tokens of crops encoded as separate images, without their [CLS]."""
        _, num_views, num_queries = query_crops.shape[:3]
        patches = self.teacher['backbone'](flat(query_crops).flatten(0, 1)).patches  # (V*B*Q, T, D)
        tokens = by_view(patches.unflatten(0, (-1, num_queries)).flatten(1, 2), num_views)
        return query_head(self.teacher).project(tokens)


def query_head(network: Network) -> Any:
    """The head of the query tokens: a separate one if present, otherwise that of [CLS]."""
    return network['query_head'] if 'query_head' in network else network['head']
