"""What arguments may be, as the modules have it that read them: those import torch, and help should not wait for it.

``tests/cli/test_choices.py`` compares them.
"""

from __future__ import annotations

WHICH = ('teacher', 'student')  # checkpoint.networks
LAYOUTS = ('mmadclr', 'timm', 'dino', 'mmpretrain', 'mmseg', 'safetensors')  # hub.conversion
FORMATS = ('timm', 'safetensors', 'onnx', 'torchscript', 'hf')  # hub.export
BACKENDS = ('fast', 'pillow')  # datasets.center_crop
PRECISIONS = ('fp32', 'bf16')  # precision
FEATURES = ('cls', 'cls4', 'cls+mean', 'mean')  # evaluation.extractor
DTYPES = ('float16', 'float32')  # evaluation.extraction
