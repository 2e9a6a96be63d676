"""ADCLR, ViT-S/16, on any folder of images, without labels and hence without k-NN: 96-pixel views, 200 epochs.

    mmadclr train adclr/vits16_folder --data /path/to/my/images

The recipe of ``vits16_small.py``, made for thousands of images. Not yet run by us to the end.
"""

_base_ = ['./vits16_small.py']

train_dataloader = dict(dataset=dict(data_root='data/images'))
val_dataloader = None
val_cfg = None
val_evaluator = None
