from mmadclr.visualization.figures import draw_attention, draw_crops, draw_curves

__all__ = ['draw_attention', 'draw_crops', 'draw_curves']
