from mmadclr.checkpoint.backbone import LoadReport, load_backbone
from mmadclr.checkpoint.loading import check_state_dict
from mmadclr.checkpoint.reading import read_checkpoint

__all__ = ['LoadReport', 'check_state_dict', 'load_backbone', 'read_checkpoint']
