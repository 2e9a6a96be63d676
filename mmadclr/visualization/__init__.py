from mmadclr.visualization.figures import attention_maps, draw_attention, draw_crops, draw_curves

__all__ = ['attention_maps', 'draw_attention', 'draw_crops', 'draw_curves']
