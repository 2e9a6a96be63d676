"""Files of every official layout go in and out, and what can be computed from them stays the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import torch
from golden_files import GoldenArrays, enlarged
from places import GOLDEN_CHECKPOINTS
from torch import nn

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.architecture import infer_settings
from mmadclr.checkpoint.weights import read_backbone
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.hub.conversion import LAYOUTS, convert
from mmadclr.hub.opening import open_backbone
from mmadclr.hub.resuming import build_model
from mmadclr.hub.training_state import read_training_state

FILES = ['dino_checkpoint', 'dino_backbone', 'ibot_checkpoint', 'ibot_checkpoint_teacher', 'selfpatch_checkpoint']
REFUSED = {('selfpatch_checkpoint', 'dino'), ('selfpatch_checkpoint', 'mmseg')}


class Published(NamedTuple):
    """What the golden files tell of a published run, and the files themselves by the ends of their names."""

    expected: GoldenArrays
    file: Callable[[str], Path]

    @property
    def num_heads(self) -> int:
        return self.expected.config['num_heads']


@pytest.fixture
def published(golden):
    def of(system: str) -> Published:
        return Published(
            golden(f'checkpoints/{system}_expected'), lambda end='checkpoint': golden.path(f'checkpoints/{system}_{end}.pth')
        )

    return of


def images(expected: GoldenArrays) -> dict[int, torch.Tensor]:
    return {224: torch.from_numpy(enlarged(expected)), 96: torch.from_numpy(expected['image_96'])}


def tokens(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    output = model(image)
    return output.patches if output.cls is None else torch.cat((output.cls[:, None], output.patches), dim=1)


def source(name: str):
    return GOLDEN_CHECKPOINTS / f'{name}.pth'


@pytest.mark.parametrize(('file', 'layout'), list(product(FILES, LAYOUTS)))
def test_features_are_the_same_after_a_round_trip(published, file, layout, tmp_path):
    system, end = file.split('_', 1)
    expected, files, heads = *published(system), published(system).num_heads
    target = tmp_path / f'out.{"safetensors" if layout == "safetensors" else "pth"}'
    if (file, layout) in REFUSED:
        with pytest.raises(ValueError, match=rf'{file}.pth cannot be written as {layout}: .* class token'):
            convert(files(end), target, layout)
        assert not list(tmp_path.iterdir())
        return
    convert(files(end), target, layout, num_heads=heads)
    before, after = (open_backbone(path, num_heads=heads) for path in (files(end), target))
    assert after.settings == before.settings
    for image in images(expected).values():
        torch.testing.assert_close(tokens(after.model, image), tokens(before.model, image), rtol=0, atol=1e-6)


@pytest.mark.parametrize('which', ['teacher', 'student'])
@pytest.mark.parametrize(
    ('system', 'kind', 'atol'), [('dino', 'features', 3e-5), ('ibot', 'tokens', 3e-5), ('selfpatch', 'tokens', 1e-4)]
)
def test_opened_backbones_give_the_published_features(published, which, system, kind, atol):
    expected, file = published(system)
    opened = open_backbone(file('checkpoint'), which=which, num_heads=expected.config['num_heads'])
    assert all(opened.settings['arch'][name] == expected.config[name] for name in ('embed_dim', 'depth', 'patch_size'))
    for size, image in images(expected).items():
        batch = torch.cat((image, image.flip(-1))) if system == 'selfpatch' else image
        got = opened.model(batch).cls if system == 'dino' else tokens(opened.model, batch)
        want = torch.from_numpy(expected[f'{which}/{kind}_{size}'])
        torch.testing.assert_close(got, want, rtol=0, atol=atol)


def test_which_chooses_the_network(tmp_path):
    convert(source('dino_checkpoint'), tmp_path / 'student.pth', 'timm', which='student')
    student = read_checkpoint(source('dino_checkpoint'))['student']
    for name, tensor in read_checkpoint(tmp_path / 'student.pth').items():
        assert torch.equal(tensor, student[f'module.backbone.{name}'])


def test_timm_loads_what_is_written_for_it(published, tmp_path):
    expected, file = published('dino')
    convert(file('backbone'), tmp_path / 'a.safetensors', 'safetensors')
    sizes = {name: expected.config[name] for name in ('img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads')}
    model = timm.models.VisionTransformer(**sizes, num_classes=0).eval()
    timm.models.load_checkpoint(model, str(tmp_path / 'a.safetensors'), strict=True)
    got = model(images(expected)[224])
    torch.testing.assert_close(got, torch.from_numpy(expected['teacher/features_224']), rtol=0, atol=3e-5)


@pytest.mark.dense
@pytest.mark.parametrize('package', ['mmpretrain', 'mmseg'])
def test_packages_load_what_is_written_for_them(published, package, tmp_path):
    expected, file = published('ibot')
    width, depth, heads, patch, side = (
        expected.config[name] for name in ('embed_dim', 'depth', 'num_heads', 'patch_size', 'img_size')
    )
    convert(file('checkpoint'), tmp_path / 'a.pth', package)
    state = {name.removeprefix('backbone.'): t for name, t in read_checkpoint(tmp_path / 'a.pth')['state_dict'].items()}
    vit = importlib.import_module(f'{package}.models').VisionTransformer
    if package == 'mmpretrain':
        arch = dict(embed_dims=width, num_layers=depth, num_heads=heads, feedforward_channels=4 * width)
        model = vit(arch, img_size=side, patch_size=patch, out_type='raw')
    else:
        norms = dict(norm_cfg=dict(type='LN', eps=1e-6), final_norm=True, patch_bias=True)
        model = vit(side, patch, embed_dims=width, num_layers=depth, num_heads=heads, output_cls_token=True, **norms)
    model.eval()
    model.load_state_dict(state, strict=True)
    (got,) = model(images(expected)[224])
    if package == 'mmseg':
        patches, cls = got
        got = torch.cat((cls[:, None], patches.flatten(2).transpose(1, 2)), dim=1)
    torch.testing.assert_close(got, torch.from_numpy(expected['teacher/tokens_224']), rtol=0, atol=3e-5)


def test_positions_are_resized_on_request_only(tmp_path):
    convert(source('dino_backbone'), tmp_path / 'a.pth', 'timm', img_size=96)
    got, stored = read_checkpoint(tmp_path / 'a.pth')['pos_embed'], read_checkpoint(source('dino_backbone'))['pos_embed']
    grid = stored[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    want = nn.functional.interpolate(grid, size=(6, 6), mode='bicubic').flatten(2).transpose(1, 2)
    assert torch.equal(got, torch.cat((stored[:, :1], want), dim=1))
    with pytest.raises(ValueError, match='img_size=100 must be a multiple of the patch size 16'):
        convert(source('dino_backbone'), tmp_path / 'b.pth', 'timm', img_size=100)


# --- whole training states -----------------------------------------------------------------------------------------------


def converted_model(path, num_heads=3):
    state = read_training_state(read_checkpoint(path))
    model = build_model(state, infer_settings(read_backbone(path), num_heads)).to_empty(device='cpu')
    model.load_state_dict(read_checkpoint(path)['state_dict'])
    return model.eval()


def check_what_was_kept(result, model, expected, file):
    """Sizes of the head, and the account of the conversion."""
    prototypes, bottleneck = model.student['head'].last_layer.weight_v.shape
    hidden = len(model.student['head'].mlp[0].weight)
    assert (prototypes, hidden, bottleneck) == tuple(expected.config[k] for k in ('out_dim', 'hidden_dim', 'bottleneck_dim'))
    moments = len(read_checkpoint(file('checkpoint'))['optimizer']['state'])
    assert (result.lost, result.kept[-1]) == (['args'], f'optimizer: moments of {moments} tensors')


@torch.no_grad()
def test_heads_and_centers_of_dino_are_kept(published, tmp_path):
    (expected, file), heads = published('dino'), published('dino').num_heads
    result = convert(file('checkpoint'), tmp_path / 'a.pth', 'mmadclr', num_heads=heads)
    model = converted_model(tmp_path / 'a.pth', heads)
    for which in ('student', 'teacher'):
        network = getattr(model, which)
        logits = network['head'](network['backbone'](images(expected)[224]).cls)
        torch.testing.assert_close(logits, torch.from_numpy(expected[f'{which}/logits_224']), rtol=0, atol=3e-5)
    assert torch.equal(model.loss_cls.center, torch.from_numpy(expected['center'])[0])
    meta = read_checkpoint(tmp_path / 'a.pth')['meta']
    assert (meta['epoch'], meta['method']) == (expected.config['epoch'], 'DINO')
    check_what_was_kept(result, model, expected, file)


@torch.no_grad()
def test_heads_and_centers_of_ibot_are_kept(published, tmp_path):
    (expected, file), heads = published('ibot'), published('ibot').num_heads
    result = convert(file('checkpoint'), tmp_path / 'a.pth', 'mmadclr', num_heads=heads)
    model = converted_model(tmp_path / 'a.pth', heads)
    image = images(expected)[224]
    for which in ('student', 'teacher'):
        network = getattr(model, which)
        output = network['backbone'](image)
        logits = network['head'](output.cls), network['head'](output.patches[:, :5])
        for got, kind in zip(logits, ('cls_logits_224', 'patch_logits_224_first5'), strict=True):
            torch.testing.assert_close(got, torch.from_numpy(expected[f'{which}/{kind}']), rtol=0, atol=3e-5)
    masked = model.student['backbone'](image, mask=torch.from_numpy(expected['mask_224']))
    got = torch.cat((masked.cls[:, None], masked.patches), dim=1)
    torch.testing.assert_close(got, torch.from_numpy(expected['student/tokens_224_masked']), rtol=0, atol=3e-5)
    for loss, name in ((model.loss_cls, 'center'), (model.loss_patch, 'center2')):
        assert torch.equal(loss.center, torch.from_numpy(expected[name]).flatten())
    check_what_was_kept(result, model, expected, file)


@torch.no_grad()
def test_heads_and_centers_of_selfpatch_are_kept(published, tmp_path):
    (expected, file), heads = published('selfpatch'), published('selfpatch').num_heads
    result = convert(file('checkpoint'), tmp_path / 'a.pth', 'mmadclr', num_heads=heads)
    model = converted_model(tmp_path / 'a.pth', heads)
    for which, (size, image) in product(('student', 'teacher'), images(expected).items()):
        network, grid = getattr(model, which), 2 * (image.shape[-1] // expected.config['patch_size'],)
        cls, patches = network['class_attention'](network['backbone'](torch.cat((image, image.flip(-1)))).patches, grid)
        clear = torch.from_numpy(expected[f'{which}/clear_ranking_{size}'])
        got = torch.cat((cls[:, None], patches), dim=1)[clear]
        want = torch.from_numpy(expected[f'{which}/ca_teacher_{size}'])[clear]
        torch.testing.assert_close(got, want, rtol=0, atol=3e-5)
    original = read_checkpoint(file('checkpoint'))
    for ours, theirs in (('head', 'c_head'), ('patch_head', 'p_head')):
        for name, tensor in model.student[ours].state_dict().items():
            assert torch.equal(tensor, original['student'][f'module.{theirs}.{name}'])
    for loss, name in ((model.loss_cls, 'center'), (model.loss_patch, 'patch_center')):
        assert torch.equal(loss.center, torch.from_numpy(expected[name]).flatten())
    assert read_checkpoint(tmp_path / 'a.pth')['meta']['method'] == 'SelfPatch'
    assert len(model.student['patch_head'].last_layer.weight_v) == expected.config['out_dim_selfpatch']
    assert model.student['class_attention'].num_neighbors == expected.config['k_num']
    check_what_was_kept(result, model, expected, file)


def test_dino_gets_of_an_ibot_run_what_it_can_hold(tmp_path):
    result = convert(source('ibot_checkpoint'), tmp_path / 'a.pth', 'dino')
    assert result.lost == ['args', 'student.backbone.mask_token', 'center of loss_patch']
    content = read_checkpoint(tmp_path / 'a.pth')
    student = official_student()
    student.load_state_dict(content['student'], strict=True)
    torch.optim.AdamW(official_groups(student)).load_state_dict(content['optimizer'])
    original = read_checkpoint(source('ibot_checkpoint'))['student']
    assert all(torch.equal(tensor, original[name]) for name, tensor in student.state_dict().items())


class OfficialHead(nn.Module):
    """The module tree of DINO's head, for its names."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16))
        self.last_layer = nn.utils.weight_norm(nn.Linear(16, 64, bias=False))


def official_student() -> nn.Module:
    backbone = timm.models.VisionTransformer(224, 16, embed_dim=12, depth=2, num_heads=3, num_classes=0)
    return nn.ModuleDict({'module': nn.ModuleDict({'backbone': backbone, 'head': OfficialHead()})})


def official_groups(student: nn.Module) -> list[dict]:
    named = list(student.named_parameters())
    is_exempt = [name.endswith('.bias') or len(p.shape) == 1 for name, p in named]
    decayed, exempt = ([p for (_, p), e in zip(named, is_exempt, strict=True) if e == wanted] for wanted in (False, True))
    return [{'params': decayed}, {'params': exempt, 'weight_decay': 0.0}]


def stepped(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Parameters after one step on gradients that depend on the name alone."""
    for name, parameter in named.items():
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group, decay in zip(optimizer.param_groups, (0.04, 0.0), strict=True):
        group.update(lr=0.01, weight_decay=decay)
    optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in named.items()}


def test_the_optimizer_goes_on_as_the_official_one(tmp_path):
    convert(source('dino_checkpoint'), tmp_path / 'ours.pth', 'mmadclr', num_heads=3)
    ours = converted_model(tmp_path / 'ours.pth')
    optimizer = build_optimizer(ours)
    optimizer.load_state_dict(read_checkpoint(tmp_path / 'ours.pth')['optimizer'])
    got = stepped(optimizer, dict(ours.student.named_parameters()))

    # DINO's file, written from ours again, read by DINO's own way of restarting.
    convert(tmp_path / 'ours.pth', tmp_path / 'dino.pth', 'dino')
    content = read_checkpoint(tmp_path / 'dino.pth')
    student = official_student()
    student.load_state_dict(content['student'], strict=True)
    theirs = torch.optim.AdamW(official_groups(student))
    theirs.load_state_dict(content['optimizer'])
    want = stepped(theirs, {name.removeprefix('module.'): p for name, p in student.named_parameters()})
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-7)

    # And both have the moments of the original file, whose numbers go by DINO's order.
    content = read_checkpoint(tmp_path / 'dino.pth')
    original = read_checkpoint(source('dino_checkpoint'))['optimizer']['state']
    for index, moments in original.items():
        for key in ('step', 'exp_avg', 'exp_avg_sq'):
            assert torch.equal(content['optimizer']['state'][index][key], moments[key])
    assert content['dino_loss']['center'].shape == (1, 64)


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return SelfDistillationOptimConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3)))(model).optimizer


def test_wrappers_do_not_hide_a_training_state(tmp_path):
    original = torch.load(source('dino_checkpoint'), weights_only=False)
    for part in ('student', 'teacher'):
        state = {name.replace('blocks.0.', 'blocks.0._orig_mod.'): tensor for name, tensor in original[part].items()}
        original[part] = {f'_forward_module.{name}': tensor for name, tensor in state.items()}
    torch.save(original, tmp_path / 'wrapped.pth')
    for name, path in (('a.pth', source('dino_checkpoint')), ('b.pth', tmp_path / 'wrapped.pth')):
        convert(path, tmp_path / name, 'mmadclr', num_heads=3)
    a, b = (read_checkpoint(tmp_path / name) for name in ('a.pth', 'b.pth'))
    assert a['state_dict'].keys() == b['state_dict'].keys()
    assert all(torch.equal(a['state_dict'][name], tensor) for name, tensor in b['state_dict'].items())
    assert a['optimizer']['state'].keys() == b['optimizer']['state'].keys()


@pytest.mark.parametrize('which', ['teacher', 'student'])
@pytest.mark.parametrize('layout', ['mmadclr', 'timm', 'dino'])
def test_two_networks_of_another_trainer_are_no_training_state_of_ours(layout, which, tmp_path):
    state = read_checkpoint(source('dino_backbone'))
    networks = {'student': {name: -tensor for name, tensor in state.items()}, 'teacher': state}
    content = {f'{name}.vit.{key}': tensor for name, part in networks.items() for key, tensor in part.items()}
    torch.save({'state_dict': content, 'epoch': 3}, tmp_path / 'a.ckpt')
    convert(tmp_path / 'a.ckpt', tmp_path / 'b.pth', layout, which, num_heads=3)
    found = read_backbone(tmp_path / 'b.pth').state
    assert all(torch.equal(found[name], tensor) for name, tensor in networks[which].items())


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'layout', 'target', 'message'),
    [
        ('dino_backbone', 'tim', 'a.pth', "layout 'tim': choose one of mmadclr, timm"),
        ('dino_backbone', 'safetensors', 'a.pth', 'must end in .safetensors'),
        ('dino_checkpoint', 'dino', 'a.safetensors', 'store only tensors, but this layout is nested: use a .pth file'),
        ('dino_backbone', 'mmadclr', 'a.pth', r'12 channels are not a multiple of 64: set num_heads'),
    ],
)
def test_impossible_conversions_are_explained_and_leave_nothing_behind(name, layout, target, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(source(name), tmp_path / target, layout)
    assert not list(tmp_path.iterdir())


def test_what_exists_survives_a_failed_conversion(tmp_path, monkeypatch):
    (tmp_path / 'a.pth').write_text('precious')
    monkeypatch.setattr('mmadclr.hub.conversion.torch.save', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        convert(source('dino_backbone'), tmp_path / 'a.pth', 'timm')
    assert [path.read_text() for path in tmp_path.iterdir()] == ['precious']


def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    save = torch.save
    monkeypatch.setattr(
        'mmadclr.hub.conversion.torch.save',
        lambda content, path: save({name: tensor + 1e-6 for name, tensor in content.items()}, path),
    )
    with pytest.raises(ValueError, match='the backbone read back from the new file differs'):
        convert(source('dino_backbone'), tmp_path / 'a.pth', 'timm')
    assert not list(tmp_path.iterdir())
