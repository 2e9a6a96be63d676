from mmadclr.models.backbones import QueryViT
from mmadclr.models.heads import DINOHead
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.models.selfsup import ADCLR, DINO

__all__ = ['ADCLR', 'DINO', 'DINOHead', 'QueryViT', 'SelfDistillationLoss', 'ViewPreprocessor']
