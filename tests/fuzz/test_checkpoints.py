"""Checkpoints of any names, shapes, types and bytes: opened as what they hold, or refused with the name of the file."""

from __future__ import annotations

import io
import json
import random

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save
from strategies import JSON, TEXTS, Refusal, damaged, mutated, outcome

from mmadclr.checkpoint.loading import check_state_dict
from mmadclr.checkpoint.names import WRAPPERS
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.weights import load_weights
from mmadclr.hub.conversion import LAYOUTS, convert
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import QueryViT

ARCH = dict(embed_dim=64, depth=2, num_heads=1, patch_size=8, mlp_ratio=1.0)
ABOUT = dict(backbone=dict(img_size=[16, 16], pos_embed_resize='dino'), architecture={'teacher.backbone.blocks.0.attn': 1})
CONFIG = dict(
    architecture='vit_tiny_patch16_224', model_args=dict(img_size=16, num_heads=1), pretrained_cfg=dict(mean=[0.5] * 3)
)
OF_TRANSFORMERS = dict(
    model_type='vit',
    num_attention_heads=1,
    layer_norm_eps=1e-6,
    hidden_act='gelu',
    image_size=16,
    mmadclr=dict(layer_scale=True),
)
PREPROCESSOR = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255, do_normalize=True)


def model():
    return QueryViT(ARCH, img_size=16)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in model().state_dict().items()}


STATE = weights()
NAMES = sorted(STATE)


def written(content, **kwargs):
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


FILES = {
    'zip': written(STATE),
    'legacy': written(STATE, _use_new_zipfile_serialization=False),
    'nested': written(
        dict(teacher=STATE, student=weights(1), meta=ABOUT, epoch=3, optimizer=dict(state={}, param_groups=[]))
    ),
    'safetensors': save(STATE),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('checkpoints')


def assert_sound(opened, path):
    """The model runs, on finite numbers."""
    assert all(tensor.isfinite().all() for tensor in opened.model.state_dict().values())
    assert len(opened.mean) == len(opened.std) == 3
    with torch.no_grad():
        output = opened.model(torch.zeros(1, 3, *opened.img_size))
    assert all(tokens is None or tokens.shape[::2] in ((1, 64), (1,)) for tokens in output[:2])


def opened(path, **kwargs):
    end = outcome(lambda: open_backbone(path, **kwargs), str(path))
    if not isinstance(end, Refusal):
        assert_sound(end, path)
    return end


@given(damaged(FILES))
def test_damaged_files(folder, file):
    path = folder / 'damaged.pth'
    path.write_bytes(file[1])
    content = outcome(lambda: read_checkpoint(path), str(path))
    assert isinstance(content, (Refusal, dict))
    end = opened(path)
    assert isinstance(content, Refusal) <= isinstance(end, Refusal)


PREFIXES = [
    '',
    'module.',
    'teacher.backbone.',
    'student_backbone.',
    'model_ema.',
    'encoder_k.',
    'a.b.c.',
    'state_dict.',
    'x',
]
OUTER = ['model', 'state_dict', 'teacher', 'student', 'optimizer', 'meta']
NUMBERS = ['blocks.2.', 'blocks.99999.', 'blocks.1.0.']
WORDS = st.sampled_from([*PREFIXES, 'blocks.0.', 'backbone', 'é.', '..', 'patch_embed.proj.']) | st.text(max_size=6)


@st.composite
def wrapped(draw, name):
    """A name with what wrappers add, anywhere."""
    parts = name.split('.')
    for _ in range(draw(st.integers(0, 3))):
        parts.insert(draw(st.integers(0, len(parts) - 1)), draw(st.sampled_from(sorted(WRAPPERS))))
    return '.'.join(parts)


@given(prefix=st.sampled_from([prefix for prefix in PREFIXES if prefix != 'x']), seed=st.integers(0, 2**32))
def test_wrappers_anywhere_below_any_known_prefix_change_nothing(folder, prefix, seed):
    path = folder / 'wrapped.pth'
    rng = random.Random(seed)  # draws of hypothesis for every name take longer than all the rest
    names = {}
    for name in NAMES:
        parts = f'{prefix}{name}'.split('.')
        for _ in range(rng.randint(0, 3)):
            parts.insert(rng.randrange(len(parts)), rng.choice(sorted(WRAPPERS)))
        names['.'.join(parts)] = name
    torch.save({wrapped: STATE[name] for wrapped, name in names.items()}, path)
    end = opened(path)
    assert not isinstance(end, Refusal), end
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in end.model.state_dict().items())


TYPES = [
    *(torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8, torch.bool),
    *(torch.complex64, torch.uint16),
]


def quantized(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def resized(draw, tensor):
    shape = list(tensor.shape)
    axis = draw(st.integers(0, len(shape) - 1)) if shape else 0
    if shape:
        shape[axis] = max(0, shape[axis] + draw(st.sampled_from([-1, 1, 64, -64])))
    return torch.zeros(shape)


def broken(draw, tensor):
    changed = tensor.clone()
    changed.view(-1)[draw(st.integers(0, changed.numel() - 1))] = draw(st.sampled_from([float('nan'), float('inf')]))
    return changed


CHANGES = {
    'shape': resized,
    'nan': broken,
    'type': lambda draw, tensor: tensor.to(draw(st.sampled_from(TYPES))),
    'quantized': lambda draw, tensor: quantized(tensor),
    'expanded': lambda draw, tensor: torch.zeros(()).expand(tensor.shape),
    'huge': lambda draw, tensor: torch.zeros(1).expand(2**20, 2**20),
    'meta': lambda draw, tensor: tensor.to('meta'),
    'sparse': lambda draw, tensor: tensor.to_sparse(),
    'flat': lambda draw, tensor: tensor.flatten(),
    'axis': lambda draw, tensor: tensor[None],
    'scalar': lambda draw, tensor: torch.tensor(1.0),
    'value': lambda draw, tensor: draw(JSON),
    'parameter': lambda draw, tensor: torch.nn.Parameter(tensor),
    'dict': lambda draw, tensor: {'weight': tensor, 1: tensor},
    'transposed': lambda draw, tensor: tensor.T if tensor.ndim == 2 else tensor,
}


@st.composite
def states(draw):
    """A state dict with some of its tensors changed, renamed, left out or added."""
    whole = weights(draw(st.integers(0, 1)))
    state = dict(whole)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(NAMES))
        kind = draw(st.sampled_from([*CHANGES, 'drop', 'rename', 'add', 'number', 'double']))
        if state.get(name) is not whole.get(name):  # changed already
            continue
        if kind == 'drop':
            del state[name]
        elif kind == 'rename':
            state[draw(WORDS) + name] = state.pop(name)
        elif kind == 'add':
            state[draw(WORDS | TEXTS)] = torch.zeros(2)
        elif kind == 'number':
            state[name.replace('blocks.1.', draw(st.sampled_from(['blocks.2.', 'blocks.99999.', 'blocks.1.0.'])))] = (
                state.pop(name)
            )
        elif kind == 'double':
            state[draw(wrapped(name))] = state[name]
        else:
            state[name] = CHANGES[kind](draw, state[name])
    return state


@st.composite
def checkpoints(draw):
    """A state dict or two, with prefixes, below keys, beside other things."""
    prefix = draw(WORDS)
    content = {f'{prefix}{name}': value for name, value in draw(states()).items()}
    if draw(st.booleans()):
        other = draw(WORDS)
        content |= {f'{other}{name}': value for name, value in weights(1).items()}
    for _ in range(draw(st.integers(0, 2))):
        content = {draw(st.sampled_from(OUTER) | TEXTS): content}
    if draw(st.booleans()):
        content['meta'] = draw(mutated(ABOUT) | JSON)
    return content


KEYS = dict(
    which=st.sampled_from(['teacher', 'student']),
    prefix=st.none() | WORDS,
    num_heads=st.none() | st.sampled_from([1, 3, 64]),
)


def saved(content, path):
    """Writes what torch can write."""
    try:
        torch.save(content, path)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, UnicodeEncodeError):
        return False
    return True


@given(content=checkpoints(), **KEYS)
def test_any_names_shapes_and_types(folder, content, which, prefix, num_heads):
    path = folder / 'any.pth'
    if not saved(content, path):
        return
    opened(path, which=which, prefix=prefix, num_heads=num_heads)
    target = model()
    report = outcome(lambda: load_weights(target, path, which, prefix, allow=['norm.*']), str(path))
    if not isinstance(report, Refusal):
        assert all(tensor.isfinite().all() for tensor in target.state_dict().values())
        assert {name.partition(' ')[0] for name in report.matched + report.resized + report.missing} == set(NAMES)


@given(content=checkpoints(), layout=st.sampled_from(sorted(LAYOUTS)), img_size=st.none() | st.sampled_from([8, 24, 9, 0]))
def test_conversions(folder, content, layout, img_size):
    path, target = folder / 'source.pth', folder / ('target.safetensors' if layout == 'safetensors' else 'target.pth')
    if not saved(content, path):
        return
    target.unlink(missing_ok=True)
    end = outcome(lambda: convert(path, target, layout, img_size=img_size), str(path), str(target))
    assert isinstance(end, Refusal) != target.is_file()


@example(meta=dict(architecture={'teacher.backbone.blocks.0.attn': {}}), num_heads=None)
@example(meta=dict(method=1, architecture=5), num_heads=1)
@given(meta=mutated(ABOUT) | JSON, num_heads=KEYS['num_heads'])
def test_what_our_own_files_tell_about_themselves(folder, meta, num_heads):
    path = folder / 'own.pth'
    state = {f'teacher.backbone.{name}': tensor for name, tensor in STATE.items()}
    torch.save(dict(meta=meta, state_dict=state), path)
    opened(path, num_heads=num_heads)


@example(content=dict(meta=dict(architecture={'blocks.0.attn': []}), state_dict=STATE))
@example(content=dict(meta=5, state_dict=[1]))
@example(content=dict(STATE, meta=dict(method=1)))
@given(content=checkpoints() | st.builds(lambda meta: dict(STATE, meta=meta), mutated(ABOUT) | JSON))
def test_strict_loading(folder, content):
    path, target = folder / 'strict.pth', model()
    if not saved(content, path):
        return
    state = outcome(lambda: check_state_dict(target, path), str(path))
    if not isinstance(state, Refusal):
        assert {name for name, tensor in state.items() if isinstance(tensor, torch.Tensor)} == set(NAMES)


@example(config=CONFIG, preprocessor=PREPROCESSOR)
@example(config=OF_TRANSFORMERS, preprocessor=PREPROCESSOR | dict(image_mean=[10**400, 0.5, 0.5]))
@example(config=OF_TRANSFORMERS | dict(layer_norm_eps=10**400), preprocessor=PREPROCESSOR)
@given(config=mutated(CONFIG) | mutated(OF_TRANSFORMERS), preprocessor=mutated(PREPROCESSOR))
def test_configurations_beside_weights(folder, config, preprocessor):
    root = folder / 'model'
    root.mkdir(exist_ok=True)
    (root / 'model.safetensors').write_bytes(FILES['safetensors'])
    (root / 'config.json').write_text(json.dumps(config))
    (root / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
    opened(root)


@given(index=mutated(dict(metadata={}, weight_map=dict.fromkeys(NAMES, 'a.safetensors'))))
def test_indices_of_shards(folder, index):
    root = folder / 'shards'
    root.mkdir(exist_ok=True)
    (root / 'a.safetensors').write_bytes(FILES['safetensors'])
    (root / 'model.safetensors.index.json').write_text(json.dumps(index))
    opened(root)
