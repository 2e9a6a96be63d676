"""Code in the documentation does what its text says, and its tables are what was measured."""

import importlib
import json
import math
import re
import shutil

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.compare.table import markdown
from mmadclr.config.check import ConfigError, check_config
from mmadclr.engine import Runner
from mmadclr.hub.opening import open_backbone
from mmadclr.models.losses.self_distillation import paired_cross_entropy

MEASURED = re.compile(r'^<!-- (comparison/\w+\.json) -->\n\n(.*?)\n\n<!-- end -->$', re.MULTILINE | re.DOTALL)
NAMED_BLOCK = re.compile(r'^`([\w/]+\.py)`:\n\n```python\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TINY = {
    'train_cfg.max_epochs': 1,
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'default_hooks.schedule.warmup_epochs': 0,
    'default_hooks.logger.interval': 1,
    'visualizer.vis_backends': [dict(type='LocalVisBackend')],
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
}


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """A folder like the clone, with the files of docs/add_a_method.md; (folder, its config)."""
    folder = tmp_path_factory.mktemp('clone')
    shutil.copytree(REPO / 'configs' / '_base_', folder / 'configs' / '_base_')
    for name, text in NAMED_BLOCK.findall((REPO / 'docs' / 'add_a_method.md').read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(REPO / 'configs/demo/dino_vittiny_shapes.py', folder / 'configs/demo')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        yield folder, folder / 'configs/demo/mean_patch_dino_vittiny_shapes.py'


@pytest.fixture
def runner(example, tmp_path):
    cfg = Config.fromfile(example[1])
    cfg.merge_from_dict(TINY)
    cfg.train_dataloader.dataset.update(data_root=str(example[0] / 'shapes'), num_train=4, num_val=2, image_size=32)
    check_config(cfg)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    return Runner.from_cfg(cfg)


def test_example_is_as_short_as_promised(example):
    method = (example[0] / 'my_methods/mean_patch_dino.py').read_text()
    assert len([line for line in method.splitlines() if line.strip()]) <= 34
    assert all(len(line) <= 125 for line in method.splitlines())


def test_loss_of_the_example_is_its_equation(runner):
    model = runner.model
    views, local_views = torch.randn(3, 2, 3, 32, 32), torch.randn(3, 0, 3, 16, 16)
    model.loss_mean.center.normal_()
    losses = model.loss(views, local_views)

    def logits(network):
        means = [network['backbone'](views[:, v]).patches.mean(dim=1) for v in (0, 1)]
        return torch.stack([network['head'](mean) for mean in means])

    targets = ((logits(model.teacher) - model.loss_mean.center) / model.loss_mean.teacher_temp).softmax(dim=-1)
    other_view = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    expected = paired_cross_entropy(targets, (logits(model.student) / 0.1).log_softmax(dim=-1), other_view)
    torch.testing.assert_close(losses['loss_mean'], 0.5 * expected)
    assert set(losses) == {'loss_cls', 'loss_mean'}


def test_example_trains_and_gets_what_the_document_promises(runner, tmp_path):
    runner.train()
    logged = {name: runner.message_hub.get_scalar(f'train/{name}').current() for name in ('loss', 'loss_cls', 'loss_mean')}
    assert logged['loss'] == pytest.approx(logged['loss_cls'] + logged['loss_mean'], abs=1e-6)
    for loss in (runner.model.loss_cls, runner.model.loss_mean):
        assert not torch.equal(loss.center, torch.zeros(64))
        assert loss.teacher_temp == 0.025
    opened = open_backbone(tmp_path / 'epoch_1.pth')
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(opened.model.eval()(images).cls, runner.model.image_features(images))


def test_misspelled_argument_of_the_example_is_an_error(example):
    cfg = Config.fromfile(example[1])
    cfg.model.mean_wieght = cfg.model.pop('mean_weight')
    with pytest.raises(ConfigError, match='mean_weight'):
        check_config(cfg)
    cfg = Config.fromfile(example[1])
    cfg.model.loss_mean.student_tmp = cfg.model.loss_mean.pop('student_temp')
    with pytest.raises(ConfigError, match=r'loss_mean\.student_tmp: SelfDistillationLoss .*did you mean student_temp\?'):
        check_config(cfg)


@pytest.mark.parametrize('target', re.findall(r'\]\((\.\./[^)]+)\)', (REPO / 'docs' / 'add_a_method.md').read_text()))
def test_links_of_the_document_lead_somewhere(target):
    assert (REPO / 'docs' / target).exists()


@pytest.mark.parametrize(('file', 'table'), MEASURED.findall((REPO / 'docs' / 'comparison.md').read_text()))
def test_tables_of_the_comparison_are_the_measured_ones(file, table):
    measured = json.loads((REPO / 'docs' / file).read_text())
    assert table.strip() == markdown(measured['rows'], measured['notes']).strip()


def test_every_method_of_the_comparison_has_learned_beyond_chance():
    """Three seeds, each at least two standard errors of a difference above the untrained network of the same seed."""
    rows = json.loads((REPO / 'docs/comparison/shapes.json').read_text())['rows']
    start = rows['random initialization']['knn']['values']
    methods = {
        name: row['knn']['values'] for name, row in rows.items() if name not in ('raw pixels', 'random initialization')
    }
    chance = 2 * 100 * math.sqrt(2 * 0.5 * 0.5 / 1000)  # 1000 images; the standard error is largest at one half
    assert len(methods) >= 5
    for name, values in methods.items():
        assert len(values) == 3, name
        assert all(value - start[seed] > chance for seed, value in values.items()), name
