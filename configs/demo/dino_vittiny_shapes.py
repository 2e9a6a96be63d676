"""DINO with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/dino_vittiny_shapes.py

With few prototypes, a low teacher temperature and momentum, and Xavier initialization, such a small model leaves the
plateau at loss = ln K within a few hundred steps.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/shapes.py',
    '../_base_/models/dino_vittiny.py',
    '../_base_/schedules/demo_50e.py',
]
