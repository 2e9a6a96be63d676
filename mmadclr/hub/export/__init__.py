from mmadclr.hub.export.card import CardText
from mmadclr.hub.export.folder import FORMATS, export_backbone

__all__ = ['FORMATS', 'CardText', 'export_backbone']
