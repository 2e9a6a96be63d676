from mmadclr.checkpoint.loading import check_state_dict, load_strictly

__all__ = ['check_state_dict', 'load_strictly']
