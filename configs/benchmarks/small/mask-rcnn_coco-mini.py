"""Mask R-CNN on a few COCO photographs, 12 supercategories, with the network of ``configs/adclr/vitmini8_small.py``.

    python tools/train.py configs/benchmarks/small/mask-rcnn_coco-mini.py --cfg-options pretrained=PATH data_root=DIR

For 90 + 35 images of at most 352 pixels in COCO's layout (data/coco_mini: train/, val/, annotations/). That is enough to
test a pipeline on photographs, but not to train a useful model. Measurements: docs/results.md.
"""

_base_ = ['./mask-rcnn_nuclei.py']

classes = (
    'person',
    'vehicle',
    'outdoor',
    'animal',
    'accessory',
    'sports',
    'kitchen',
    'food',
    'furniture',
    'electronic',
    'appliance',
    'indoor',
)
model = dict(roi_head=dict(bbox_head=dict(num_classes=12), mask_head=dict(num_classes=12)))
train_dataloader = dict(dataset=dict(data_root='data/coco_mini', metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(data_root='data/coco_mini', metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/coco_mini/annotations/instances_val.json')
test_evaluator = val_evaluator
