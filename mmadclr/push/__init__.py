from mmadclr.push.push import FORMATS, Push, Sharing, push_backbone

__all__ = ['FORMATS', 'Push', 'Sharing', 'push_backbone']
