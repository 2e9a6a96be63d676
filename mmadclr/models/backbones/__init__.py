from mmadclr.models.backbones.dense_vit import DenseViT
from mmadclr.models.backbones.query_block import TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT, ViTOutput

__all__ = ['DenseViT', 'QueryViT', 'TokenLayout', 'ViTOutput']
