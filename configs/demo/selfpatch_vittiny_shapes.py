"""SelfPatch with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/selfpatch_vittiny_shapes.py

The twin of ``dino_vittiny_shapes.py``; two more blocks of class attention and a second head. Its views have 4 x 4 and 2 x 2
patches, so opposite edges do not count as neighbors: with them, every patch of a local view would be one of any other.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/shapes.py',
    '../_base_/models/dino_vittiny.py',
    '../_base_/schedules/demo_50e.py',
]

model = dict(
    type='SelfPatch',
    class_attention=dict(wrap=False, init='xavier'),
    patch_head=dict(out_dim=64),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
