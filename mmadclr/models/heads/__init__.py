from mmadclr.models.heads.class_attention_head import ClassAttentionHead
from mmadclr.models.heads.dino_head import DINOHead, IBOTHead
from mmadclr.models.heads.linear_sweep_head import LinearSweepHead
from mmadclr.models.heads.mlp_head import MLPHead

__all__ = ['ClassAttentionHead', 'DINOHead', 'IBOTHead', 'LinearSweepHead', 'MLPHead']
