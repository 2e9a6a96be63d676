from mmadclr.hub.opening import OpenedBackbone, open_backbone
from mmadclr.hub.pretrained import Pretrained

__all__ = ['OpenedBackbone', 'Pretrained', 'open_backbone']
