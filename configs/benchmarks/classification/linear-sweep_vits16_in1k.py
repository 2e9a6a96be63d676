"""Linear classification, ViT-S/16, ImageNet-1k: 45 learning rates in one run, as in iBOT.

    tools/dist_train.sh configs/benchmarks/classification/linear-sweep_vits16_in1k.py 8 --cfg-options pretrained=PATH

Rates are per 256 images: bytedance/ibot, ``evaluation/eval_linear_multi.py`` and ``run.sh``. ``linear_top1`` is the
validation accuracy at the rate that is best on 1 % of the training images, which are held out of training.
``linear_top1_best_on_val`` is the best accuracy of all rates on the validation images, as iBOT reports it. It is optimistic
because the rate is chosen on the validation images. Top-1 reported by others: ADCLR 77.5 (its paper), iBOT 77.9 (best on
val). Not yet run by us.
"""

_base_ = ['./linear_vits16_in1k.py']

held_out_fraction = 0.01
held_out = dict(split='train', part='held_out', held_out_fraction=held_out_fraction)
model = dict(
    head=dict(
        _delete_=True,
        type='mmadclr.LinearSweepHead',
        num_classes=1000,
        in_channels=4 * 384,
        learning_rates=[float(f'{digit}e{power}') for power in range(-4, 1) for digit in range(1, 10)],
    )
)
train_dataloader = dict(dataset=dict(part='train', held_out_fraction=held_out_fraction))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', momentum=0.9, weight_decay=0.0),
    constructor='mmadclr.LinearSweepOptimConstructor',
)
val_cfg = dict(type='mmadclr.LinearSweepLoop', held_out=held_out)
test_cfg = dict(type='mmadclr.LinearSweepLoop', held_out=held_out, stage='test')
val_evaluator = dict(_delete_=True, type='mmadclr.SweepAccuracy')
test_evaluator = val_evaluator
