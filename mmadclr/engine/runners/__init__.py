from mmadclr.engine.runners.epoch_loop import ResumableEpochLoop
from mmadclr.engine.runners.runner import Runner

__all__ = ['ResumableEpochLoop', 'Runner']
