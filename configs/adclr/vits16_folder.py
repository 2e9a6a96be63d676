"""ADCLR, ViT-S/16, on any folder of images below data/images, without labels and hence without k-NN.

    python tools/train.py configs/adclr/vits16_folder.py \\
        --cfg-options train_dataloader.dataset.data_root=/path/to/my/jpegs

The recipe of ``vits16_small.py``, made for thousands of images. Not yet run by us to the end.
"""

_base_ = ['./vits16_small.py']

train_dataloader = dict(dataset=dict(data_root='data/images'))
val_dataloader = None
val_cfg = None
val_evaluator = None
