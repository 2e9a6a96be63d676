from mmadclr.models.backbones import DenseViT, QueryViT
from mmadclr.models.heads import DINOHead
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.necks import ViTPyramid
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.models.selfsup import ADCLR, DINO

__all__ = ['ADCLR', 'DINO', 'DINOHead', 'DenseViT', 'QueryViT', 'SelfDistillationLoss', 'ViTPyramid', 'ViewPreprocessor']
