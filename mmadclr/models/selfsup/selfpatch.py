"""SelfPatch: DINO on a class token added after the backbone, and patches that predict their neighborhoods.

Shape legend: B images, V = 2 global views, L local views, N = h * w patches per view (fewer in local views), D channels,
R = all patches of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.conflicts import BACKBONE, crop_counts, patch_size
from mmadclr.datasets.transforms import NUM_GLOBAL, MultiCrop
from mmadclr.models.backbones.query_vit import ViewGroup, resolve_arch
from mmadclr.models.containers import Network
from mmadclr.models.losses.self_distillation import LossConfig, ProjectedFeatures
from mmadclr.models.selfsup.dino import DINO, by_view, flat
from mmadclr.registry import MODELS, ConfigOf


@MODELS.register_module()
class SelfPatch(DINO):
    """``L = L_cls + lambda L_patch``: DINO, with the teacher's summary of a patch's neighbors as patch target.

    Yun et al., *Patch-level representation learning for self-supervised vision transformers*, CVPR 2022; reproduces
    alinlab/SelfPatch, ``main_selfpatch.py``. The backbone has only patches; a ``ClassAttentionHead`` computes [CLS] from
    them. With it, the teacher summarizes for every patch the most similar of its neighbors; the student's patch at the same
    position of the same view predicts this summary. The teacher also encodes local views, for this term only.

    Both centers are computed from the teacher's tokens of all views, and both terms use the same temperature, as published.

    Args:
        backbone: Config of a ``QueryViT``; ``class_token=False, final_norm=False`` are the defaults.
        head: Config of the [CLS] head.
        patch_head: Overrides of ``head`` for the patch head (published: 4096 prototypes).
        class_attention: Options of the ``ClassAttentionHead``; it has as many heads as the backbone by default.
        patch_weight: lambda.
        loss_patch: Config of the patch loss, which has its own center.
        **kwargs: See ``DINO``.

    Raises:
        ValueError: From ``loss``, for views of a single patch.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        patch_head: Annotated[dict, ConfigOf('DINOHead', like='head')] | None = None,
        class_attention: Annotated[dict, ConfigOf('ClassAttentionHead')] | None = None,
        patch_weight: float = 0.1,
        loss_patch: LossConfig | None = None,
        **kwargs,
    ) -> None:
        backbone = {'class_token': False, 'final_norm': False, **backbone}
        num_heads = resolve_arch(backbone['arch'])['num_heads']
        extra_heads = {
            'class_attention': {'type': 'ClassAttentionHead', 'num_heads': num_heads, **(class_attention or {})},
            'patch_head': {**head, **(patch_head or {})},
        }
        super().__init__(backbone, head, extra_heads=extra_heads, **kwargs)
        self.patch_weight = patch_weight
        num_prototypes = len(self.student['patch_head'].last_layer.weight_v)
        self.loss_patch = self.build_loss(loss_patch, out_dim=num_prototypes, pairing='same-view')

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Checks views against the patch size: the only patch of a view has no neighbors."""
        yield from super().find_conflicts(place)
        patch = patch_size(place)
        for crops in place.config.of_kind(MultiCrop):
            counts = crop_counts(crops.settings, NUM_GLOBAL)
            for kind in ('global', 'local'):
                if patch and counts[kind] and crops.settings[f'{kind}_size'] == patch:
                    yield Finding(
                        f'{crops.path}.{kind}_size={patch}: for {cls.__name__}, a grid of 1 x 1 patches has no neighbors: '
                        f'make the views at least two patches wide, or patches of {patch} pixels smaller ({BACKBONE}.arch)'
                    )

    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor | None = None) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), ``local_views`` (B, L, 3, h, w); SelfPatch does not use query crops."""
        groups = [views for views in (global_views, local_views) if views.shape[1]]
        with torch.no_grad():
            every_cls, teacher_patches = self.project_views(self.teacher, groups, summarize=True)
            teacher_cls = every_cls._replace(features=every_cls.features[: global_views.shape[1]])
        student_cls, student_patches = self.project_views(self.student, groups)
        weights = self.patch_weights(groups)
        return {
            'loss_cls': self.loss_cls(student_cls, teacher_cls, center_from=every_cls),
            'loss_patch': self.patch_weight * self.loss_patch(student_patches, teacher_patches, weights),
        }

    def project_views(
        self, network: Network, groups: list[Tensor], summarize: bool = False
    ) -> tuple[ProjectedFeatures, ProjectedFeatures]:
        """[CLS] (V + L, B, D) and all patches (1, R, D) of views grouped by size, projected by their heads.

        ``summarize`` replaces every patch by a summary of its neighbors.
        """
        every_cls, every_patch = [], []
        outputs = network['backbone'].encode(*(ViewGroup(flat(views)) for views in groups))
        for views, output in zip(groups, outputs, strict=True):
            grid = self.grid_of(views) if summarize else None
            cls, patches = network['class_attention'](output.patches, grid)
            every_cls.append(by_view(cls, views.shape[1]))
            every_patch.append(patches.flatten(0, 1))
        cls, patches = torch.cat(every_cls), torch.cat(every_patch).unsqueeze(0)
        return network['head'].project(cls), network['patch_head'].project(patches)

    def patch_weights(self, groups: list[Tensor]) -> Tensor:
        """(R,) weights that average over the patches of a view, then over views: small views have fewer patches."""
        number = sum(views.shape[1] for views in groups)
        weights = []
        for views in groups:
            height, width = self.grid_of(views)
            rows = len(views) * views.shape[1] * height * width
            weights.append(views.new_full((rows,), views.shape[1] / (number * rows)))
        return torch.cat(weights)

    def grid_of(self, views: Tensor) -> tuple[int, int]:
        """Patches (h, w) of views (..., H, W)."""
        patch_size = self.student['backbone'].patch_size
        return views.shape[-2] // patch_size, views.shape[-1] // patch_size

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Final-normed [CLS] of the teacher's class attention (B, D), which DINO's term trains."""
        return self.teacher['class_attention'](self.teacher['backbone'](images).patches)[0]
