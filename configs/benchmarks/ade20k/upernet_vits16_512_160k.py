"""UperNet, ViT-S/16, ADE20K, 160k iterations: iBOT's protocol, with the overrides of its README.

    tools/dist_train.sh configs/benchmarks/ade20k/upernet_vits16_512_160k.py 4 --cfg-options pretrained=PATH

4 GPUs x 4 images, AdamW 3e-5, layer decay .9, final norm on all feature maps, sliding windows of 512 with stride 341.
Sources: bytedance/ibot, ``evaluation/semantic_segmentation/configs/upernet/vit_small_512_ade20k_160k_ms.py`` (with one scale
in the test) and ``evaluation/README.md``. Reported by others, mIoU: iBOT 45.4, SelfPatch 43.2, DINO 42.3 (the last two from
SelfPatch's README). Not yet run by us.
"""

_base_ = [
    '../../_base_/models/upernet_vits16.py',
    '../../_base_/datasets/ade20k_512.py',
    '../../_base_/schedules/poly_160k.py',
    '../../_base_/segmentation_runtime.py',
]

optim_wrapper = dict(constructor='mmadclr.LayerDecayOptimConstructor', paramwise_cfg=dict(decay_rate=0.9))
auto_scale_lr = dict(enable=True, base_batch_size=16)
randomness = dict(diff_rank_seed=True)  # drop path differs between processes
