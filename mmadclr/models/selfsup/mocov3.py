"""MoCo v3: contrast between the images of a batch, optionally with ADCLR's query term.

Shape legend: B images, V = 2 global views, Q query crops, T tokens per crop, D channels of the head, M rows.
"""

from __future__ import annotations

from functools import reduce
from itertools import permutations
from typing import Annotated

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor

from mmadclr.models.containers import Network
from mmadclr.models.losses.chunked_cross_entropy import at_least_fp32
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.models.selfsup.dino import by_view, flat
from mmadclr.registry import MODELS, ConfigOf


@MODELS.register_module()
class MoCoV3(SelfDistillation):
    """``L = L_cls + lambda L_query``: a view predicts the teacher's *other* view of the same image among all images.

    Chen et al., *An empirical study of training self-supervised vision transformers*, ICCV 2021; facebookresearch/moco-v3,
    ``moco/builder.py``. Student: backbone, projector, predictor; teacher: backbone and projector. With query crops in the
    samples, ADCLR's term contrasts every query token in the same way with those of the batch, the positive being the same
    token in the other view. The paper calls its method a plug-in without publishing details, so this is our interpretation.

    Weights are initialized as in ``vits.py`` of that code: linear layers and the patch projection uniform by fan-in and
    fan-out (queries, keys and values separately), zero biases, and [CLS] close to zero. Positions are learned, whereas that
    code fixes them to sines and cosines.

    Args:
        backbone: Config of a ``QueryViT``, with ``init='mocov3'`` by default.
        head: Config of the projector, an ``MLPHead``.
        predictor: Overrides of ``head`` for the predictor; it has two layers by default.
        temperature: Of the softmax over the batch; losses are scaled by twice the temperature, as published.
        query_weight: lambda.
        freeze_patch_embed: Freeze the patch projection at its initialization, which stabilizes training.
        **kwargs: See ``SelfDistillation``.

    Raises:
        ValueError: From ``loss``, for local views, or a single image.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        predictor: Annotated[dict, ConfigOf('MLPHead', like='head')] | None = None,
        temperature: float = 0.2,
        query_weight: float = 1.0,
        freeze_patch_embed: bool = True,
        **kwargs,
    ) -> None:
        width = MODELS.build({'in_dim': 1, **head}).out_dim
        extra_heads = {'predictor': {**head, 'num_layers': 2, 'in_dim': width, **(predictor or {})}}
        super().__init__({'init': 'mocov3', **backbone}, head, extra_heads=extra_heads, **kwargs)
        del self.teacher['predictor']
        self.temperature, self.query_weight = temperature, query_weight
        if freeze_patch_embed:
            self.student['backbone'].patch_embed.requires_grad_(False)

    def train(self, mode: bool = True) -> MoCoV3:
        """The norms of the teacher's projector use batch statistics, like the student's."""
        super().train(mode)
        self.teacher['head'].train(mode)
        return self

    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W) and ``query_crops`` (B, V, Q, 3, q, q)."""
        if local_views.shape[1]:
            raise ValueError('MoCoV3 does not use local views: set num_local=0 of MultiCrop')
        with torch.no_grad():
            keys = self.project(self.teacher, global_views, query_crops)
        predictions = self.project(self.student, global_views, query_crops)
        weights = {'loss_cls': 1.0, 'loss_query': self.query_weight}
        return {name: weights[name] * self.contrast(predictions[name], keys[name]) for name in keys}

    @staticmethod
    def project(network: Network, global_views: Tensor, query_crops: Tensor) -> dict[str, Tensor]:
        """Inputs of each term: [CLS] (V, B, D) and, if there are any, query tokens (V, B*Q*T, D)."""
        output = network['backbone'](flat(global_views), flat(query_crops), patches=False)
        tokens = {'loss_cls': output.cls}
        if query_crops.shape[2]:
            tokens['loss_query'] = output.queries.flatten(1, 2)
        heads = [network[name] for name in ('head', 'predictor') if name in network]
        projected = {}
        for name, rows in tokens.items():
            views = [view.flatten(0, -2) for view in by_view(rows, global_views.shape[1])]
            for head in heads:
                views = [head(view) for view in views]  # one by one: separate batch statistics per view
            projected[name] = torch.stack(views)
        return projected

    def contrast(self, predictions: Tensor, keys: Tensor) -> Tensor:
        """Sum over pairs of different views of (V, M, D) and (V, M, D)."""
        every_key = [every_row(F.normalize(at_least_fp32(view), dim=-1)) for view in keys]
        directions = [F.normalize(at_least_fp32(view), dim=-1) for view in predictions]
        pairs = permutations(range(len(keys)), 2)
        return reduce(torch.add, (info_nce(directions[v], every_key[u], self.temperature) for u, v in pairs))


def every_row(rows: Tensor) -> Tensor:
    """Rows (M, D) of all processes, in process order, without gradient."""
    return torch.cat(dist.all_gather(rows.contiguous()))


def info_nce(predictions: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding a row's key among the keys of all processes, times twice the temperature.

    Args:
        predictions: (M, D), L2-normalized.
        keys: (processes * M, D), L2-normalized, in rank order.
        temperature: Of the softmax.

    Raises:
        ValueError: There is only one key, so there are no negatives.
    """
    if len(keys) == 1:
        raise ValueError('the contrastive loss requires more than one image per batch: raise batch_size')
    with torch.autocast(predictions.device.type, enabled=False):
        logits = predictions @ keys.T / temperature
        targets = torch.arange(len(predictions), device=logits.device) + dist.get_rank() * len(predictions)
        return 2 * temperature * F.cross_entropy(logits, targets)
