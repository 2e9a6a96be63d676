"""What every method owes to the runner: two processes, shards and compiled blocks change nothing, nor does a stop."""

import pytest
import torch
from comparisons import assert_same_state
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from places import REPO
from programs import python_on_ranks

from mmadclr.checkpoint import read_checkpoint
from mmadclr.engine import Runner
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.registry import MODELS

METHODS = ['selfpatch', 'pqcl']
# iBOT on two processes is in test_ibot_distributed; MoCo v3 has batch norms, whose statistics are joint on GPUs only.
ALL_METHODS = [*METHODS, 'ibot', 'adclr_ibot', 'mocov3', 'adclr_mocov3']
RECIPE = {
    'train_cfg.max_epochs': 2,
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'default_hooks.schedule.warmup_epochs': 1,
    'default_hooks.schedule.momentum': (0.9, 0.9),
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'default_hooks.checkpoint.interval': 1,
    'model.backbone.arch': dict(embed_dim=24, depth=2, num_heads=3, patch_size=8),
    'optim_wrapper.max_norm': 0.1,
}
RUNS = {
    'single': {'train_dataloader.batch_size': 4},
    'ddp': {'train_dataloader.batch_size': 2},
    'fsdp': {'train_dataloader.batch_size': 2, 'sharding': 'fsdp'},
}
# Class attention in single precision; its keys have no true gradient in their bias, which Adam makes steps of.
NOISE = 'attn.k.bias'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Work dirs of the runs; the two-process ones in one launch."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp('methods')
    paths = {'single': [], 'ddp': [], 'fsdp': []}
    for method in METHODS:
        for run, overrides in RUNS.items():
            cfg = Config.fromfile(REPO / f'configs/demo/{method}_vittiny_shapes.py')
            cfg.merge_from_dict(RECIPE | overrides)
            cfg.train_dataloader.dataset.update(data_root=str(root / 'shapes'), num_train=8, num_val=10, image_size=32)
            cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
            cfg.work_dir, cfg.experiment_name = str(root / f'{method}_{run}'), f'{root.name}_{method}_{run}'
            paths[run].append(root / f'{method}_{run}.py')
            cfg.dump(paths[run][-1])
    for path in paths['single']:
        Runner.from_cfg(Config.fromfile(path)).train()
    python_on_ranks(2, 'tests/engine/distributed_runs.py', *paths['ddp'], *paths['fsdp'])
    return root


@pytest.mark.slow
@pytest.mark.parametrize('run', ['ddp', 'fsdp'])
@pytest.mark.parametrize('method', METHODS)
def test_two_processes_equal_one(folder, method, run):
    for epoch in (1, 2):
        single, other = (read_checkpoint(folder / f'{method}_{name}' / f'epoch_{epoch}.pth') for name in ('single', run))
        assert single['meta']['method'] == other['meta']['method'].removeprefix('FSDP')
        states = [{k: v for k, v in c['state_dict'].items() if not k.endswith(NOISE)} for c in (single, other)]
        assert_same_state(*states, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_the_recipe_moves_what_is_compared(folder, method):
    states = [read_checkpoint(folder / f'{method}_single' / f'epoch_{epoch}.pth')['state_dict'] for epoch in (1, 2)]
    still = {name for name, tensor in states[0].items() if torch.equal(tensor, states[1][name])}
    fixed = {'pos_embed', 'weight_g'}  # PQCL's positions, and the norms of prototypes
    assert {name.rpartition('.')[2] for name in still} <= fixed
    assert ('student.backbone.pos_embed' in still) == (method == 'pqcl')


@pytest.mark.parametrize('method', ALL_METHODS)
def test_going_on_equals_not_stopping(train, method):
    config = f'configs/demo/{method}_vittiny_shapes.py'
    settings = {
        'default_hooks.checkpoint.by_epoch': False,
        'model.backbone.drop_path_rate': 0.3,
        'train_dataloader.dataset.transform.local_size': 16,
    }
    whole = train(settings, work_dir='whole', config=config)
    resume = {'resume': True, 'load_from': f'{whole.work_dir}/iter_3.pth'}
    resumed = train(settings | resume, work_dir='resumed', config=config)
    assert_same_state(whole.model.state_dict(), resumed.model.state_dict())


def test_a_run_of_one_method_is_not_gone_on_with_by_another(train):
    ibot = train(work_dir='ibot', config='configs/demo/ibot_vittiny_shapes.py')
    resume = {'resume': True, 'load_from': f'{ibot.work_dir}/epoch_2.pth'}
    message = r'epoch_2\.pth is a checkpoint of IBOT, but the config has model PQCL: use a config of IBOT'
    with pytest.raises(ValueError, match=message):
        train(resume, work_dir='pqcl', config='configs/demo/pqcl_vittiny_shapes.py')


def views_of(cfg, method):
    """A batch of two random images, with what the samples of the method's config hold."""
    transform = cfg.train_dataloader.dataset.transform
    number, size = transform.num_query, transform.query_size
    views = {
        'global_views': torch.randn(2, 2, 3, 32, 32),
        'local_views': torch.randn(2, transform.num_local, 3, 16, 16),
        'query_crops': torch.randn(2, 2, number, 3, size, size),
    }
    if transform.get('mask'):
        views['masks'] = PatchMasks.of(torch.rand(2, 2, 4, 4) < 0.3)
    if method == 'pqcl':
        views['query_boxes'] = torch.rand(2, 2, number, 4)
    return views


@pytest.mark.long
@pytest.mark.parametrize('method', ALL_METHODS)
def test_compiled_blocks_give_the_same_losses(method, small_config):
    torch._dynamo.reset()
    cfg = small_config(config=f'configs/demo/{method}_vittiny_shapes.py')
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    views = views_of(cfg, method)
    plain = model.loss(**views)
    assert compile_blocks(model, dict(backend='aot_eager'))
    for name, loss in model.loss(**views).items():
        torch.testing.assert_close(loss, plain[name], rtol=0, atol=1e-5, msg=name)
    torch._dynamo.reset()
