"""Keys that nothing would read are found, and good configs pass."""

import json
import re
from typing import Annotated

import pytest
from mmengine.config import Config
from places import REPO
from programs import python

from mmadclr.config import check as config_check
from mmadclr.config.check import ConfigError, check_config
from mmadclr.engine import Runner
from mmadclr.models.losses.self_distillation import LossConfig
from mmadclr.models.selfsup import DINO
from mmadclr.registry import MODELS, ConfigOf

SecondHead = Annotated[dict, ConfigOf('DINOHead', like='head')]

CONFIGS = sorted(path for path in (REPO / 'configs').rglob('*.py') if '_base_' not in path.parts)
BENCHMARKS = [path for path in CONFIGS if 'benchmarks' in path.parts]


def name(path):
    return str(path.relative_to(REPO / 'configs'))


@pytest.mark.dense
@pytest.mark.parametrize('path', BENCHMARKS, ids=name)
def test_benchmark_configs_have_no_dead_keys(path):
    check_config(Config.fromfile(path))


@pytest.fixture
def cfg():
    return Config.fromfile(REPO / 'configs/adclr/vits16_in1k.py')


@pytest.mark.parametrize('path', [path for path in CONFIGS if path not in BENCHMARKS], ids=name)
def test_configs_of_the_tree_have_no_dead_keys(path):
    check_config(Config.fromfile(path))


PROBE = {'val_evaluator.dense.type': 'DenseProbe'}


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ({'model.backbone.archh': 'x'}, r'model\.backbone\.archh: QueryViT has no such argument; did you mean arch\?'),
        ({'model.type': 'ADLCR'}, r"model: there is no component 'ADLCR'; did you mean ADCLR\?"),
        ({'model.kwargs': 2}, r'model\.kwargs: ADCLR has no such argument'),
        ({'model.query_wieght': 2}, r'model\.query_wieght: .*did you mean query_weight\?'),
        ({'train_dataloader.batchsize': 2}, r'train_dataloader\.batchsize: a data loader .*did you mean batch_size\?'),
        ({'train_dataloader.dataset.transform.num_queries': 2}, r'transform\.num_queries: .*did you mean num_query\?'),
        ({'default_hooks.schedule.warmup_epoch': 2}, r'warmup_epoch: .*did you mean warmup_epochs\?'),
        ({'optim_wrapper.optimizer.learning_rate': 2}, r'optimizer\.learning_rate: AdamW has no such argument'),
        ({'train_cfg.max_epoch': 2}, r'train_cfg\.max_epoch: .*did you mean max_epochs\?'),
        ({'model.loss_cls.studen_temp': 2}, r'model\.loss_cls\.studen_temp: .*did you mean student_temp\?'),
        ({'model.data_preprocessor': dict(men=0)}, r'data_preprocessor\.men: .*did you mean mean\?'),
        ({'auto_scale_lr.enabled': False}, r'auto_scale_lr\.enabled: .*did you mean enable\?'),
        ({'randomness.sed': 1}, r'randomness\.sed: .*did you mean seed\?'),
        ({'env_cfg.cudnn_benchmak': True}, r'cudnn_benchmak: .*did you mean cudnn_benchmark\?'),
        ({'train_dataloader.dataset.transform.local': dict(blurr=1)}, r'local\.blurr: .*did you mean blur\?'),
        ({'optim_wraper': dict(a=1)}, r'optim_wraper: did you mean optim_wrapper\?'),
        ({'env_cfg.mp_cfg': dict(mp_start_metod='fork')}, r'mp_cfg\.mp_start_metod: .*did you mean mp_start_method\?'),
        ({'env_cfg.dist_cfg.time_out': 60}, r'dist_cfg\.time_out: .*did you mean timeout\?'),
        ({'log_processor.window': 5}, r'log_processor\.window: .*did you mean window_size\?'),
        ({'log_processor': dict(_delete_=True, windowsize=5)}, r'windowsize: .*did you mean window_size\?'),
        ({'visualizer.vis_backends.0.savedir': 'x'}, r'vis_backends\.0\.savedir: LocalVisBackend .*mean save_dir\?'),
        ({'visualizer.vis_backends': [dict(save_dir='x')]}, r'vis_backends\.0: has no type'),
        ({'default_hooks.mine': dict(interval=5)}, r'default_hooks\.mine: has no type'),
        ({'default_hooks.checkpoint.max_keep_ckpt': 1}, r'max_keep_ckpt: .*did you mean max_keep_ckpts\?'),
        ({'param_scheduler': [dict(type='LinearLR', start_facter=1)]}, r'param_scheduler\.0\.start_facter: .*start_factor'),
        ({'val_cfg.bank.data_rot': 'x'}, r'val_cfg\.bank\.data_rot: ImageDataset has .*did you mean data_root\?'),
        ({'val_evaluator.dense.train.sise': 3, **PROBE}, r'dense\.train\.sise: .*did you mean size\?'),
        ({'val_evaluator.dense.banksize': 3, **PROBE}, r'dense\.banksize: .*did you mean bank_size\?'),
        ({'val_evaluator.knn.temperatur': 3}, r'val_evaluator\.knn\.temperatur: WeightedKNN .*did you mean temperature\?'),
        (
            {'val_evaluator.k': 3, **PROBE},
            r'val_evaluator\.k: has no type; did you mean val_evaluator\.knn\.k or .*dense\.k\?',
        ),
        ({'val_evaluator.other': dict(a=3)}, r'val_evaluator\.other: has no type'),
        ({'val_cfg.dense_probe': dict(k=3)}, r'FeatureEvalLoop has no such .*; write val_evaluator=dict\(dense=dict\(type='),
        ({'train_dataloader.dataset.transform.mask': dict(type='BlockMasking', rato=1)}, r'rato: .*did you mean ratio\?'),
        ({'model.loss_query': dict(student_tmp=1)}, r'loss_query\.student_tmp: .*did you mean student_temp\?'),
        ({'model.data_preprocessor': dict(arithmetc='float')}, r'data_preprocessor\.arithmetc: .*did you mean arithmetic\?'),
        ({'train_dataloader.dataset.transform.local.hu': 1}, r'local\.hu: PhotometricRecipe .*did you mean hue\?'),
        ({'model.head.out_dims': 5}, r'head\.out_dims: DINOHead has .*did you mean out_dim\?'),
        ({'model_wrapper_cfg': dict(broadcast_bufers=True)}, r'broadcast_bufers: .*did you mean broadcast_buffers\?'),
        ({'compile': dict(backnd='eager')}, r'compile\.backnd: .*did you mean backend\?'),
        ({'train_cfg': dict(_delete_=True, by_epoch=True, max_epoch=3)}, r'max_epoch: .*did you mean max_epochs\?'),
        ({'optim_wrapper.constructor': 'SelfDistilation'}, r'optim_wrapper\.constructor: there is no component'),
        ({'model.backbone.type': 'mmadclr.QueryVit'}, r"no component 'mmadclr\.QueryVit'; did you mean QueryViT\?"),
    ],
)
def test_misspelled_keys_are_named_with_a_hint(cfg, override, message):
    cfg.merge_from_dict(override)
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)


@pytest.mark.dense
@pytest.mark.parametrize(
    'name',
    [
        'mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
        'mmdet::dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
        'mmdet::detr/detr_r50_8xb2-150e_coco.py',
        'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py',
    ],
)
def test_configs_of_the_packages_pass(name):
    from mmengine.hub import get_config

    import mmadclr.ops  # noqa: F401

    check_config(get_config(name))


def config_file(folder, text, base=REPO / 'configs/adclr/vits16_in1k.py'):
    path = folder / 'mine.py'
    path.write_text(f"_base_ = ['{base}']\n{text}\n" if base else text)
    return Config.fromfile(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('max_epochs = 100', r'max_epochs: neither the run .* of .*mine\.py uses it; did you mean train_cfg\.max_epochs\?'),
        ('num_query = 4', r'did you mean train_dataloader\.dataset\.transform\.num_query\?'),
        ('schedule = dict(warmup_epochs=3)', r'schedule: .*did you mean default_hooks\.schedule\?'),
        ('something = 1  # something else', r'something: .*; remove it'),
        ('a = 1\nb = a', r'b: neither the run'),
    ],
)
def test_names_that_no_line_uses_are_errors(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        check_config(config_file(tmp_path, text))


@pytest.mark.parametrize(
    'text',
    [
        'size = 4\ntrain_cfg = dict(max_epochs=size)',
        'sizes = [4, 5]\ntrain_cfg = dict(max_epochs=[2 * n for n in sizes][0])',
        'tta_model = dict(a=1)',
        'max_epochs = 9\ntrain_cfg = dict(max_epochs=max_epochs)',
    ],
)
def test_variables_are_allowed(tmp_path, text):
    check_config(config_file(tmp_path, text))


def test_variables_of_a_base_are_allowed(tmp_path):
    (tmp_path / 'base.py').write_text('epochs = 4\nothers = 5\n')
    text = "train_cfg = dict(max_epochs=_base_.epochs, val_interval='{{_base_.others}}')"
    check_config(config_file(tmp_path, text, base='./base.py'))


@pytest.fixture
def told(monkeypatch):
    """Lines of the log."""
    lines = []
    monkeypatch.setattr(config_check, 'print_log', lambda text, *_: lines.append(text))
    return lines


def test_a_config_dumped_by_a_run_passes(tmp_path, told):
    """Its variables are written out where they were used, so that no line refers to them any more."""
    dumped = tmp_path / 'dumped.py'
    Config.fromfile(REPO / 'configs/demo/adclr_vittiny_shapes.py').dump(dumped)
    assert re.search(r'^colors ?= ?dict', dumped.read_text(), re.MULTILINE)
    check_config(Config.fromfile(dumped))
    assert not told


def test_a_name_without_use_in_a_file_without_variables_is_told(tmp_path, told):
    check_config(config_file(tmp_path, 'max_epochs = 5\ntrain_cfg = dict(max_epochs=4)', base=None))
    assert 'max_epochs: neither the run' in told[0]


def test_overrides_that_change_nothing_are_errors(cfg):
    with pytest.raises(ConfigError, match=r'max_epochs: max_epochs is not a known top-level key'):
        check_config(cfg, ['max_epochs'])
    check_config(cfg, ['train_cfg.max_epochs', 'work_dir'])


def test_all_problems_are_reported_at_once(cfg):
    cfg.merge_from_dict({'model.backbone.archh': 'x', 'train_cfg.max_epoch': 2})
    with pytest.raises(ConfigError, match=r'(?s)archh.*max_epoch'):
        check_config(cfg)


class Declaring:
    """A component of one's own with parts that say what they are, and one that does not."""

    def __init__(
        self, head: dict, loss: LossConfig | None = None, second: SecondHead | None = None, other: dict | None = None
    ):
        pass


class Inheriting(Declaring):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


@pytest.fixture
def own_components():
    MODELS.register_module(module=Declaring)
    MODELS.register_module(module=Inheriting)
    yield
    for name in ('Declaring', 'Inheriting'):
        MODELS.module_dict.pop(name)


@pytest.mark.parametrize('name', ['Declaring', 'Inheriting'])
@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            dict(loss=dict(student_tmp=1)),
            r'model\.loss\.student_tmp: SelfDistillationLoss has .*did you mean student_temp\?',
        ),
        (dict(head=dict(type='DINOHead'), second=dict(out_dims=1)), r'model\.second\.out_dims: DINOHead'),
        (dict(head=dict(type='IBOTHead'), second=dict(patch_out=1)), r'second\.patch_out: IBOTHead .*patch_out_dim'),
        (dict(second=dict(type='MLPHead', out_dims=1)), r'second\.out_dims: MLPHead'),
    ],
)
def test_parts_are_checked_by_what_their_class_declares(own_components, name, part, message):
    with pytest.raises(ConfigError, match=message):
        check_config({'model': {'type': name, 'head': {}, **part}})


@pytest.mark.parametrize('name', ['Declaring', 'Inheriting'])
def test_parts_as_declared_pass_and_undeclared_ones_are_let_through(own_components, name):
    model = dict(type=name, head=dict(type='IBOTHead'), loss=dict(student_temp=0.1), second=dict(patch_out_dim=3))
    check_config({'model': {**model, 'other': dict(anything=1)}})


def test_a_part_that_nobody_declared_ends_in_one_line(small_config):
    """The class says nothing about its argument, so the mistake is found when the part is built, and named all the same."""

    class Undeclared(DINO):
        def __init__(self, backbone: dict, head: dict, loss_other: dict | None = None, **kwargs) -> None:
            super().__init__(backbone, head, **kwargs)
            self.loss_other = self.build_loss(loss_other)

    MODELS.register_module(module=Undeclared)
    cfg = small_config(config='configs/demo/dino_vittiny_shapes.py')
    cfg.model.update(type='Undeclared', loss_other=dict(student_tmp=0.1))
    try:
        with pytest.raises(ValueError, match=r"model config has an unknown key: SelfDistillationLoss.*'student_tmp'"):
            Runner.from_cfg(cfg)
    finally:
        MODELS.module_dict.pop('Undeclared')


FIND_ALL = """
import importlib, json, multiprocessing, pkgutil
import mmengine, timm, torch  # once for all children

def registries():
    import mmadclr.registry as ours
    return {name: value for name, value in vars(ours).items() if isinstance(value, ours.Registry)}

def everything(_):
    import mmadclr
    for module in pkgutil.walk_packages(mmadclr.__path__, 'mmadclr.'):
        importlib.import_module(module.name)
    return {name: sorted(registry.module_dict) for name, registry in registries().items()}

def missing(registry, names):
    return [name for name in names if registries()[registry].get(name) is None]

def in_a_child(function, *args):
    with multiprocessing.get_context('fork').Pool(1) as pool:
        return pool.apply(function, args)

known = in_a_child(everything, None)
print(json.dumps([known, {name: in_a_child(missing, name, names) for name, names in known.items()}]))
"""


@pytest.mark.dense
def test_every_component_is_found_without_an_import(tmp_path):
    """Each registry in a process that has imported nothing else of the package, against all that its modules register."""
    (tmp_path / 'find_all.py').write_text(FIND_ALL)
    done = python(tmp_path / 'find_all.py')
    known, missing = json.loads(done.stdout.splitlines()[-1])
    assert {'SweepAccuracy', 'WeightedKNN'} <= set(known['METRICS'])
    assert missing == {name: [] for name in known}
