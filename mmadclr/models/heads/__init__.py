from mmadclr.models.heads.dino_head import DINOHead

__all__ = ['DINOHead']
