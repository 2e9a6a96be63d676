"""In bf16, features of detectors are computed in bf16, and everything with coordinates in fp32, to the digit."""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from places import REPO
from torch import nn

from mmadclr.engine.optimizers.wrappers import AutocastOptimWrapper

pytestmark = pytest.mark.dense
CHANNELS, SIZE, STRIDES = 16, (800, 1344), (4, 8, 16, 32, 64)
# Coordinates of which bf16 holds none, half of them beyond 1024 at the right.
BOXES = torch.tensor([[1001.7, 601.3, 1021.9, 622.2], [1100.3, 101.1, 1290.1, 421.7], [333.3, 222.2, 444.4, 555.5]])
ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=16)
RETINANET = dict(
    type='RetinaNet',
    backbone=dict(type='mmadclr.DenseViT', arch=ARCH, img_size=32, out_indices=(1,)),
    neck=None,
    bbox_head=dict(
        type='RetinaHead',
        num_classes=3,
        in_channels=CHANNELS,
        feat_channels=CHANNELS,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss'),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    ),
)


class Maps(nn.Module):
    """In place of backbone and neck: maps that bf16 holds exactly, through a layer that changes their dtype alone."""

    def __init__(self):
        super().__init__()
        shapes = [(1, CHANNELS, *(-(-side // stride) for side in SIZE)) for stride in STRIDES]
        self.maps = [torch.randn(shape).bfloat16().float() for shape in shapes]
        self.layer = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        nn.init.dirac_(self.layer.weight)

    def forward(self, images):
        return tuple(self.layer(x) for x in self.maps)


def build(cfg: dict, package: str = 'mmdet') -> nn.Module:
    importlib.import_module('mmadclr.ops')
    registry = importlib.import_module(f'{package}.registry')
    importlib.import_module(f'{package}.models')
    with DefaultScope.overwrite_default_scope(package):
        return revert_sync_batchnorm(registry.MODELS.build(cfg))


def narrowed(node):
    """256 and 1024 channels become ``CHANNELS``."""
    if isinstance(node, dict):
        return {key: narrowed(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [narrowed(value) for value in node]
    return CHANNELS if isinstance(node, int) and node in (256, 1024) else node


def over_maps(name: str) -> nn.Module:
    """A detector of our configs, or RetinaNet, over the maps of an image of 800 x 1344."""
    if name == 'retinanet':
        detector = build(Config(RETINANET).copy())
    else:
        cfg = Config.fromfile(REPO / f'configs/benchmarks/coco/{name}_vits16_fpn_1x.py').model
        sampled = cfg.train_cfg.rcnn if isinstance(cfg.train_cfg.rcnn, list) else [cfg.train_cfg.rcnn]
        for stage in sampled:
            stage.sampler.num = 64
        cfg.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
        cfg.backbone.update(arch=ARCH, img_size=32, out_indices=(0, 0, 1, 1))
        cfg.neck[0].embed_dim, cfg.neck[1].in_channels = 24, [24] * 4
        detector = build(Config(narrowed(cfg.to_dict())))
    detector.backbone, detector.neck = Maps(), None
    return detector


def mini(task: str, package: str) -> nn.Module:
    return build(Config.fromfile(REPO / f'configs/benchmarks/demo/{task}_shapes.py').model, package)


def sample(boxes, size):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    masks = np.zeros((len(boxes), *size), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    instances = InstanceData(bboxes=boxes.clone(), labels=torch.arange(len(boxes)), masks=BitmapMasks(masks, *size))
    metainfo = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    return DetDataSample(metainfo=metainfo, gt_instances=instances)


def wrapper(model, precision='bf16', **kwargs):
    return AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01), precision, **kwargs)


def spy(monkeypatch, owner, name, note):
    """Tells ``note`` of arguments and result of every call."""
    original = getattr(owner, name)

    def spied(*args, **kwargs):
        result = original(*args, **kwargs)
        note(args, result)
        return result

    monkeypatch.setattr(owner, name, spied)


def watch(monkeypatch, detector) -> dict[str, list]:
    """Tensors that stand for or depend on coordinates, as a step makes them: of the dense head and of every RoI stage."""
    seen = defaultdict(list)
    two_stage = hasattr(detector, 'roi_head')
    head = detector.rpn_head if two_stage else detector.bbox_head
    spy(monkeypatch, head.prior_generator, 'grid_priors', lambda args, priors: seen['anchors'].extend(priors))
    spy(monkeypatch, head, 'forward', lambda args, outputs: seen['maps'].extend(args[0]))
    spy(monkeypatch, head, 'loss_by_feat', lambda args, losses: seen['deltas'].extend(args[1]))
    if two_stage:
        spy(monkeypatch, head, 'predict_by_feat', lambda args, found: seen['proposals'].extend(x.bboxes for x in found))
        for kind in ('bbox', 'mask'):
            extractors = getattr(detector.roi_head, f'{kind}_roi_extractor')
            for stage, extractor in enumerate(extractors if isinstance(extractors, nn.ModuleList) else [extractors]):
                watch_extractor(monkeypatch, extractor, seen, f'{kind} rois {stage}')
    return seen


def watch_extractor(monkeypatch, extractor, seen, name):
    spy(monkeypatch, extractor, 'forward', lambda args, result: seen[name].append(args[1]))
    for layer in extractor.roi_layers:
        spy(monkeypatch, layer, 'forward', lambda args, result: seen[f'{name}, aligned'].append(args[1]))
        spy(monkeypatch, layer, 'forward', lambda args, result: seen['maps of RoIAlign'].append(args[0]))


def step(detector, precision, boxes=BOXES, size=SIZE):
    """Losses of one image, by name and number; the samplers draw the same for all."""
    torch.manual_seed(0)
    with wrapper(detector, precision).optim_context(detector):
        losses = detector(torch.ones(1, 3, *size), [sample(boxes, size)], mode='loss')
    listed = {name: value if isinstance(value, list) else [value] for name, value in losses.items()}
    return {f'{name}.{i}': value for name, values in listed.items() for i, value in enumerate(values)}


STAGES = {'mask-rcnn': 1, 'cascade-mask-rcnn': 3, 'retinanet': 0}


@pytest.mark.parametrize('name', STAGES)
def test_coordinates_and_losses_are_those_of_fp32(name, monkeypatch):
    detector = over_maps(name)
    seen = watch(monkeypatch, detector)
    losses, tensors = {}, {}
    for precision in ('fp32', 'bf16'):
        seen.clear()
        losses[precision] = step(detector, precision)
        tensors[precision] = dict(seen)
    rois = [f'{kind} rois {stage}' for kind in ('bbox', 'mask') for stage in range(STAGES[name])]
    expected = {'anchors', 'maps', 'deltas', *rois, *(f'{roi}, aligned' for roi in rois)}
    assert tensors['bf16'].keys() == expected | ({'proposals', 'maps of RoIAlign'} if rois else set())
    for key, found in tensors['bf16'].items():
        assert {x.dtype for x in found} == {torch.float32}, key
        for x, want in zip(found, tensors['fp32'][key], strict=True):
            torch.testing.assert_close(x, want, rtol=0, atol=1e-3, msg=lambda text, key=key: f'{key}: {text}')
    for roi in rois[:1]:  # the true boxes are among the RoIs of the first stage
        distances = torch.cdist(BOXES, torch.cat(tensors['bf16'][f'{roi}, aligned'])[:, 1:], p=float('inf'))
        assert distances.min(dim=1).values.max() < 1e-3
    torch.testing.assert_close(losses['bf16'], losses['fp32'], rtol=1e-6, atol=0)


def dtypes_of_layers(modules, kinds=(nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) -> set[torch.dtype]:
    """Collects in the set the dtypes of what the layers return."""
    found = set()
    for module in (layer for root in modules for layer in root.modules() if isinstance(layer, kinds)):
        module.register_forward_hook(lambda module, args, output: found.add(output.dtype))
    return found


SMALL, SMALL_BOXES = (96, 96), torch.tensor([[10.3, 12.4, 40.6, 50.7], [50.1, 40.2, 90.3, 77.7]])


def test_the_backbone_runs_in_bf16_and_learns_from_heads_in_fp32():
    detector = mini('mask-rcnn', 'mmdet')
    features = dtypes_of_layers([detector.backbone, detector.neck])
    linears = dtypes_of_layers([detector.backbone], nn.Linear)
    heads = dtypes_of_layers([detector.rpn_head, detector.roi_head])
    gradients = {}
    for precision, dtype in (('fp32', torch.float32), ('bf16', torch.bfloat16)):
        for found in (features, linears, heads):
            found.clear()
        losses = step(detector, precision, SMALL_BOXES, SMALL)
        assert (features, linears, heads) == ({dtype}, {dtype}, {torch.float32})
        # Of the anchors alone: proposals may change their order when scores are rounded.
        total = sum(value for name, value in losses.items() if name.startswith('loss_rpn'))
        parameters = [p for module in (detector.backbone, detector.neck) for p in module.parameters() if p.requires_grad]
        gradients[precision] = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
    error = (gradients['bf16'] - gradients['fp32']).norm() / gradients['fp32'].norm()
    assert 1e-5 < error < 0.1


def test_segmentors_and_their_heads_run_in_bf16():
    segmentor = mini('upernet', 'mmseg')
    importlib.import_module('mmdet.models')
    decode_head = dtypes_of_layers([segmentor.decode_head])
    with wrapper(segmentor).optim_context(segmentor):
        assert 'extract_feat' not in vars(segmentor)
        assert segmentor(torch.ones(2, 3, 64, 64), mode='tensor').dtype is torch.bfloat16
    assert decode_head == {torch.bfloat16}


def is_untouched(detector) -> bool:
    return 'extract_feat' not in vars(detector) and detector.extract_feat.__func__ is type(detector).extract_feat


def dtypes_of_features(detector) -> tuple[set, set]:
    """Of the last convolution before the maps, and of the maps."""
    inside = dtypes_of_layers([detector.backbone])
    return inside, {x.dtype for x in detector.extract_feat(torch.ones(1, 3, *SIZE))}


@pytest.fixture
def retinanet():
    return over_maps('retinanet')


BF16, FP32 = ({torch.bfloat16}, {torch.float32}), ({torch.float32}, {torch.float32})


def test_the_method_is_back_after_steps_nested_steps_and_exceptions(retinanet):
    optim_wrapper = wrapper(retinanet)
    with optim_wrapper.optim_context(retinanet):
        with optim_wrapper.optim_context(retinanet):
            assert dtypes_of_features(retinanet) == BF16
        assert not is_untouched(retinanet)
        assert dtypes_of_features(retinanet) == BF16
        assert not torch.is_autocast_enabled('cpu')
    assert is_untouched(retinanet)
    retinanet.backbone.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError), optim_wrapper.optim_context(retinanet):
        retinanet.extract_feat(torch.ones(1, 3, *SIZE))
    assert is_untouched(retinanet)
    assert not torch.is_autocast_enabled('cpu')


def test_a_method_of_the_instance_and_nested_maps_are_kept(retinanet):
    """Whatever ``extract_feat`` returns keeps its form; what is no map of low precision, its dtype."""
    counts = torch.arange(2)
    own = retinanet.extract_feat = lambda images: dict(maps=[retinanet.backbone(images)[0]], counts=counts, exact=images)
    images = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    with wrapper(retinanet).optim_context(retinanet):
        found = retinanet.extract_feat(images)
    assert retinanet.extract_feat is own
    assert found['counts'] is counts
    assert found['exact'] is images
    torch.testing.assert_close(found['maps'], retinanet.backbone.maps[:1], rtol=0, atol=0)


def test_tests_between_steps_and_steps_in_fp32_know_no_autocast(retinanet):
    with wrapper(retinanet, 'bf16').optim_context(retinanet):
        pass
    assert dtypes_of_features(retinanet) == FP32
    with wrapper(retinanet, 'fp32').optim_context(retinanet):
        assert is_untouched(retinanet)
        assert dtypes_of_features(retinanet) == FP32


def test_detectors_inside_other_models_keep_their_heads_in_fp32(retinanet):
    """Trackers and semi-supervised detectors of mmdet hold detectors and call their heads."""
    outer = nn.ModuleDict(dict(detector=retinanet, other=nn.Linear(2, 2)))
    with wrapper(outer).optim_context(outer):
        assert dtypes_of_features(retinanet) == BF16
        assert not torch.is_autocast_enabled('cpu')
    assert is_untouched(retinanet)


def test_mmdet_is_not_imported_to_find_detectors(monkeypatch):
    for name in [name for name in sys.modules if name.split('.')[0] == 'mmdet']:
        monkeypatch.delitem(sys.modules, name)
    model = nn.Linear(3, 2)
    with wrapper(model).optim_context(model):
        assert model(torch.ones(1, 3)).dtype is torch.bfloat16
    assert not [name for name in sys.modules if name.split('.')[0] == 'mmdet']


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_training_with_accumulated_batches_is_the_plain_one(alone):
    weights, state = [], None
    for distributed in (False, True):
        torch.manual_seed(0)
        detector = mini('mask-rcnn', 'mmdet')
        state = state or {name: tensor.clone() for name, tensor in detector.state_dict().items()}
        detector.load_state_dict(state)
        layers = [
            dtypes_of_layers([part]) for part in (detector.backbone, detector.neck, detector.rpn_head, detector.roi_head)
        ]
        model = MMDistributedDataParallel(detector) if distributed else detector
        optim_wrapper = wrapper(model, accumulative_counts=2)
        optim_wrapper.initialize_count_status(model, 0, 2)
        for _ in range(2):
            data = dict(inputs=[torch.ones(3, *SMALL, dtype=torch.uint8)], data_samples=[sample(SMALL_BOXES, SMALL)])
            model.train_step(data, optim_wrapper)
            assert is_untouched(detector)
        assert layers == [{torch.bfloat16}] * 2 + [{torch.float32}] * 2
        weights.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    assert not torch.equal(weights[0]['neck.1.fpn_convs.0.conv.weight'], state['neck.1.fpn_convs.0.conv.weight'])
    torch.testing.assert_close(weights[1], weights[0])
