"""Files of other trainers: wrappers in names, and two networks under many names."""

import argparse

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmadclr.checkpoint.layouts import find_backbone
from mmadclr.checkpoint.names import WRAPPERS
from mmadclr.checkpoint.weights import read_backbone
from mmadclr.models.backbones import QueryViT

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)


def tensors(seed):
    torch.manual_seed(seed)
    return {name: torch.randn_like(tensor) for name, tensor in QueryViT(ARCH, img_size=32).state_dict().items()}


TRAINED, AVERAGED = tensors(0), tensors(1)


def below(prefix, state):
    return {f'{prefix}{name}': tensor for name, tensor in state.items()}


def assert_same(weights, state):
    assert weights.state.keys() == state.keys()
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in state.items())


# --- wrappers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrapper', sorted(WRAPPERS))
@pytest.mark.parametrize(
    'place',
    [
        lambda name, w: f'{w}.{name}',
        lambda name, w: f'model.{w}.{name}',
        lambda name, w: name.replace('blocks.0.', f'blocks.0.{w}.').replace('blocks.1.', f'blocks.1.{w}.{w}.'),
        lambda name, w: name.replace('blocks.', f'{w}.blocks.{w}.'),
        lambda name, w: '.'.join(part for whole in name.split('.') for part in (whole, w))[: -len(w) - 1],
        lambda name, w: name.replace('patch_embed.', f'patch_embed.{w}.').replace('norm.', f'norm.{w}.'),
        lambda name, w: f'_orig_mod.{w}._fsdp_wrapped_module.backbone.' + name.replace('.attn.', f'.attn.{w}.module.'),
    ],
    ids=['outside', 'below a prefix', 'blocks', 'list of blocks', 'everywhere', 'patches and norm', 'several'],
)
def test_wrappers_anywhere_do_not_count(wrapper, place):
    state = {place(name, wrapper): tensor for name, tensor in TRAINED.items()}
    assert_same(find_backbone({'state_dict': state}), TRAINED)


@pytest.mark.parametrize('names', ['dinov2', 'mmpretrain'])
def test_wrappers_are_removed_before_layouts_are_matched(names):
    rename = {
        'dinov2': lambda name: name.replace('blocks.', 'blocks.0.'),
        'mmpretrain': lambda name: name.replace('blocks.', 'layers.').replace('.mlp.fc1', '.ffn.layers.0.0'),
    }[names]
    state = {'.module.'.join(rename(name).split('.')): tensor for name, tensor in TRAINED.items()}
    assert_same(find_backbone(state), TRAINED)


def test_what_wrappers_really_write(tmp_path):
    """Names by torch itself: averaged, parallel and compiled modules."""
    model = QueryViT(ARCH, img_size=32)
    model.load_state_dict(TRAINED)
    model.blocks[0] = torch.compile(model.blocks[0])
    wrapped = AveragedModel(nn.ModuleDict({'encoder': nn.DataParallel(model)}))
    state = wrapped.state_dict()
    assert 'module.encoder.module.blocks.0._orig_mod.norm1.weight' in state
    torch.save(state, tmp_path / 'a.pth')
    assert_same(read_backbone(tmp_path / 'a.pth'), TRAINED)


def test_names_that_become_one_are_refused():
    state = {**TRAINED, 'blocks.0.module.norm1.weight': torch.ones(24)}
    with pytest.raises(
        ValueError, match=r"'blocks.0.norm1.weight' and 'blocks.0.module.norm1.weight' are the same name without"
    ):
        find_backbone(state)


def test_networks_that_differ_by_a_wrapper_alone_are_told_apart_by_hand():
    state = {**below('backbone.', TRAINED), **below('module.backbone.', AVERAGED)}
    with pytest.raises(ValueError, match=r"'backbone.', 'module.backbone.': choose one with prefix=... \(--prefix"):
        find_backbone(state)
    assert_same(find_backbone(state, prefix='backbone.'), TRAINED)
    assert_same(find_backbone(state, prefix='module.backbone.'), AVERAGED)


# --- two networks --------------------------------------------------------------------------------------------------------

PAIRS = {  # of the trained weights and of their averages: where they lie
    'lightly': ('state_dict.student_backbone.vit.', 'state_dict.teacher_backbone.vit.'),
    'solo-learn': ('state_dict.backbone.', 'state_dict.momentum_backbone.'),
    'timm': ('state_dict.', 'state_dict_ema.'),
    'deit': ('model.', 'model_ema.'),
    'byol': ('online_network.encoder.', 'target_network.encoder.'),
    'byol, short': ('online.', 'target.'),
    'i-jepa': ('encoder.module.', 'target_encoder.module.'),
    'moco v3': ('state_dict.module.base_encoder.', 'state_dict.module.momentum_encoder.'),
    'moco': ('state_dict.encoder_q.', 'state_dict.encoder_k.'),
    'dino': ('student.module.backbone.', 'teacher.backbone.'),
    'ours': ('state_dict.student.backbone.', 'state_dict.teacher.backbone.'),
    'ema': ('model.', 'ema.'),
    'camel case': ('model.', 'modelEMA.'),
    'swa': ('model.net.', 'swa_model.module.net.'),
    'student named alone': ('student_model.', 'backbone.'),
    'one within the other': ('', 'ema.'),
}


def nested(**prefixes):
    """Dicts in a file: the first part of a prefix is a key, the rest belongs to names."""
    content = {'hyper_parameters': argparse.Namespace(lr=1), 'optimizer_states': [], 'epoch': 3}
    for prefix, state in prefixes.items():
        key, _, rest = prefix.partition('.')
        if key:
            content.setdefault(key, {}).update(below(rest, state))
        else:
            content.update(state)
    return content


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('order', [1, -1])
def test_two_networks_are_told_apart(pair, order, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmadclr.checkpoint.weights.print_log', lambda text, _: said.append(text))
    student, teacher = PAIRS[pair]
    content = nested(**dict([(student, TRAINED), (teacher, AVERAGED)][::order]))
    torch.save(content, tmp_path / 'a.ckpt')
    assert_same(read_backbone(tmp_path / 'a.ckpt'), AVERAGED)
    assert f"using the teacher below '{teacher}'; select '{student}' with which='student' (--which student" in said[0]
    assert_same(read_backbone(tmp_path / 'a.ckpt', 'student'), TRAINED)
    assert f"using the student below '{student}'; select '{teacher}' with which='teacher'" in said[2]
    for prefix, state in ((student, TRAINED), (teacher, AVERAGED)):
        assert_same(read_backbone(tmp_path / 'a.ckpt', prefix=prefix), state)


class Model(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.backbone = QueryViT(ARCH, img_size=32)
        self.backbone.load_state_dict(state)


class Runner:
    def __init__(self, model):
        self.model = model


def test_the_averages_of_mmengine_are_where_its_hook_puts_them():
    """It exchanges the two when it saves, and averages bear the name of the trained weights."""
    model = Model(AVERAGED)
    hook = EMAHook()
    hook.before_run(Runner(model))
    model.backbone.load_state_dict(TRAINED)  # the average stays behind
    checkpoint = {'meta': {'mmengine_version': '0.10'}, 'state_dict': model.state_dict()}
    hook.before_save_checkpoint(Runner(model), checkpoint)
    assert checkpoint['ema_state_dict'].keys() >= {'steps', 'module.backbone.cls_token'}
    assert_same(find_backbone(checkpoint), AVERAGED)
    assert_same(find_backbone(checkpoint, 'student'), TRAINED)


def test_averages_of_unsigned_files_are_where_the_name_says():
    ema = {**below('module.backbone.', AVERAGED), 'steps': torch.tensor(3)}
    checkpoint = {'meta': {}, 'state_dict': below('backbone.', TRAINED), 'ema_state_dict': ema}
    assert_same(find_backbone(checkpoint), AVERAGED)
    assert_same(find_backbone(checkpoint, 'student'), TRAINED)


@pytest.mark.parametrize('prefix', ['', 'net.', 'my.very.own.thing.', 'student.', 'frozen_tower.', 'momentum_backbone.'])
def test_the_only_network_is_found_whatever_its_name(prefix):
    content = {'weights': below(prefix, TRAINED), 'other': {'conv.weight': torch.zeros(2, 2, 3, 3)}}
    weights = find_backbone(content)
    assert_same(weights, TRAINED)
    assert weights.prefix == f'weights.{prefix}'
    assert weights.remarks == ()


def test_a_student_that_is_not_there_is_not_replaced_by_the_teacher():
    with pytest.raises(
        ValueError, match=r"the only network in the file is the teacher below 'teacher\.'; omit which \(--which"
    ):
        find_backbone({'teacher': TRAINED}, 'student')


def test_candidates_are_listed_where_names_do_not_tell():
    content = {'left': TRAINED, 'right': below('vit.', AVERAGED)}
    with pytest.raises(ValueError, match=r"below 'left\.', 'right\.vit\.': choose one with prefix=\.\.\. \(--prefix"):
        find_backbone(content)
    assert_same(find_backbone(content, prefix='vit'), AVERAGED)
    with pytest.raises(ValueError, match=r"no backbone below prefix='middle'; found: 'left\.', 'right\.vit\.'"):
        find_backbone(content, prefix='middle')
    twice = {'left': below('vit.', TRAINED), 'right': below('vit.', AVERAGED)}
    with pytest.raises(ValueError, match=r"prefix='vit' matches several backbones: 'left\.vit\.', 'right\.vit\.'"):
        find_backbone(twice, prefix='vit')


def test_words_within_words_are_no_teachers():
    content = {'cinema': TRAINED, 'targeted': AVERAGED}
    with pytest.raises(ValueError, match='several backbones'):
        find_backbone(content)


def test_dicts_that_contain_themselves_end():
    content = {'model': dict(TRAINED)}
    content['model']['again'] = content
    with pytest.raises(ValueError, match='several backbones'):
        find_backbone(content)
