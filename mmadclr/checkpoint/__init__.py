from mmadclr.checkpoint.loading import check_state_dict
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.weights import LoadReport, load_weights

__all__ = ['LoadReport', 'check_state_dict', 'load_weights', 'read_checkpoint']
