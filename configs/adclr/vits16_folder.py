"""ADCLR, ViT-S/16, for any folder of images without labels, hence without k-NN: 96-pixel views, 200 epochs.

    mmadclr train adclr/vits16_folder --data /path/to/my/images

Same recipe as ``vits16_small.py``, for thousands of images. We have not yet completed a run.
"""

_base_ = ['./vits16_small.py']

train_dataloader = dict(dataset=dict(data_root='data/images'))
val_dataloader = None
val_cfg = None
val_evaluator = None
