"""SelfPatch with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/selfpatch_vittiny_shapes.py

Same as ``dino_vittiny_shapes.py``, plus two blocks of class attention and a second head. Views have 4 x 4 and 2 x 2 patches,
so neighborhoods do not wrap around the edges: otherwise all patches of a local view would be neighbors.
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
