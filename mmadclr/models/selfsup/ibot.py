"""iBOT: DINO plus prediction of masked patches.

Shape legend: B images, V = 2 global views, L local views, N = h * w patches per view, R masked patches of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.backbones.query_vit import ViewGroup
from mmadclr.models.containers import Network
from mmadclr.models.heads.dino_head import patch_prototypes, project_jointly
from mmadclr.models.losses.self_distillation import LossConfig, ProjectedFeatures
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.selfsup.dino import DINO, by_view, cls_by_view, flat, with_local
from mmadclr.registry import MODELS


@MODELS.register_module()
class IBOT(DINO):
    """``L = lambda_1 L_cls + lambda_2 L_patch``: DINO, and the teacher's patch outputs as targets for masked patches.

    Zhou et al., *iBOT: image BERT pre-training with online tokenizer*, ICLR 2022; reproduces bytedance/ibot,
    ``main_ibot.py``. Patches of the student's global views are replaced by a mask token; its output there predicts
    the teacher's output for the same patch of the same, unmasked view. The teacher has no mask token.

    The published code computes the logits of all patches and multiplies most of them by 0. Here only masked patches are
    projected by the student's head. As there, the patch center is the mean over all of the teacher's patches.

    Args:
        backbone: Config of a ``QueryViT``; ``mask_token=True`` is the default, unless ``mask_student=False``.
        head: ``DINOHead``: patches share the prototypes of [CLS], as in all published models; ``IBOTHead``: separate ones.
        cls_weight, patch_weight: lambda_1 and lambda_2.
        loss_patch: Config of the patch loss, which has its own center and temperatures.
        mask_student: Whether masked patches are hidden from the student. False for weights whose mask token was never
            trained: the patch term then compares patches that both see (facebookresearch/dinov3, distillation).
        **kwargs: See ``DINO``.

    Raises:
        ValueError: From ``loss``, if there are no masks.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        cls_weight: float = 1.0,
        patch_weight: float = 1.0,
        loss_patch: LossConfig | None = None,
        mask_student: bool = True,
        **kwargs,
    ) -> None:
        super().__init__({**({'mask_token': True} if mask_student else {}), **backbone}, head, **kwargs)
        self.teacher['backbone'].mask_token = None
        self.cls_weight, self.patch_weight = cls_weight, patch_weight
        self.mask_student = mask_student
        num_prototypes = len(patch_prototypes(self.student['head']).weight_v)
        self.loss_patch = self.build_loss(loss_patch, out_dim=num_prototypes, pairing='same-view')

    def loss(
        self,
        global_views: Tensor,
        local_views: Tensor,
        query_crops: Tensor | None = None,
        masks: PatchMasks | None = None,
    ) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), their ``masks`` of (B, V, h, w) patches, and ``local_views`` (B, L, 3, H', W').

        iBOT does not use query crops.
        """
        masks = self.check_masks(masks)
        with torch.no_grad():
            teacher = self.project_with_patches(self.teacher, global_views)
        student = self.project_with_patches(self.student, global_views, local_views, masks)
        return self.terms(*student, *teacher, masks=masks)

    def terms(
        self,
        student_cls: ProjectedFeatures,
        student_hidden: ProjectedFeatures,
        teacher_cls: ProjectedFeatures,
        teacher_patches: ProjectedFeatures,
        *,
        masks: PatchMasks,
    ) -> dict[str, Tensor]:
        """Both losses, from the student's [CLS] and masked patches and the teacher's [CLS] and all patches."""
        teacher_hidden = teacher_patches._replace(features=teacher_patches.features[:, masks.rows])
        loss_patch = self.loss_patch(student_hidden, teacher_hidden, masks.weights, center_from=teacher_patches)
        return {
            'loss_cls': self.cls_weight * self.loss_cls(student_cls, teacher_cls),
            'loss_patch': self.patch_weight * loss_patch,
        }

    def check_masks(self, masks: PatchMasks | None) -> PatchMasks:
        """The masks; raises ValueError if the samples have none."""
        if masks is None:
            raise ValueError(
                f"{type(self).__name__}: the samples have no masks; set mask=dict(type='BlockMasking') of MultiCrop"
            )
        return masks

    def project_with_patches(
        self,
        network: Network,
        global_views: Tensor,
        local_views: Tensor | None = None,
        masks: PatchMasks | None = None,
        queries: Tensor | None = None,
    ) -> tuple[ProjectedFeatures, ...]:
        """[CLS] of all V + L views, and all patches of the global ones (1, V*B*N, D), or only the masked ones (1, R, D).

        With ``queries`` (V*B, Q, ...), also query tokens (V, B, Q*T, D), which use the prototypes of [CLS].
        """
        mask = None if masks is None or not self.mask_student else flat(masks.hidden)
        groups = with_local(ViewGroup(flat(global_views), queries, mask=mask), local_views)
        outputs = network['backbone'].encode(*groups)
        patches = outputs[0].patches.flatten(0, 1)
        if masks is not None:
            patches = patches.index_select(0, masks.rows)
        tokens = [cls_by_view(outputs, len(global_views)), patches.unsqueeze(0)]
        if queries is not None:
            tokens.append(by_view(outputs[0].queries.flatten(1, 2), global_views.shape[1]))
        of_cls, of_patches, *of_queries = project_jointly(network['head'], *tokens)
        return of_cls, of_patches._replace(prototypes=patch_prototypes(network['head'])), *of_queries
