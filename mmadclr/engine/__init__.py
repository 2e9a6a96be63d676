from mmadclr.engine import hooks, optimizers
from mmadclr.engine.runners import Runner

__all__ = ['Runner', 'hooks', 'optimizers']
