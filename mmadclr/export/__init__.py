from mmadclr.export.card import CardText
from mmadclr.export.folder import FORMATS, export_backbone

__all__ = ['FORMATS', 'CardText', 'export_backbone']
