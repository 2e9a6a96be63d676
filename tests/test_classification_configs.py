"""Every classification config is built at reduced size, trains and is scored; rates and crops are as published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image, ImageOps
from places import REPO
from programs import python_on_ranks
from torchvision import transforms

from mmadclr.checkpoint import read_checkpoint
from mmadclr.config.loading import spell_out
from mmadclr.engine import Runner
from mmadclr.models.backbones import QueryViT
from mmadclr.models.backbones.query_vit import resolve_arch

pytestmark = pytest.mark.dense
FOLDER = REPO / 'configs' / 'benchmarks'
IMAGENET = sorted((FOLDER / 'classification').glob('*.py'))
CONFIGS = [*IMAGENET, *sorted((FOLDER / 'small').glob('*_photos.py'))]
WIDTH, CLASSES = 24, ('n01', 'n02', 'n03')
ORIENTATION = 0x0112  # of EXIF


@pytest.fixture(autouse=True)
def _plain_configs(monkeypatch):
    """mmengine formats the config four times a run, which takes longer than everything else here."""
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: ''))


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """4 + 2 images of three classes, which differ in brightness, and the lists of the semi-supervised configs."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(60 * label, 60 * label + 80, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{name}_{number}.JPEG')
    for name in ('1percent.txt', '10percent.txt'):
        (root / name).write_text('\n'.join(f'{each}_{number}.JPEG' for each in CLASSES for number in (1, 2)))
    return root


def reduced(path: Path, data_root: Path, work_dir: Path, **overrides) -> Config:
    cfg = Config.fromfile(path)
    backbone, head = cfg.model.backbone, cfg.model.head
    sizes = resolve_arch(backbone.arch if isinstance(backbone.arch, str) else dict(backbone.arch))
    parts = head.in_channels // sizes['embed_dim']
    assert head.in_channels == parts * sizes['embed_dim']
    backbone.update(arch={**sizes, 'embed_dim': WIDTH}, img_size=32, drop_path_rate=0.0)
    head.update(in_channels=parts * WIDTH, num_classes=len(CLASSES))
    if 'num_classes' in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.num_classes = len(CLASSES)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg[name]
        loader.update(batch_size=3, num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            step.update({key: size for key, size in (('scale', 36), ('crop_size', 32)) if key in step})
            if step.type == 'RandomResizedCrop':
                step.scale = 32
    if 'topk' in cfg.val_evaluator:
        cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1, 2)
    for scheduler in cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else []:
        if 'start_factor' in scheduler:
            scheduler.start_factor = 1.0
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper.precision = 'fp32'
    cfg.merge_from_dict(spell_out(cfg, {'data_root': str(data_root), **overrides}))
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.name}_{path.stem}'
    return cfg


def pretrained(cfg: Config, folder: Path) -> dict[str, torch.Tensor]:
    """Writes a checkpoint for the backbone of the config, and has the config start from it."""
    model = QueryViT(dict(cfg.model.backbone.arch), img_size=32, init='xavier')
    torch.save({'state_dict': {f'teacher.backbone.{k}': v for k, v in model.state_dict().items()}}, folder / 'start.pth')
    cfg.merge_from_dict(spell_out(cfg, dict(pretrained=str(folder / 'start.pth'))))
    return model.state_dict()


class Recorder(Hook):
    """Parameters before training and after every step."""

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        self.steps = [self.snapshot(runner)]

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self.steps.append(self.snapshot(runner))

    @staticmethod
    def snapshot(runner) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in runner.model.named_parameters()}


def train(cfg: Config) -> tuple[Runner, Recorder]:
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def logged(runner: Runner, name: str) -> float:
    return float(runner.message_hub.get_scalar(f'val/{name}').current())


@pytest.mark.long
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_loads_trains_and_is_scored(path, data_root, tmp_path):
    cfg = reduced(path, data_root, tmp_path)
    weights = pretrained(cfg, tmp_path)
    if 'lr' in cfg.optim_wrapper.optimizer:
        cfg.optim_wrapper.optimizer.lr = 10.0  # a step must show in single precision, after three images of 1024
    runner, recorder = train(cfg)
    first, last = recorder.steps[0], recorder.steps[-1]
    for name, tensor in weights.items():
        assert torch.equal(first[f'backbone.{name}'], tensor), name
    frozen = {name for name in first if 'linear' in path.stem and name.startswith('backbone.')}
    assert {name for name in first if torch.equal(first[name], last[name])} == frozen
    if cfg.model.head.type == 'LinearClsHead':
        assert logged(runner, 'accuracy/top1') * 6 / 100 == pytest.approx(round(logged(runner, 'accuracy/top1') * 6 / 100))
    else:
        check_sweep(runner)


def check_sweep(runner: Runner) -> None:
    """Numbers of a sweep belong together, and the test loop, on the same images, finds them again."""
    rates = runner.model.head.learning_rates
    by_rate = {rate: logged(runner, f'linear_top1_by_lr/{rate:g}') for rate in rates}
    assert logged(runner, 'linear_top1') == by_rate[logged(runner, 'linear_lr')]
    assert logged(runner, 'linear_top1_best_on_val') == max(by_rate.values())
    assert len(runner.train_dataloader.dataset) == 9
    assert len(runner.val_loop.held_out_dataloader.dataset) == 3
    metrics = runner.test()
    assert {name: value for name, value in metrics.items() if name.startswith('linear')} == {
        name: logged(runner, name) for name in metrics if name.startswith('linear')
    }
    assert [group['params'][0].shape for group in runner.optim_wrapper.optimizer.param_groups] == [
        runner.model.head.classifiers[0].weight.shape
    ] * len(rates)


@pytest.mark.parametrize(('name', 'rate'), [('finetune_vits16_in1k', 0.75), ('finetune_vitb16_in1k', 0.65)])
def test_layer_decay_by_name(name, rate, data_root, tmp_path):
    cfg = reduced(FOLDER / 'classification' / f'{name}.py', data_root, tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    found = {}
    for group in runner.optim_wrapper.optimizer.param_groups:
        found |= dict.fromkeys(group['names'], (group['lr'], group['weight_decay']))
    assert found.keys() == {each for each, _ in runner.model.named_parameters()}
    for each, parameter in runner.model.named_parameters():
        parts = each.split('.')
        embedding = parts[0] == 'backbone' and parts[1] in ('cls_token', 'pos_embed', 'patch_embed')
        depth = 0 if embedding else int(parts[2]) + 1 if parts[1] == 'blocks' else 13
        exempt = parameter.ndim == 1 or parts[1] in ('cls_token', 'pos_embed')
        assert found[each] == pytest.approx((1e-3 * rate ** (13 - depth), 0.0 if exempt else 0.05)), each


def test_averaged_weights_are_an_option(data_root, tmp_path):
    """Averages in closed form are what is saved, scored in training, and scored again from the checkpoint."""
    ema = {'default_hooks.ema.type': 'EMAHook', 'default_hooks.ema.momentum': 0.3}
    cfg = reduced(FOLDER / 'classification' / 'finetune_vits16_in1k.py', data_root, tmp_path, **ema)
    cfg.optim_wrapper.optimizer.lr = 0.3
    pretrained(cfg, tmp_path)
    runner, recorder = train(cfg)
    expected = recorder.steps[1]  # averages start after the first step
    for step in recorder.steps[2:]:
        expected = {name: 0.7 * tensor + 0.3 * step[name] for name, tensor in expected.items()}
    saved = read_checkpoint(tmp_path / 'epoch_1.pth')['state_dict']
    for name, tensor in expected.items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    cfg.load_from = str(tmp_path / 'epoch_1.pth')
    cfg.experiment_name += '_test'
    assert Runner.from_cfg(cfg).test()['accuracy/top1'] == logged(runner, 'accuracy/top1')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['linear-sweep_vits16_in1k', 'finetune_vits16_in1k'])
def test_two_processes_train_and_score_as_one(name, data_root, tmp_path):
    """Through tools/train.py, on the same four images a step and without augmentation."""
    cfg = reduced(FOLDER / 'classification' / f'{name}.py', data_root, tmp_path)
    cfg.model.pop('train_cfg', None)
    cfg.train_dataloader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline
    cfg.train_dataloader.update(batch_size=4, drop_last=True)
    one, _ = train(cfg)
    cfg.train_dataloader.batch_size = 2
    cfg.work_dir = str(tmp_path / 'two')
    cfg.dump(tmp_path / 'config.json')
    on_two_processes('tools/train.py', tmp_path / 'config.json', '--launcher', 'pytorch', '--work-dir', cfg.work_dir)
    found = read_checkpoint(tmp_path / 'two' / 'epoch_1.pth')['state_dict']
    for key, tensor in one.model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6, msg=key)


def on_two_processes(script: str, *args) -> None:
    python_on_ranks(2, script, *args)


def diaries(folder: Path) -> list[dict]:
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['finetune_vits16_in1k', 'finetune_vits16_in1k_10percent'])
def test_processes_mix_and_drop_by_themselves_and_agree_on_all_else(name, data_root, tmp_path):
    """Two epochs at a time, and the second one resumed, without the data check, which may draw numbers before training."""
    configs = []
    for part, epochs, more in (
        ('whole', 2, {}),
        ('first', 1, {}),
        ('rest', 2, dict(resume=True, load_from=str(tmp_path / 'first' / 'epoch_1.pth'), dataset_check=None)),
    ):
        cfg = reduced(FOLDER / 'classification' / f'{name}.py', data_root, tmp_path / part)
        cfg.model.backbone.drop_path_rate = 0.5
        cfg.optim_wrapper.optimizer.lr = 1.0
        cfg.train_dataloader.update(batch_size=2)
        cfg.train_dataloader.dataset.list_file = None
        cfg.train_cfg.max_epochs, cfg.default_hooks.checkpoint.interval = epochs, 1
        cfg.update(more)
        cfg.dump(tmp_path / f'{part}.json')
        configs.append(tmp_path / f'{part}.json')
    on_two_processes('tests/finetuning_runs.py', *configs)
    whole, rest = diaries(tmp_path / 'whole'), diaries(tmp_path / 'rest')
    for ranks in (whole, rest):
        assert ranks[0]['weights'] == ranks[1]['weights']  # before the first step, and after every one
        for drawn in ('shares', 'paths'):
            assert len(ranks[0][drawn]) == len(ranks[1][drawn]) >= 3
            assert ranks[0][drawn] != ranks[1][drawn]
        assert not set(ranks[0]['shares']) & set(ranks[1]['shares'])
    assert [ranks['images']['1'] for ranks in whole] == [ranks['images']['1'] for ranks in rest]
    assert whole[0]['images']['0'] != whole[0]['images']['1']
    for epoch in '01':
        images = whole[0]['images'][epoch] + whole[1]['images'][epoch]
        assert len(images) == 12
        assert len(set(images)) == (4 if 'percent' in name else 12)  # thrice each


# --- data that does not fit -----------------------------------------------------------------------------------------------


def test_classes_that_differ_are_an_error_before_training(data_root, tmp_path):
    cfg = reduced(FOLDER / 'classification' / 'linear_vits16_in1k.py', data_root, tmp_path)
    other = tmp_path / 'other'
    for name in ('n01', 'n03', 'n04'):
        (other / name).mkdir(parents=True)
        Image.new('RGB', (40, 40)).save(other / name / 'a.png')
    cfg.val_dataloader.dataset.update(data_root=str(other), split='')
    recorder = Recorder()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(recorder)
    with pytest.raises(
        ValueError, match=r'other differ from those of training: 1 only here \(n04\), 1 only in training \(n02\)'
    ):
        runner.train()
    assert len(getattr(recorder, 'steps', [])) <= 1


def test_a_test_set_of_other_classes_than_the_checkpoint_is_an_error(data_root, tmp_path):
    cfg = reduced(FOLDER / 'classification' / 'linear_vits16_in1k.py', data_root, tmp_path)
    train(cfg)
    for name in ('n01', 'n02', 'n09'):
        (tmp_path / 'val' / name).mkdir(parents=True)
        Image.new('RGB', (40, 40)).save(tmp_path / 'val' / name / 'a.png')
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    cfg.load_from = str(tmp_path / 'epoch_1.pth')
    cfg.experiment_name += '_test'
    with pytest.raises(ValueError, match=r'differ from those of training: 1 only here \(n09\)'):
        Runner.from_cfg(cfg).test()


def test_a_head_of_another_number_of_classes_is_an_error(data_root, tmp_path):
    cfg = reduced(FOLDER / 'small' / 'linear_photos.py', data_root, tmp_path)
    cfg.model.head.num_classes = 5
    with pytest.raises(ValueError, match='has 3 classes, but the head has 5 outputs: set model.head.num_classes=3'):
        Runner.from_cfg(cfg).train()


# --- recipes, beside the table of tests/test_published_recipes.py ----------------------------------------------------------


def test_rates_of_the_sweep():
    rates = Config.fromfile(FOLDER / 'classification' / 'linear-sweep_vits16_in1k.py').model.head.learning_rates
    assert rates == pytest.approx([digit * 10**power for power in (-4, -3, -2, -1, 0) for digit in range(1, 10)], rel=1e-12)


def rates(name: str, data_root: Path, work_dir: Path, batch_size: int) -> list[float]:
    """Learning rate of the top at the end of every epoch of two iterations, by the schedulers that a run builds."""
    cfg = reduced(FOLDER / 'classification' / f'{name}.py', data_root, work_dir)
    full = Config.fromfile(FOLDER / 'classification' / f'{name}.py')
    cfg.param_scheduler, cfg.train_cfg.max_epochs = full.param_scheduler, full.train_cfg.max_epochs
    cfg.train_dataloader.dataset.list_file, cfg.train_dataloader.batch_size = None, 6
    cfg.auto_scale_lr.base_batch_size = full.auto_scale_lr.base_batch_size * 6 / batch_size
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    schedulers = runner.build_param_scheduler(runner.param_schedulers)
    found = []
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(len(runner.train_dataloader)):
            rate = max(group['lr'] for group in runner.optim_wrapper.optimizer.param_groups)
            for scheduler in schedulers:
                scheduler.step()
        found.append(rate)
    return found


@pytest.mark.parametrize(('name', 'epochs'), [('finetune_vits16_in1k', 200), ('finetune_vitb16_in1k', 100)])
def test_learning_rate_of_fine_tuning(name, epochs, data_root, tmp_path):
    """Warm-up from 1e-6 over 20 epochs to 1e-3, cosine to 1e-6."""
    found = rates(name, data_root, tmp_path, batch_size=1024)
    assert len(found) == epochs
    assert found[9] == pytest.approx(1e-6 + (1e-3 - 1e-6) * 19 / 39)
    assert max(found) == found[19] == pytest.approx(1e-3)
    assert found[20 + (epochs - 20) // 2] == pytest.approx(5e-4, rel=0.1)
    assert found[-1] == pytest.approx(1e-6, rel=0.2)


@pytest.mark.parametrize('batch_size', [1024, 512, 4096])
def test_learning_rate_of_semi_supervised_fine_tuning(batch_size, data_root, tmp_path):
    """5e-6 per 512 images after 5 epochs; from there a cosine to 1e-5, whatever the batch."""
    peak = 5e-6 * batch_size / 512
    found = rates('finetune_vits16_in1k_10percent', data_root, tmp_path, batch_size)
    assert len(found) == 1000
    assert found[:5] == pytest.approx([peak * (0.1 + 0.9 * number / 9) for number in (1, 3, 5, 7, 9)])
    assert found[502] == pytest.approx((peak + 1e-5) / 2, rel=0.01)
    assert found[-1] == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize('size', [(300, 400), (500, 281), (256, 256), (49, 98), (147, 49), (341, 257), (1000, 7)])
@pytest.mark.parametrize(
    ('name', 'interpolation'),
    [
        ('linear_vits16_in1k', 'BICUBIC'),
        ('finetune_vits16_in1k', 'BILINEAR'),
        ('finetune_vits16_in1k_1percent', 'BICUBIC'),
        ('finetune_vits16_in1k_10percent', 'BICUBIC'),
    ],
)
def test_evaluation_crops_equal_those_of_torchvision(size, name, interpolation, tmp_path):
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    cfg = Config.fromfile(FOLDER / 'classification' / f'{name}.py')
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = 6  # torchvision's data sets show it as it is stored; we, upright
    image.save(tmp_path / 'a.png', exif=image.getexif())
    assert Image.open(tmp_path / 'a.png').getexif()[ORIENTATION] == 6
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    found = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=str(tmp_path / 'a.png')))['inputs'].flip(0)
    resize = transforms.Resize(256, transforms.InterpolationMode[interpolation])
    expected = transforms.Compose([resize, transforms.CenterCrop(224), transforms.PILToTensor()])(
        ImageOps.exif_transpose(image)
    )
    assert torch.equal(found, expected)
