"""DINO that continues from public weights on a folder of images, with an anchor to the weights.

    mmadclr adapt --weights PATH --data my_images --method dino

That command chooses sizes, batch and length. Every number is a starting point, not measured: docs/adapt.md.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/adapt_images.py',
    '../_base_/models/adapt_dino.py',
    '../_base_/schedules/adapt.py',
]
