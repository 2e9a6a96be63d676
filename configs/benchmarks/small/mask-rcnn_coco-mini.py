"""Mask R-CNN on a few COCO photographs with the 12 supercategories, over ``configs/adclr/vitmini8_small.py``'s network.

    python tools/train.py configs/benchmarks/small/mask-rcnn_coco-mini.py --cfg-options pretrained=PATH data_root=DIR

Made for 90 + 35 images of at most 352 pixels in COCO's layout (data/coco_mini: train/, val/, annotations/), enough to try a
pipeline on photographs, not to learn from. Measured: see docs/results.md.
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
