"""Settings that cannot work together are refused with keys and ways out; all configs of the tree make sense."""

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.config import findings
from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.sense import check_sense
from mmadclr.engine.runners.batch_findings import batch_findings
from mmadclr.models.losses.self_distillation import LossConfig
from mmadclr.models.selfsup import DINO
from mmadclr.registry import MODELS

PRETRAINING = sorted(p for p in (REPO / 'configs').rglob('*.py') if not {'_base_', 'benchmarks'} & set(p.parts))


@pytest.fixture
def told(monkeypatch):
    """Lines of the log."""
    lines = []
    monkeypatch.setattr(findings, 'print_log', lambda text, *_: lines.append(text))
    return lines


@pytest.fixture
def cfg(tmp_path):
    """ADCLR for ImageNet with folders that exist."""
    cfg = Config.fromfile(REPO / 'configs/adclr/vits16_in1k.py')
    return at(cfg, tmp_path)


def at(cfg, folder):
    for dataset in (
        cfg.train_dataloader.dataset,
        (cfg.get('val_dataloader') or {}).get('dataset'),
        (cfg.val_cfg or {}).get('bank'),
        ((cfg.get('val_evaluator') or {}).get('dense') or {}).get('train'),
    ):
        if dataset:
            dataset.data_root = str(folder)
    if cfg.model.backbone.get('init_cfg'):
        cfg.model.backbone.init_cfg.checkpoint = str(folder)
    return cfg


@pytest.mark.parametrize('path', PRETRAINING, ids=lambda path: str(path.relative_to(REPO / 'configs')))
def test_configs_of_the_tree_make_sense(path, tmp_path, told):
    check_sense(at(Config.fromfile(path), tmp_path))
    assert not told


SCHEDULE, CROPS = 'default_hooks.schedule.', 'train_dataloader.dataset.transform.'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({f'{SCHEDULE}warmup_epochs': 801}, r'schedule\.warmup_epochs=801 > train_cfg\.max_epochs=800: .*lower the first'),
        (
            {f'{SCHEDULE}freeze_last_layer_epochs': 900},
            r'freeze_last_layer_epochs=900 >= train_cfg\.max_epochs=800: .*never',
        ),
        ({'train_cfg.max_epochs': 0}, r'train_cfg\.max_epochs=0 must be at least 1'),
        ({f'{SCHEDULE}min_lr': -1.0}, r'min_lr=-1\.0'),
        ({f'{SCHEDULE}weight_decay': (0.1, -0.4)}, r'weight_decay=\(0\.1, -0\.4\) must not be negative'),
        (
            {'param_scheduler': dict(type='LinearLR')},
            r'param_scheduler: conflicts with default_hooks\.schedule, .*remove one',
        ),
        ({'model.loss_cls.student_temp': 0}, r'model\.loss_cls\.student_temp=0 must be above 0'),
        ({'model.loss_query.center_momentum': 1.1}, r'loss_query\.center_momentum=1\.1 must be in \[0, 1\]'),
        ({'optim_wrapper.precision': 'fp16'}, r"optim_wrapper\.precision='fp16': choose 'auto', 'fp32', 'bf16'"),
        ({'compile': 'yes'}, r"compile='yes': choose True, False"),
        ({f'{CROPS}global_size': 225}, r'global_size=225 must be a multiple of the patch size 16'),
        ({f'{CROPS}local_size': 100}, r'local_size=100 must be a multiple'),
        ({f'{CROPS}query_size': 8}, r'query_size=8 must be a multiple'),
        ({f'{CROPS}local_scale': (0.3, 0.1)}, r'local_scale=\(0\.3, 0\.1\) must be fractions'),
        ({f'{CROPS}mask': dict(type='BlockMasking', patch_size=8)}, r'mask\.patch_size=8, but .* patch size 16'),
        (
            {f'{CROPS}mask': dict(type='BlockMasking', start_epoch=800)},
            r'mask\.start_epoch=800 >= train_cfg\.max_epochs=800: nothing is ever masked; lower the first',
        ),
        (
            {'model.type': 'SelfPatch', f'{CROPS}num_query': 0, f'{CROPS}local_size': 16},
            r'local_size=16: .* a grid of 1 x 1 patches has no neighbors: make the views at least two patches wide',
        ),
        (
            {'model.type': 'SelfPatch', f'{CROPS}num_query': 0, f'{CROPS}num_local': 0, f'{CROPS}global_size': 16},
            r'global_size=16: .* no neighbors',
        ),
        ({'val_dataloader.dataset.transform.size': 220}, r'val_dataloader\.dataset\.transform\.size=220 must be a multiple'),
        (
            {'train_dataloader.dataset.data_root': '/none'},
            r'train_dataloader\.dataset\.data_root: folder /none does not exist',
        ),
        ({'val_dataloader.dataset.data_root': '/none'}, r'val_dataloader\.dataset\.data_root: folder /none does not exist'),
        ({'val_cfg.bank.data_root': '/none'}, r'val_cfg\.bank\.data_root: folder /none does not exist'),
        ({'train_dataloader.dataset.ann_file': '/none'}, r'dataset\.ann_file: list of images /none does not exist'),
        ({'train_dataloader.dataset.ann_file': '/tmp'}, r'dataset\.ann_file: list of images /tmp is not a list of images'),
        (
            {'val_evaluator.dense': dict(type='DenseProbe', train=dict(data_root='/none'))},
            r'val_evaluator\.dense\.train\.data_root: folder /none',
        ),
        ({'load_from': '/none.pth'}, r'load_from: checkpoint /none\.pth does not exist'),
    ],
)
def test_what_cannot_work_is_refused(cfg, change, message):
    cfg.merge_from_dict(change)
    with pytest.raises(ConfigError, match=message):
        check_sense(cfg)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({f'{SCHEDULE}freeze_last_layer_epochs': 800}, 'the last layer is never trained'),
        ({f'{SCHEDULE}teacher_temp_warmup_epochs': 900}, 'teacher_temp_warmup_epochs=900 > train_cfg.max_epochs=800'),
        ({'train_cfg.val_interval': 900}, 'validates only at the end of the run'),
        *(
            ({'model.type': name}, f'num_query=10: {name.removeprefix("mmadclr.")} does not use query crops')
            for name in ('DINO', 'mmadclr.DINO', 'IBOT', 'SelfPatch')
        ),
        ({f'{CROPS}global_size': 192}, 'img_size=224, but global views have 192 pixels'),
    ],
)
def test_what_is_odd_is_told(cfg, told, change, message):
    cfg.merge_from_dict(change)
    check_sense(cfg)
    assert len(told) == 1
    assert message in told[0]


def test_all_is_reported_at_once(cfg):
    cfg.merge_from_dict({f'{SCHEDULE}warmup_epochs': 801, 'load_from': '/none.pth', f'{CROPS}query_size': 8})
    with pytest.raises(ConfigError, match=r'(?s)(?=.*warmup_epochs)(?=.*query_size)(?=.*load_from)'):
        check_sense(cfg)


def test_what_is_not_used_is_not_asked_for(cfg):
    """Sizes of crops that are not cut, sets that are drawn on first use, an evaluation that is switched off."""
    cfg.merge_from_dict({f'{CROPS}num_query': 0, f'{CROPS}query_size': 7, f'{CROPS}num_local': 0, f'{CROPS}local_size': 7})
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    check_sense(cfg)
    shapes = Config.fromfile(REPO / 'configs/demo/adclr_vittiny_shapes.py')
    shapes.merge_from_dict(
        {'val_evaluator.dense.train.data_root': '/drawn'}
        | {f'{part}_dataloader.dataset.data_root': '/drawn' for part in ('train', 'val')}
    )
    check_sense(shapes)


@pytest.mark.parametrize(
    'change',
    [
        {f'{CROPS}mask': dict(type='BlockMasking', start_epoch=799)},
        {f'{CROPS}local_size': 16},  # DINO's local views may be one patch
        {'model.type': 'SelfPatch', f'{CROPS}num_local': 0, f'{CROPS}local_size': 16},
        {'model.type': 'SelfPatch', f'{CROPS}local_size': 32},
    ],
)
def test_what_just_works_is_let_through(cfg, told, change):
    cfg.merge_from_dict({f'{CROPS}num_query': 0, **change})
    check_sense(cfg)
    assert not told


def test_other_scopes_are_left_to_their_libraries(cfg):
    cfg.merge_from_dict({'default_scope': 'mmdet', f'{SCHEDULE}warmup_epochs': 801})
    check_sense(cfg)


@pytest.mark.parametrize(
    ('numbers', 'messages'),
    [
        (dict(images=1_281_167, batch=128, processes=8, accumulated=1), []),
        (dict(images=1_281_167, batch=64, processes=4, accumulated=8), ['does not divide the 5004 batches']),
        (dict(images=1_281_024, batch=64, processes=4, accumulated=4), []),
        (
            dict(images=1_281_167, batch=32, processes=1, accumulated=1),
            ['32 images per step are few for a recipe designed for 256'],
        ),
        (dict(images=1_281_167, batch=64, processes=1, accumulated=1), []),
        (
            dict(images=5000, batch=256, processes=1, accumulated=1),
            ['out_dim=65536 prototypes are more than the 5000 images'],
        ),
    ],
)
def test_numbers_of_a_run(cfg, numbers, messages):
    found = list(batch_findings(**numbers, cfg=cfg))
    assert len(found) == len(messages)
    for finding, message in zip(found, messages, strict=True):
        assert message in finding.text
        assert not finding.fatal


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_a_backbone_starts_from_a_file_or_a_folder(cfg, tmp_path, kind):
    """transformers and timm write folders, which ``pretrained=FOLDER`` takes; what is not there is named."""
    place = tmp_path / 'weights'
    cfg.merge_from_dict({'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=str(place))})
    with pytest.raises(ConfigError, match='init_cfg.checkpoint: checkpoint .*weights does not exist'):
        check_sense(cfg)
    if kind == 'folder':
        place.mkdir()
    else:
        place.touch()
    check_sense(cfg)


class Silent:
    """A component that declares nothing about its settings."""

    def __init__(self, number: int = 1) -> None:
        pass


class Failing(Silent):
    @classmethod
    def find_conflicts(cls, place):
        raise KeyError('of one of its own')


class OwnMethod(DINO):
    """A method of one's own with a second loss, declared as ours are."""

    uses_queries = True

    def __init__(self, backbone: dict, head: dict, loss_own: LossConfig | None = None, **kwargs) -> None:
        super().__init__(backbone, head, **kwargs)


@pytest.fixture
def own_components():
    for component in (Silent, Failing, OwnMethod):
        MODELS.register_module(module=component)
    yield
    for component in (Silent, Failing, OwnMethod):
        MODELS.module_dict.pop(component.__name__)


def own(cfg, **changes):
    model = dict(cfg.model, type='OwnMethod')
    cfg.model = {**{key: value for key, value in model.items() if key != 'loss_query' and key != 'query_weight'}, **changes}
    return cfg


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model.backbone.archh': 1}, r'model\.backbone\.archh: QueryViT has .*mean arch\?'),
        ({'model.head.out_dims': 1}, r'model\.head\.out_dims: DINOHead has .*mean out_dim\?'),
        ({'model.loss_own.student_tmp': 1}, r'model\.loss_own\.student_tmp: .*mean student_temp\?'),
        ({'model.data_preprocessor': dict(men=0)}, r'data_preprocessor\.men: .*mean mean\?'),
        ({'train_dataloader.dataset.transform.local.hu': 1}, r'transform\.local\.hu: .*mean hue\?'),
    ],
)
def test_a_typo_in_any_part_of_an_own_method_is_named(cfg, own_components, change, message):
    own(cfg, loss_own={}).merge_from_dict(change)
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)


def test_rules_hold_for_parts_of_an_own_method(cfg, own_components, told):
    check_sense(own(cfg, loss_own={}))
    assert not told  # it says that it uses queries
    cfg.model.loss_own = dict(teacher_temp=-1)
    with pytest.raises(ConfigError, match=r'model\.loss_own\.teacher_temp=-1 must be above 0'):
        check_sense(cfg)


def test_classes_that_declare_nothing_hide_nothing(cfg, own_components):
    own(cfg, loss_own=dict(type='Silent', number=0))
    cfg.val_evaluator = dict(type='Silent')
    check_sense(cfg)
    cfg.load_from = '/none.pth'
    with pytest.raises(ConfigError, match='checkpoint /none.pth does not exist'):
        check_sense(cfg)


def test_a_class_that_fails_is_named_beside_what_others_find(cfg, own_components):
    own(cfg, loss_own=dict(type='Failing'))
    cfg.load_from = '/none.pth'
    with pytest.raises(
        ConfigError, match='(?s)none.pth.*model.loss_own: Failing.find_conflicts failed with KeyError'
    ) as caught:
        check_sense(cfg)
    assert isinstance(caught.value.__cause__, KeyError)


def test_defaults_are_those_of_signatures(cfg):
    """Masks for patches of 16 pixels by default, before a backbone of 8."""
    cfg.merge_from_dict({'model.backbone.arch': 'vit_small_patch8_224', f'{CROPS}mask': dict(type='BlockMasking')})
    with pytest.raises(ConfigError, match=r'mask\.patch_size=16, but model\.backbone has patch size 8: set it to 8'):
        check_sense(cfg)
