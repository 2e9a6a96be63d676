from mmadclr.models.heads.class_attention_head import ClassAttentionHead
from mmadclr.models.heads.dino_head import DINOHead, IBOTHead
from mmadclr.models.heads.linear_sweep_head import LinearSweepHead

__all__ = ['ClassAttentionHead', 'DINOHead', 'IBOTHead', 'LinearSweepHead']
