from mmadclr.models.backbones import DenseViT, PositionQueryViT, QueryViT
from mmadclr.models.heads import ClassAttentionHead, DINOHead, IBOTHead, MLPHead
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.necks import ViTPyramid
from mmadclr.models.preprocessors import QueryBoxPreprocessor, ViewPreprocessor
from mmadclr.models.selfsup import ADCLR, DINO, IBOT, PQCL, MoCoV3, QueryIBOT, SelfPatch

__all__ = [
    'ADCLR',
    'DINO',
    'IBOT',
    'PQCL',
    'ClassAttentionHead',
    'DINOHead',
    'DenseViT',
    'IBOTHead',
    'MLPHead',
    'MoCoV3',
    'PositionQueryViT',
    'QueryBoxPreprocessor',
    'QueryIBOT',
    'QueryViT',
    'SelfDistillationLoss',
    'SelfPatch',
    'ViTPyramid',
    'ViewPreprocessor',
]
