from mmadclr.models.necks.vit_pyramid import ViTPyramid

__all__ = ['ViTPyramid']
