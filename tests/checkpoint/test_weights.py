"""Backbones from every known layout, with an account of every tensor, and without running what is in the file."""

import argparse
import builtins
import importlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import timm
import torch
from golden_files import enlarged
from places import GOLDEN_CHECKPOINTS
from references import resized_positions
from safetensors.torch import save_file
from torch import nn

from mmadclr.checkpoint import check_state_dict, load_weights, read_checkpoint
from mmadclr.checkpoint.loading import architecture
from mmadclr.models.backbones import DenseViT, QueryViT
from mmadclr.registry import MODELS

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
NUM_TENSORS = 4 + 2 * 12 + 2


def spread(model: nn.Module) -> nn.Module:
    """Weights so large that every tensor moves the result."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval()
    return model


def build(**kwargs) -> QueryViT:
    return QueryViT(**{'arch': ARCH, 'img_size': 32, **kwargs}).eval()


def tokens(model: QueryViT, images: torch.Tensor) -> torch.Tensor:
    output = model(images)
    return torch.cat((output.cls[:, None], output.patches), dim=1)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def source():
    return spread(build())


@pytest.fixture
def state(source):
    return source.state_dict()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32)


@pytest.fixture
def save(tmp_path):
    def write(content, name: str = 'a.pth', **kwargs) -> str:
        torch.save(content, tmp_path / name, **kwargs)
        return str(tmp_path / name)

    return write


def loaded(filename, **kwargs):
    model = build()
    return model, load_weights(model, filename, **kwargs)


def assert_loaded(model: nn.Module, state: dict) -> None:
    got = model.state_dict()
    assert got.keys() == state.keys()
    assert not [name for name in state if not torch.equal(got[name], state[name])]


# --- golden files ---------------------------------------------------------------------------------------------------------

GOLDEN_FILES = [  # file, which, prefix, left out
    ('dino_checkpoint', 'teacher', 'teacher.backbone.', 0),
    ('dino_checkpoint', 'student', 'student.module.backbone.', 0),
    ('dino_backbone', 'teacher', '', 0),
    ('ibot_checkpoint', 'teacher', 'teacher.backbone.', 0),
    ('ibot_checkpoint', 'student', 'student.module.backbone.', 1),
    ('ibot_checkpoint_teacher', 'teacher', 'state_dict.', 0),
    ('selfpatch_checkpoint', 'teacher', 'teacher.backbone.', 0),
    ('selfpatch_checkpoint', 'student', 'student.module.backbone.', 0),
]


def features(system: str, model: QueryViT, images: torch.Tensor) -> torch.Tensor:
    if system == 'dino':
        return model(images).cls
    if system == 'ibot':
        return tokens(model, images)
    (grid,) = model(torch.cat((images, images.flip(-1))))
    return grid.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(('file', 'which', 'prefix', 'left_out'), GOLDEN_FILES)
def test_features_equal_those_of_the_published_models(golden, file, which, prefix, left_out):
    system = file.split('_')[0]
    expected, path = golden(f'checkpoints/{system}_expected'), golden.path(f'checkpoints/{file}.pth')
    arch = {key: expected.config[key] for key in ('embed_dim', 'depth', 'num_heads', 'patch_size')}
    plain = dict(class_token=False, out_indices=(arch['depth'] - 1,)) if system == 'selfpatch' else {}
    model = spread((DenseViT if plain else QueryViT)(arch, img_size=expected.config['img_size'], **plain))
    report = load_weights(model, path, **({'which': which} if which == 'student' else {}))
    assert report.prefix == prefix
    assert (len(report.matched), len(report.left_out)) == (len(model.state_dict()), left_out)
    name, atol = ('features', 3e-5) if system == 'dino' else ('tokens', 1e-4 if system == 'selfpatch' else 3e-5)
    for size, image in ((224, enlarged(expected)), (96, expected['image_96'])):
        got = features(system, model, torch.from_numpy(image))
        want = torch.from_numpy(expected[f'{which}/{name}_{size}'])
        torch.testing.assert_close(got, want, rtol=0, atol=atol, msg=lambda text, size=size: f'{size}: {text}')


def test_classless_file_needs_permission_to_enter_a_model_with_class_token():
    model = spread(QueryViT(dict(embed_dim=12, depth=2, num_heads=3, patch_size=16)))
    before = model.pos_embed[:, 0].clone()
    file = GOLDEN_CHECKPOINTS / 'selfpatch_checkpoint.pth'
    with pytest.raises(ValueError, match=r'3 missing from the file \(cls_token, norm\.weight, norm\.bias\)'):
        load_weights(model, file)
    report = load_weights(model, file, allow=['cls_token', 'norm.*'])
    assert report.resized == ['pos_embed (196 -> 197 positions)']
    stored = read_checkpoint(file)['teacher']['backbone.pos_embed']
    assert torch.equal(model.pos_embed, torch.cat((before[:, None], stored), dim=1))


# --- layouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('which', ['teacher', 'student'])
def test_own_checkpoints(save, which):
    head = dict(type='DINOHead', out_dim=16, hidden_dim=16, bottleneck_dim=8)
    system = MODELS.build(dict(type='ADCLR', backbone=dict(type='QueryViT', arch=ARCH, img_size=32), head=head))
    spread(system)
    file = save({'state_dict': system.state_dict(), 'meta': {'architecture': architecture(system)}, 'optimizer': {}})
    model, report = loaded(file, which=which)
    assert_loaded(model, getattr(system, which).backbone.state_dict())
    assert (len(report.matched), report.prefix) == (NUM_TENSORS, f'state_dict.{which}.backbone.')
    with pytest.raises(ValueError, match=r"pretrained with 3 attention heads, not 4 \('num_heads'\)"):
        load_weights(build(arch={**ARCH, 'num_heads': 4}), file, which=which)
    load_weights(build(arch={**ARCH, 'num_heads': 4}), file, which=which, allow=['num_heads'])


def test_timm_models_with_a_classifier(save, images):
    theirs = timm.models.VisionTransformer(img_size=32, num_classes=5, **ARCH)
    model, report = loaded(save(spread(theirs).state_dict()))
    torch.testing.assert_close(tokens(model, images), theirs.forward_features(images), rtol=0, atol=1e-5)
    assert report.left_out == ['head.weight', 'head.bias']


@pytest.mark.dense
def test_mmpretrain_models(save, images):
    mmpretrain = importlib.import_module('mmpretrain.models')
    sizes = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=96)
    theirs = mmpretrain.VisionTransformer(sizes, img_size=32, patch_size=8, out_type='raw')
    content = {f'backbone.{name}': t for name, t in spread(theirs).state_dict().items()}
    model, report = loaded(save({'state_dict': {**content, 'head.layers.head.weight': torch.zeros(5, 24)}, 'meta': {}}))
    torch.testing.assert_close(tokens(model, images), theirs(images)[0], rtol=0, atol=1e-5)
    assert (len(report.matched), report.prefix) == (NUM_TENSORS, 'state_dict.backbone.')


@pytest.fixture
def mmseg_vit():
    importlib.import_module('mmadclr.ops')
    mmseg = importlib.import_module('mmseg.models')

    def make(**kwargs):
        sizes = dict(img_size=(32, 32), patch_size=8, embed_dims=24, num_layers=2, num_heads=3, out_indices=(0, 1))
        norm = dict(type='LN', eps=1e-6)
        return spread(mmseg.VisionTransformer(**sizes, norm_cfg=norm, **{'patch_bias': True, 'final_norm': True, **kwargs}))

    return make


@pytest.mark.dense
def test_mmseg_models(save, images, mmseg_vit):
    theirs = mmseg_vit()
    file = save({'state_dict': {f'backbone.{name}': t for name, t in theirs.state_dict().items()}})
    model, report = loaded(file)
    assert len(report.matched) == NUM_TENSORS
    last = model(images).patches.transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(last, theirs(images)[-1], rtol=0, atol=1e-5)


@pytest.mark.dense
def test_mmseg_models_without_final_norm(save, images, mmseg_vit):
    theirs = mmseg_vit(final_norm=False)
    model = DenseViT(ARCH, img_size=32, out_indices=(0, 1)).eval()
    assert len(load_weights(model, save(theirs.state_dict())).matched) == NUM_TENSORS - 2
    for got, want in zip(model(images), theirs(images), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=5e-5)  # no norm has scaled the values


@pytest.mark.dense
def test_mmseg_default_of_no_patch_bias_is_noticed(save, mmseg_vit):
    with pytest.raises(ValueError, match=r'1 missing from the file \(patch_embed\.proj\.bias\)'):
        loaded(save(mmseg_vit(patch_bias=False).state_dict()))


def test_mae_decoder_is_left_out(save, state):
    decoder = [
        *('mask_token', 'decoder_pos_embed', 'decoder_embed.weight', 'decoder_norm.bias', 'decoder_pred.weight'),
        *('decoder_blocks.0.attn.qkv.weight', 'decoder_blocks.0.norm1.weight'),
    ]
    model, report = loaded(save({'model': {**state, **dict.fromkeys(decoder, torch.zeros(2))}, 'epoch': 3}))
    assert_loaded(model, state)
    assert sorted(report.left_out) == sorted(decoder)


def test_dead_modules_of_the_authors_code_are_left_out(save, state):
    dead = ['masked_embed', 'norm2.weight', 'query_block.attn.qkv.weight', 'fpn1.0.weight', 'head.weight', 'fc_norm.bias']
    model, report = loaded(save({**state, **dict.fromkeys(dead, torch.zeros(2))}))
    assert_loaded(model, state)
    assert sorted(report.left_out) == sorted(dead)


def test_detectors_and_wrapped_models(save, state):
    for prefix in ('backbone.', 'module.', 'module.backbone.', 'model.encoder.'):
        content = {f'{prefix}{name}': tensor for name, tensor in state.items()}
        model, report = loaded(save({'state_dict': {**content, 'neck.conv.weight': torch.zeros(2)}}))
        assert_loaded(model, state)
        assert report.prefix == f'state_dict.{prefix}'


def test_safetensors(tmp_path, state):
    save_file(state, tmp_path / 'a.safetensors')
    model, report = loaded(tmp_path / 'a.safetensors')
    assert_loaded(model, state)
    assert len(report.matched) == NUM_TENSORS


def test_files_of_before_the_zip_format(save, state):
    model, _ = loaded(save({'teacher': state}, _use_new_zipfile_serialization=False))
    assert_loaded(model, state)


def test_half_precision_files_are_widened(save, state):
    half = {name: tensor.half() for name, tensor in state.items()}
    assert_loaded(loaded(save(half))[0], {name: tensor.float() for name, tensor in half.items()})


# --- prefixes -------------------------------------------------------------------------------------------------------------


def test_one_of_several_backbones_is_chosen_by_prefix(save, state):
    file = save({'a': {name: -tensor for name, tensor in state.items()}, 'b': {'net': state}})
    with pytest.raises(ValueError, match=r"a\.pth: the file has several backbones, below 'a\.', 'b\.net\.': .*prefix="):
        loaded(file)
    model, report = loaded(file, prefix='b.net.')
    assert_loaded(model, state)
    assert report.prefix == 'b.net.'
    with pytest.raises(ValueError, match=r"a\.pth: no backbone below prefix='c\.'; found: 'a\.', 'b\.net\.'"):
        loaded(file, prefix='c.')


@pytest.mark.parametrize(
    'prefix', ['ema_state_dict.module.backbone.', 'ema_state_dict.backbone', 'ema_state_dict.backbone.']
)
def test_a_prefix_needs_neither_wrappers_nor_its_last_dot(save, state, prefix):
    averaged = {f'module.backbone.{name}': tensor for name, tensor in state.items()}
    trained = {f'backbone.{name}': -tensor for name, tensor in state.items()}
    model, report = loaded(save({'state_dict': trained, 'ema_state_dict': averaged}), prefix=prefix)
    assert_loaded(model, state)
    assert report.prefix == 'ema_state_dict.module.backbone.'


def test_teacher_and_student_go_before_other_prefixes(save, state):
    other = {name: -tensor for name, tensor in state.items()}
    file = save({'teacher': state, 'student': other, 'optimizer': {'state': state}, 'extra': other})
    assert_loaded(loaded(file)[0], state)
    assert_loaded(loaded(file, which='student')[0], other)
    with pytest.raises(ValueError, match=r"a\.pth: which='ema': choose 'teacher' or 'student'"):
        loaded(file, which='ema')


def test_moments_of_the_optimizer_are_no_backbone(save, state):
    moments = {name: -tensor for name, tensor in state.items()}
    assert_loaded(loaded(save({'model': state, 'optimizer': {'exp_avg': moments}}))[0], state)


def test_files_without_a_vision_transformer(save):
    with pytest.raises(ValueError, match=r'a\.pth: patch_embed\.proj\.weight is missing'):
        loaded(save({'conv1.weight': torch.zeros(2)}))
    with pytest.raises(ValueError, match=r'a\.pth is not a checkpoint: it holds a list, not a dict of tensors'):
        loaded(save([torch.zeros(2)]))


# --- the report -----------------------------------------------------------------------------------------------------------


def test_report_counts_every_tensor(save, state, tmp_path):
    del state['norm.bias']
    model = build(img_size=(48, 40))
    file = save({'teacher': {**state, 'head.weight': torch.zeros(2), 'extra.weight': torch.zeros(2)}})
    report = load_weights(model, file, allow=['norm.bias', 'extra.*'])
    assert str(report) == (
        f'backbone from {tmp_path}/a.pth, teacher.*: {NUM_TENSORS - 2} matched, 1 resized, 1 missing, 1 unexpected, '
        '1 left out tensors; resized: pos_embed (17 -> 31 positions); missing: norm.bias; unexpected: extra.weight; '
        'left out: head.weight'
    )
    assert set(report.matched) == set(state) - {'pos_embed'}


def test_report_is_shortened_and_logged(save, state, monkeypatch):
    lines = []
    monkeypatch.setattr('mmadclr.checkpoint.weights.print_log', lambda text, logger: lines.append(text))
    _, report = loaded(save({**state, **{f'x{i}': torch.zeros(2) for i in range(6)}}), allow=['x?'])
    assert str(report).endswith('6 unexpected, 0 left out tensors; unexpected: x0, x1, x2, x3 and 2 more')
    assert lines[1:] == [str(report)]
    assert 'the license of the weights is not recorded' in lines[0]


def test_final_norm_is_left_out_of_models_without_one(save, state):
    model = DenseViT(ARCH, img_size=32, out_indices=(1,))
    with pytest.raises(ValueError, match=r'2 not in the model \(norm\.weight, norm\.bias\)'):
        load_weights(model, save(state))
    report = load_weights(model, save(state), unused=('norm.*',))
    assert report.left_out == ['norm.weight', 'norm.bias']
    assert_loaded(model, {name: tensor for name, tensor in state.items() if not name.startswith('norm.')})


@pytest.mark.parametrize('img_size', [(48, 40), (24, 64), (16, 16), (104, 8)])
def test_positions_are_resized_by_size(save, state, img_size):
    model = build(img_size=img_size)
    load_weights(model, save(state))
    grid = (img_size[0] // 8, img_size[1] // 8)
    expected = resized_positions(state['pos_embed'], (4, 4), grid)
    torch.testing.assert_close(model.pos_embed.double(), expected, rtol=0, atol=2e-6)
    assert torch.equal(model.pos_embed[:, 0], state['pos_embed'][:, 0])


def test_classless_models_drop_the_class_position(save, state):
    model = DenseViT(ARCH, img_size=(40, 40), class_token=False, out_indices=(1,), out_norm=True)
    with pytest.raises(ValueError, match=r'1 not in the model \(cls_token\)'):
        load_weights(model, save(state))
    load_weights(model, save(state), allow=['cls_token'])
    expected = resized_positions(state['pos_embed'], (4, 4), (5, 5))[:, 1:]
    torch.testing.assert_close(model.pos_embed.double(), expected, rtol=0, atol=2e-6)


def test_positions_of_no_square_grid_cannot_be_resized(save):
    file = save(build(img_size=(32, 40)).state_dict())
    with pytest.raises(ValueError, match=r'a\.pth: 20 positions do not form a square grid.*set img_size'):
        loaded(file)
    load_weights(build(img_size=(32, 40)), file)


# --- what does not fit ----------------------------------------------------------------------------------------------------


def test_missing_tensors_are_refused_unless_allowed(save, state):
    del state['blocks.1.mlp.fc2.bias']
    file = save(state)
    with pytest.raises(
        ValueError, match=r'a\.pth does not match .*1 missing from the file \(blocks\.1\.mlp\.fc2\.bias\).*allow='
    ):
        loaded(file)
    with pytest.raises(ValueError, match=r'blocks\.1\.mlp\.fc2\.bias'):
        loaded(file, allow=['norm.*', 'blocks.1.mlp.fc2.weight'])
    assert loaded(file, allow=['blocks.1.mlp.fc2.bias'])[1].missing == ['blocks.1.mlp.fc2.bias']


def test_unexpected_tensors_are_refused_unless_allowed(save, state):
    file = save({**state, 'blocks.0.ls1.gamma': torch.ones(24), 'extra_token': torch.ones(1, 1, 24)})
    with pytest.raises(ValueError, match=r'2 not in the model \(blocks\.0\.ls1\.gamma, extra_token\)'):
        loaded(file)
    with pytest.raises(ValueError, match=r'1 not in the model \(extra_token\)'):
        loaded(file, allow=['blocks.*.ls1.*'])
    model, report = loaded(file, allow=['blocks.*.ls1.*', 'extra_token'])
    assert_loaded(model, state)
    assert report.unexpected == ['blocks.0.ls1.gamma', 'extra_token']


def test_deeper_files_are_refused(save):
    with pytest.raises(ValueError, match=r'12 not in the model \(blocks\.2\.norm1\.weight'):
        loaded(save(build(arch={**ARCH, 'depth': 3}).state_dict()))
    with pytest.raises(ValueError, match=r'12 missing from the file \(blocks\.1\.norm1\.weight'):
        loaded(save(build(arch={**ARCH, 'depth': 1}).state_dict()))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(embed_dim=36),
            r'of a different shape \(cls_token \(1, 1, 36\) in the file, \(1, 1, 24\) in the model, pos_embed',
        ),
        (dict(patch_size=16), r'1 of a different shape \(patch_embed\.proj\.weight \(24, 3, 16, 16\) in the file'),
        (
            dict(mlp_ratio=2),
            r'6 of a different shape \(blocks\.0\.mlp\.fc1\.weight \(48, 24\) in the file, \(96, 24\) in the',
        ),
    ],
)
def test_other_shapes_are_refused_whatever_is_allowed(save, change, message):
    file = save(build(arch={**ARCH, **change}).state_dict())
    for allow in ((), ('*',)):
        with pytest.raises(ValueError, match=message):
            loaded(file, allow=allow)


def test_a_refused_file_changes_nothing(save, state):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del state['norm.bias']
    with pytest.raises(ValueError, match='does not match'):
        load_weights(model, save(state))
    assert_loaded(model, before)


# --- files that are not to be trusted -------------------------------------------------------------------------------------


class Call:
    """Pickles as the instruction to call a function."""

    def __init__(self, function, *args) -> None:
        self.recipe = (function, args)

    def __reduce__(self):
        return self.recipe

    def __call__(self) -> None:  # may stand where pickle asks for a callable
        """Never called."""


def attacks(target) -> dict:
    found = Call(getattr, Call(importlib.import_module, 'os'), 'mknod')
    return {
        'shell': Call(os.system, f'touch {target}'),
        'open': Call(open, str(target), 'w'),
        'exec': Call(builtins.exec, f'open({str(target)!r}, "w")'),
        'chain': Call(found, str(target)),
        'numpy': Call(np.save, str(target), np.zeros(2)),
        'rebuild': Call(torch._utils._rebuild_parameter, Call(os.mknod, str(target)), True, None),
        'state': [{Call(open, str(target), 'w'): 0}, {1: Call(open, str(target), 'w')}],
    }


@pytest.fixture
def target(tmp_path):
    return tmp_path / 'target.npy'


@pytest.mark.parametrize(
    'options',
    [{}, dict(pickle_protocol=4), dict(_use_new_zipfile_serialization=False)],
    ids=['zip', 'protocol 4', 'before zip'],
)
@pytest.mark.parametrize('attack', ['shell', 'open', 'exec', 'chain', 'numpy', 'state'])
def test_nothing_in_a_file_is_executed(save, state, target, attack, options):
    content = {'args': attacks(target)[attack], 'teacher': state, 'zz': attacks(target)[attack]}
    file = save(content, **options)
    model, _ = loaded(file)
    assert not target.exists()
    assert_loaded(model, state)
    assert check_state_dict(build(), file, read_checkpoint(file)['teacher']).keys() == state.keys()


@pytest.mark.parametrize('attack', ['shell', 'open', 'exec', 'chain', 'numpy', 'state'])
def test_the_attacks_work_on_readers_that_trust(target, attack):
    """The test above would notice."""
    pickle.loads(pickle.dumps(attacks(target)[attack]))
    assert target.exists()


def test_what_tensors_are_made_of_does_not_call_either(save, state, target):
    with pytest.raises(ValueError, match=r'a\.pth cannot be read as a checkpoint'):
        read_checkpoint(save({'args': attacks(target)['rebuild'], 'teacher': state}))
    assert not target.exists()


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_plain_pickles_are_neither_executed_nor_taken_for_checkpoints(tmp_path, target, protocol):
    (tmp_path / 'a.pth').write_bytes(pickle.dumps({'args': attacks(target)['open']}, protocol))
    with pytest.raises(ValueError, match=r'a\.pth cannot be read as a checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')
    assert not target.exists()


def test_objects_beside_the_tensors_do_no_harm(save, state):
    content = {
        'args': argparse.Namespace(lr=1e-3, arch='vit_small', nested=argparse.Namespace(a=[1])),
        'teacher': state,
        'scalars': [np.float64(0.5), np.int32(3), np.arange(3), {np.float32(1.5)}],
        'epoch': 7,
        'types': [os.PathLike, torch.float16, nn.Linear(2, 2), {1, 2}, slice(1, 2), 2 + 3j, bytearray(b'x')],
    }
    file = save(content)
    assert_loaded(loaded(file)[0], state)
    read = read_checkpoint(file)
    assert read['epoch'] == 7
    assert not isinstance(read['args'], argparse.Namespace)
    assert not hasattr(read['args'], 'lr')


def test_what_the_reader_keeps_is_what_torch_would_read(save, state):
    shared = torch.randn(6, 4)
    content = {'views': [shared[1:3], shared.T], 'parameter': nn.Parameter(torch.ones(2)), 'state_dict': state}
    read = read_checkpoint(save(content))
    assert all(torch.equal(a, b) for a, b in zip(read['views'], content['views'], strict=True))
    assert read['views'][0].untyped_storage().data_ptr() == read['views'][1].untyped_storage().data_ptr()
    assert isinstance(read['parameter'], nn.Parameter)
    assert read['state_dict'].keys() == state.keys()


def test_programs_are_refused(tmp_path):
    torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(str(tmp_path / 'a.pth'))
    with pytest.raises(
        ValueError, match=r'a\.pth cannot be read as a checkpoint: it is a TorchScript program; save its state_dict\(\)'
    ):
        read_checkpoint(tmp_path / 'a.pth')


# --- damaged files --------------------------------------------------------------------------------------------------------


def as_bytes(state: dict, name: str, tmp_path) -> bytes:
    if name.endswith('.safetensors'):
        save_file(state, tmp_path / 'whole')
        return (tmp_path / 'whole').read_bytes()
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization='zip' in name)
    return buffer.getvalue()


@pytest.mark.parametrize('name', ['zip.pth', 'old.pth', 'a.safetensors'])
def test_truncated_files_are_named(tmp_path, state, name):
    data = as_bytes(state, name, tmp_path)
    for kept in (0, 3, 10, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        (tmp_path / name).write_bytes(data[:kept])
        with pytest.raises(ValueError, match=rf'{name} cannot be read as a checkpoint'):
            read_checkpoint(tmp_path / name)


def test_damaged_archives_are_named(tmp_path, state):
    data = as_bytes(state, 'zip.pth', tmp_path)
    for position in map(data.rfind, (b'data.pkl', b'PK\x05\x06', b'PK\x01\x02')):
        (tmp_path / 'a.pth').write_bytes(data[:position] + b'?' + data[position + 1 :])
        with pytest.raises(ValueError, match=r'a\.pth cannot be read as a checkpoint'):
            read_checkpoint(tmp_path / 'a.pth')


def test_archives_of_other_things_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('readme.txt', 'no checkpoint')
    with pytest.raises(ValueError, match=r'a\.pth cannot be read as a checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')
    with pytest.raises(FileNotFoundError, match=r'b\.pth does not exist'):
        read_checkpoint(tmp_path / 'b.pth')
