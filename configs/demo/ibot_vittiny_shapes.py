"""iBOT with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/ibot_vittiny_shapes.py

Same as ``dino_vittiny_shapes.py``, plus masks over the 4 x 4 patches.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/shapes.py',
    '../_base_/models/dino_vittiny.py',
    '../_base_/schedules/demo_50e.py',
]

model = dict(type='IBOT', loss_patch=dict(student_temp=0.1, center_momentum=0.9))
mask = dict(type='BlockMasking', patch_size=8, ratio=(0.0, 0.3), spread=(0.0, 0.2))
train_dataloader = dict(dataset=dict(transform=dict(mask=mask)))
