from mmadclr.models.backbones.dense_vit import DenseViT
from mmadclr.models.backbones.query_vit import QueryViT, TokenLayout, ViTOutput

__all__ = ['DenseViT', 'QueryViT', 'TokenLayout', 'ViTOutput']
