"""Keys that nothing would read are found, and good configs pass."""

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.engine.config_check import ConfigError, check_config

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


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ({'model.backbone.archh': 'x'}, r'model\.backbone\.archh: QueryViT has no such argument; did you mean arch\?'),
        ({'model.type': 'ADLCR'}, r"model: there is no component 'ADLCR'; did you mean ADCLR\?"),
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
    ],
)
def test_misspelt_keys_are_named_with_a_hint(cfg, override, message):
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


def test_overrides_that_change_nothing_are_errors(cfg):
    with pytest.raises(ConfigError, match=r'max_epochs: no part of a run is called max_epochs'):
        check_config(cfg, ['max_epochs'])
    check_config(cfg, ['train_cfg.max_epochs', 'work_dir'])


def test_all_problems_are_reported_at_once(cfg):
    cfg.merge_from_dict({'model.backbone.archh': 'x', 'train_cfg.max_epoch': 2})
    with pytest.raises(ConfigError, match=r'(?s)archh.*max_epoch'):
        check_config(cfg)
