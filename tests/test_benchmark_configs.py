"""Every benchmark config is built at reduced size, trains for one optimizer step and predicts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from PIL import Image
from places import REPO

from mmadclr.config.loading import spell_out
from mmadclr.datasets.scenes import write_scenes
from mmadclr.datasets.shapes import write_shapes
from mmadclr.engine import Runner
from mmadclr.models.backbones import QueryViT
from mmadclr.models.backbones.query_vit import resolve_arch

pytestmark = pytest.mark.dense
FOLDER = REPO / 'configs' / 'benchmarks'
# Those of classifiers are in test_classification_configs.py.
CONFIGS = sorted({*FOLDER.rglob('*.py')} - {*FOLDER.glob('classification/*.py'), *FOLDER.glob('small/*_photos.py')})
WIDTH = 24


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=10, num_val=10)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('data') / 'scenes', num_train=10, num_val=10)


@pytest.fixture(scope='module')
def data_roots(shapes, scenes, tmp_path_factory):
    """Folders by the type of the data set, in the layouts the configs expect."""
    root = tmp_path_factory.mktemp('miniatures')
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
            (root / folder / split).mkdir(parents=True)
            for number in range(2):
                size = (64, 64, 3) if folder == 'images' else (64, 64)
                pixels = rng.integers(0, 5, size, dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / split / f'{number}.{suffix}')
    return {
        'ADE20KDataset': root,
        'BaseSegDataset': root,
        'mmadclr.ScenesDetection': scenes,
        'mmadclr.ShapesSegmentation': shapes,
        'CocoDataset': scenes,
    }


def coco_miniature(scenes, root, names):
    """The generated objects in COCO's layout under other category names, with ids that do not start at 1."""
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        content = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
        content['categories'] = [dict(id=number + 5, name=name) for number, name in enumerate(names)]
        for annotation in content['annotations']:
            annotation['category_id'] = annotation['category_id'] % len(names) + 5
        for suffix in ('2017', ''):  # COCO's own file names, and plain ones
            (root / 'annotations' / f'instances_{split}{suffix}.json').write_text(json.dumps(content))
            (root / f'{split}{suffix}').symlink_to(scenes / split)
    return root


def coco_classes():
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO['classes']


def narrowed(node, width):
    """The backbone's width, also that of its four taps together, becomes ``WIDTH``; pyramids and heads shrink with it."""
    if isinstance(node, dict):
        return ConfigDict({key: narrowed(value, width) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(narrowed(value, width) for value in node)
    if isinstance(node, int) and not isinstance(node, bool):
        return {width: WIDTH, 4 * width: 4 * WIDTH, 256: 16, 1024: 16}.get(node, node)
    return node


def shrink_pipeline(node):
    for step in node:
        for key, value in {'scales': [(64, 64)], 'scale': (64, 64), 'crop_size': (32, 32)}.items():
            if key in step:
                step[key] = value
        if step.get('type') == 'RandomCrop' and 'crop_type' in step:
            step.crop_size = (32, 48)
        for branch in step.get('transforms', []):
            shrink_pipeline(branch)


def reduced(path, data_roots, work_dir):
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone
    sizes = resolve_arch(dict(backbone.arch) if isinstance(backbone.arch, dict) else backbone.arch)
    cfg.model = narrowed(cfg.model, sizes['embed_dim'])
    cfg.model.backbone.arch = {**sizes, 'embed_dim': WIDTH}
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (32, 32)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(crop_size=(32, 32), stride=(21, 21))
    else:
        cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 8
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    cfg.model.backbone.drop_path_rate = 0.0  # a branch that every sample of a batch of two drops gets no gradient
    # A grid that differs from pretraining's where it does in the full config.
    cfg.model.backbone.img_size = 32 if backbone.img_size in (32, 48, 224) else 64
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg[name]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.indices = 2
        if loader.dataset.type.startswith('mmadclr.'):
            loader.dataset.update(num_train=10, num_val=10)
        shrink_pipeline(loader.dataset.pipeline)
    kind = cfg.train_dataloader.dataset.type
    root = data_roots[kind]
    if kind == 'CocoDataset':
        names = (cfg.train_dataloader.dataset.get('metainfo') or dict(classes=coco_classes()))['classes']
        root = coco_miniature(root, work_dir / 'coco', names)
    cfg.merge_from_dict(spell_out(cfg, dict(data_root=str(root))))
    for scheduler in cfg.param_scheduler:
        if 'start_factor' in scheduler:
            scheduler.start_factor = 1.0
    cfg.train_cfg.val_interval = 1
    cfg.train_cfg['max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'] = 1
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.name}_{path.stem}'
    return cfg


def pretrained_file(cfg, folder):
    """A checkpoint of our pretraining for the backbone of the config, with the heads of pretraining."""
    arch = {**cfg.model.backbone.arch}
    if 'num_heads' in cfg.model.backbone.init_cfg.get('allow', ()):
        arch['num_heads'] = 6
    model = QueryViT(arch, img_size=2 * arch['patch_size'], init='xavier')
    heads = {f'teacher.backbone.blocks.{i}.attn': arch['num_heads'] for i in range(arch['depth'])}
    state = {f'teacher.backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    torch.save({'state_dict': state, 'meta': {'architecture': heads}}, folder / 'pretrained.pth')
    return model.state_dict(), folder / 'pretrained.pth'


@pytest.mark.long
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_config_loads_trains_and_predicts(path, data_roots, tmp_path):
    cfg = reduced(path, data_roots, tmp_path)
    weights, file = pretrained_file(cfg, tmp_path)
    cfg.merge_from_dict(spell_out(cfg, dict(pretrained=str(file))))
    runner = Runner.from_cfg(cfg)
    backbone = runner.model.backbone
    loaded = {}
    runner.register_hook(recorder(loaded, backbone))
    runner.train()
    for name, tensor in loaded.items():
        if name != 'pos_embed':
            torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0, msg=name)
    for name, parameter in backbone.named_parameters():
        assert torch.equal(parameter, loaded[name]) != parameter.requires_grad, name
    if cfg.default_scope == 'mmdet':
        names, limit = ('coco/bbox_mAP', 'coco/segm_mAP'), 1
    else:
        names, limit = ('mIoU', 'mAcc', 'aAcc'), 100
    for name in names:
        value = runner.message_hub.get_scalar(f'val/{name}').current()
        assert -1 <= value <= limit, name  # COCO's "no such object" is -1
        assert not math.isnan(value), name


def recorder(store, backbone):
    from mmengine.hooks import Hook

    class Recorder(Hook):
        def before_train(self, runner):
            store.update({name: p.detach().clone() for name, p in backbone.named_parameters()})

    return Recorder()


def test_there_are_benchmarks():
    names = {str(path.relative_to(FOLDER)) for path in CONFIGS}
    assert {f'coco/{kind}mask-rcnn_vit{arch}16_fpn_1x.py' for kind in ('', 'cascade-') for arch in 'sb'} < names
    assert {f'ade20k/upernet_vit{arch}16_512_160k.py' for arch in 'sb'} < names
    assert {f'ade20k/linear_vit{arch}16.py' for arch in 'sb'} < names
    assert {'ade20k/semantic-fpn_vits16_512_40k.py', 'demo/mask-rcnn_shapes.py', 'demo/upernet_shapes.py'} < names
