from mmadclr.engine.optimizers.constructors import LayerDecayOptimConstructor, SelfDistillationOptimConstructor
from mmadclr.engine.optimizers.wrappers import AutocastOptimWrapper, SelfDistillationOptimWrapper

__all__ = [
    'AutocastOptimWrapper',
    'LayerDecayOptimConstructor',
    'SelfDistillationOptimConstructor',
    'SelfDistillationOptimWrapper',
]
