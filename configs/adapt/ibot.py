"""iBOT that continues from public weights on a folder of images, with an anchor to the weights.

    mmadclr adapt --weights PATH --data my_images --method ibot

The student sees masked patches only if the mask token of the weights was trained (``mask_student``): in published distilled
models it is zero. That command decides it, and chooses sizes, batch and length. Every number is a starting point, not
measured: docs/adapt.md.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/adapt_images.py',
    '../_base_/models/adapt_dino.py',
    '../_base_/schedules/adapt.py',
]

model = dict(type='IBOT', mask_student=False, loss_patch=dict(student_temp=0.1, center_momentum=0.9))
mask = dict(type='BlockMasking', patch_size=14, ratio=(0.0, 0.3), spread=(0.0, 0.2))
train_dataloader = dict(dataset=dict(transform=dict(mask=mask)))
