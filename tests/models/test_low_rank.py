"""Low-rank updates: the factors get the gradients of the weights, and what is stored is a plain vision transformer."""

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.checkpoint import read_checkpoint
from mmadclr.engine import Runner
from mmadclr.hub.opening import open_backbone
from mmadclr.registry import MODELS


def build(**model):
    cfg = Config(dict(model=Config.fromfile(REPO / 'configs/demo/adclr_vittiny_shapes.py').model))
    cfg.merge_from_dict({f'model.{key}': value for key, value in model.items()})
    torch.manual_seed(0)
    built = MODELS.build(cfg.model)
    built.init_weights()
    return built.double()


def views(batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(global_views=(2, 3, 32, 32), local_views=(2, 3, 16, 16), query_crops=(2, 3, 3, 8, 8))
    return {name: torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def test_they_change_nothing_at_first_and_get_the_gradients_of_the_weights():
    plain, model = build(), build(low_rank=dict(rank=3, scale=0.5))
    for name, tensor in plain.student.state_dict().items():  # heads are drawn in the same order
        assert torch.equal(tensor, model.student.state_dict()[name]), name
    losses = [each(views=views(), mode='loss') for each in (plain, model)]
    for name, loss in losses[0].items():
        assert torch.equal(loss, losses[1][name])
    for each in losses:
        sum(each.values()).backward()
    for index, name in enumerate(model.low_rank.names):
        gradient = plain.student['backbone'].get_submodule(name).weight.grad
        expected = 0.5 * gradient @ model.low_rank.down[index].T
        torch.testing.assert_close(model.low_rank.up[index].grad, expected, rtol=1e-9, atol=1e-12)
        assert model.low_rank.down[index].grad.abs().max() == 0  # up is zero
    assert all(parameter.grad is None for parameter in model.student['backbone'].parameters())
    assert [name for name, _ in model.student['backbone'].named_parameters()] == [
        name for name, _ in plain.student['backbone'].named_parameters()
    ]


def test_sums_are_written_into_the_backbone_and_averaged_by_the_teacher():
    model = build(low_rank=dict(rank=2), teacher_momentum=0.75)
    before = model.student['backbone'].blocks[1].attn.qkv.weight.clone()
    index = model.low_rank.names.index('blocks.1.attn.qkv')
    torch.nn.init.normal_(model.low_rank.up[index])
    model.after_step()
    update = model.low_rank.up[index] @ model.low_rank.down[index]
    torch.testing.assert_close(model.student['backbone'].blocks[1].attn.qkv.weight, before + update)
    torch.testing.assert_close(model.teacher['backbone'].blocks[1].attn.qkv.weight, before + 0.25 * update)
    assert torch.linalg.matrix_rank(model.student['backbone'].blocks[1].attn.qkv.weight - before) == 2


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(low_rank=dict(rank=0)), 'rank=0 must be between 1 and the width of the backbone, 64'),
        (dict(low_rank=dict(rank=65)), 'rank=65 must be between 1 and'),
        (dict(low_rank=dict(rank=4), frozen_blocks=3), 'all blocks are frozen'),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_frozen_blocks_have_no_updates():
    assert [name.split('.')[1] for name in build(low_rank=dict(rank=4), frozen_blocks=2).low_rank.names] == ['2', '2']


@pytest.mark.parametrize('layers', [None, dict(layer_decay=0.5)])
def test_checkpoints_are_plain_and_a_resumed_run_is_the_same(layers, train, small_config):
    overrides = {'model.low_rank': dict(rank=2), 'optim_wrapper.paramwise_cfg': layers}
    overrides['default_hooks.schedule.freeze_backbone_epochs'] = 1
    whole = train(overrides, work_dir='whole')
    cfg = small_config(overrides, work_dir='resumed')
    cfg.resume, cfg.load_from = True, f'{whole.work_dir}/epoch_1.pth'
    Runner.from_cfg(cfg).train()
    first, last, again = (
        read_checkpoint(f'{folder}/epoch_{epoch}.pth')['state_dict']
        for folder, epoch in ((whole.work_dir, 1), (whole.work_dir, 2), (cfg.work_dir, 2))
    )
    assert last.keys() == again.keys()
    for name, tensor in last.items():
        assert torch.equal(tensor, again[name]), name
    moved = {name for name in last if name.startswith('student.backbone') and not torch.equal(first[name], last[name])}
    assert moved == {f'student.backbone.blocks.{index}.attn.{part}.weight' for index in (0, 1) for part in ('qkv', 'proj')}
    opened = open_backbone(f'{whole.work_dir}/epoch_2.pth', which='student', num_heads=3)
    weight = opened.model.state_dict()['blocks.1.attn.proj.weight']
    assert torch.equal(weight, last['student.backbone.blocks.1.attn.proj.weight'])
