"""Choices of arguments, copied from the modules that use them: those import torch, which would delay ``--help``.

``tests/cli/test_choices.py`` compares the copies with the originals.
"""

from __future__ import annotations

WHICH = ('teacher', 'student')  # checkpoint.networks
LAYOUTS = ('mmadclr', 'timm', 'dino', 'mmpretrain', 'mmseg', 'safetensors')  # hub.conversion
FORMATS = ('timm', 'safetensors', 'onnx', 'torchscript', 'hf')  # hub.export
HUB_FORMATS = ('timm', 'hf')  # push
BACKENDS = ('fast', 'pillow')  # datasets.center_crop
PRECISIONS = ('fp32', 'bf16')  # precision
FEATURES = ('cls', 'cls4', 'cls+mean', 'mean')  # evaluation.extractor
SHOWN = ('attention', 'pca', 'neighbors', 'correspondence', 'queries', 'segmentation')  # show.plots
DTYPES = ('float16', 'float32')  # evaluation.extraction
ADAPT_METHODS = ('adclr', 'dino', 'ibot')  # configs/adapt
BENCHMARKS = (  # datasets.benchmarks
    *('voc', 'voc_train', 'ade20k', 'ade20k_151', 'cityscapes', 'coco_stuff', 'coco_thing', 'coco_objects'),
    *('davis', 'spair', 'voc07', 'voc12', 'coco20k', 'folder'),
)
PROTOCOLS = (  # evaluation.suite.settings
    *('hummingbird', 'patch-knn', 'patch-logistic', 'linear', 'linear-dinov2', 'linear-dinov3', 'linear-ibot'),
    *('cluster', 'overcluster', 'attention'),
    *('davis', 'spair', 'lost', 'tokencut', 'dino-seg'),
)
