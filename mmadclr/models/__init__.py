from mmadclr.models.backbones import DenseViT, QueryViT
from mmadclr.models.heads import ClassAttentionHead, DINOHead, IBOTHead
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.necks import ViTPyramid
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.models.selfsup import ADCLR, DINO, IBOT, SelfPatch

__all__ = [
    'ADCLR',
    'DINO',
    'IBOT',
    'ClassAttentionHead',
    'DINOHead',
    'DenseViT',
    'IBOTHead',
    'QueryViT',
    'SelfDistillationLoss',
    'SelfPatch',
    'ViTPyramid',
    'ViewPreprocessor',
]
