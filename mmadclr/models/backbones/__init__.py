from mmadclr.models.backbones.classifier_vit import ClassifierViT
from mmadclr.models.backbones.dense_vit import DenseViT
from mmadclr.models.backbones.position_query_vit import PositionQueryViT
from mmadclr.models.backbones.query_block import TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT, ViTOutput

__all__ = ['ClassifierViT', 'DenseViT', 'PositionQueryViT', 'QueryViT', 'TokenLayout', 'ViTOutput']
