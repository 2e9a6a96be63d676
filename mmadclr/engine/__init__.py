from mmadclr.engine import hooks, optimizers, trackers
from mmadclr.engine.runners import Runner

__all__ = ['Runner', 'hooks', 'optimizers', 'trackers']
