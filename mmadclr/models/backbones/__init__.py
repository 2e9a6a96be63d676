from mmadclr.models.backbones.query_vit import QueryViT

__all__ = ['QueryViT']
