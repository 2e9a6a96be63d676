"""Fine-tuning, ViT-S/16, ImageNet-1k: BEiT's recipe with iBOT's settings, from [CLS], 200 epochs.

    tools/dist_train.sh configs/benchmarks/classification/finetune_vits16_in1k.py 8 --cfg-options pretrained=PATH

8 GPUs x 128 images, AdamW, layer decay .75, drop path .1. Sources: bytedance/ibot, ``evaluation/README.md``, ``run.sh`` and
``evaluation/classification_layer_decay/run_class_finetuning.py``. The published learning rate was chosen from 8e-4, 9e-4,
1e-3 and 2e-3 for a batch of 1024. Our default is 1e-3; ``optim_wrapper.optimizer.lr`` changes it. We know of no number for
ADCLR with ViT-S. Reported by others: iBOT 82.3. Not yet run by us.

With these options, averaged weights (momentum 1e-4) are evaluated and saved instead of the last ones. Use the same options
for testing:

    --cfg-options default_hooks.ema.type=EMAHook default_hooks.ema.momentum=1e-4
"""

_base_ = [
    '../../_base_/models/classifier_vits16.py',
    '../../_base_/datasets/imagenet_finetune.py',
    '../../_base_/schedules/finetune_200e.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    data_preprocessor=dict(num_classes=1000),
    backbone=dict(drop_path_rate=0.1),
    head=dict(
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        # Truncated N(0, .02), multiplied by .001, the scale in the recipe.
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5, bias=0.0),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
