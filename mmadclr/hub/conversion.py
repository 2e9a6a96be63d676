"""Converts checkpoints between our layout and those of other code bases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmadclr.annotations import MaybeNone
from mmadclr.checkpoint.architecture import CHANNELS_PER_HEAD, EPS_OF_DINOV3, USUAL_EPS, infer_settings
from mmadclr.checkpoint.families import PROVENANCE, license_title
from mmadclr.checkpoint.layouts import BackboneWeights, find_backbone, tensors_by_path, with_class_position
from mmadclr.checkpoint.names import timm_name
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.weights import pick_backbone, resize_grid, stored_grid
from mmadclr.files import atomic_path
from mmadclr.hub.export.eva import eva_names, rope_base
from mmadclr.hub.opening import check_architecture, completed_state, rotary_positions
from mmadclr.hub.pretrained import MASK_TOKEN_NAMES, trained_mask_token
from mmadclr.hub.resuming import write_as_ours
from mmadclr.hub.targets import MM_NAMES, check_mm, check_timm, mm_name
from mmadclr.hub.training_state import TrainingState, beside_dino, read_training_state, write_as_dino

RECORDED = ('img_size', 'pos_embed_resize', 'norm_eps', 'rope', 'qkv_bias')  # settings that no tensor shows
WRAPPINGS = {'state_dict', 'student', 'teacher', 'module', 'model'}


class Conversion(NamedTuple):
    """What is written: ``content``, and descriptions of what of the source is ``kept`` and ``lost``."""

    content: dict[str, Any]
    kept: list[str]
    lost: list[str]


class Source(NamedTuple):
    """A file to convert: its backbone and, if present, the full training state.

    ``settings``: arguments of the ``QueryViT`` that matches the backbone; the number of heads may be a guess.
    """

    filename: str
    checkpoint: Mapping
    backbone: BackboneWeights
    state: TrainingState | None
    num_heads: int | None
    settings: dict


def convert(
    filename: str | Path,
    target: str | Path,
    layout: str,
    which: str = 'teacher',
    num_heads: int | None = None,
    img_size: int | None = None,
    prefix: str | None = None,
    facts: Mapping | None = None,
) -> Conversion:
    """Converts the checkpoint ``filename`` to another layout in ``target``, reads it back and compares.

    Files for a library are loaded strictly into its vision transformer if the library is installed; otherwise names and
    shapes are compared with those it expects.

    Args:
        filename: Any file or folder that :func:`mmadclr.checkpoint.weights.read_backbone` supports.
        target: ``.pth`` or ``.safetensors`` (tensors only).
        layout: One of ``LAYOUTS``. 'mmadclr' and 'dino' store full training states, the others a backbone.
        which: The network whose backbone is used.
        num_heads: For 'mmadclr', which stores it: if the file does not specify it and heads do not have 64 channels.
        img_size: Resizes the position embedding to images of this size, in pixels; converts only the backbone.
        prefix: Of the backbone in the file; also converts only the backbone.
        facts: What no tensor shows; see :func:`mmadclr.checkpoint.load_weights`.

    Raises:
        FileNotFoundError, ValueError: The source cannot be read, or is not a plain vision transformer; the layout cannot
            store the model; the target does not match the layout; or the written file differs from the source.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'layout {layout!r}: choose one of {", ".join(LAYOUTS)}')
    if layout == 'safetensors' and Path(target).suffix != '.safetensors':
        raise ValueError(f'{target} must end in .safetensors for the layout safetensors')
    checkpoint = read_checkpoint(filename)
    backbone = with_class_position(pick_backbone(checkpoint, filename, which, prefix, facts))
    settings = check_architecture(filename, backbone, num_heads or _some_heads(backbone))
    state = read_training_state(checkpoint) if prefix is None else None
    if img_size is not None:
        backbone, state = _resized(backbone, img_size, str(filename)), None
        settings['img_size'] = (img_size, img_size)
    source = Source(str(filename), checkpoint, backbone, state, num_heads, settings)
    try:
        conversion = LAYOUTS[layout](source)
    except ValueError as error:
        raise ValueError(f'{filename} cannot be written as {layout}: {error}') from error
    with atomic_path(target) as temporary:
        _write(conversion.content, temporary)
        _check_written(temporary, source, which, layout)
    return conversion


def _some_heads(backbone: BackboneWeights) -> int | None:
    """None if heads are known or have 64 channels; otherwise 1, since names and shapes do not depend on it."""
    width = backbone.state.get('cls_token', backbone.state.get('pos_embed', torch.empty(0))).shape[-1]
    return 1 if backbone.num_heads is None and width % CHANNELS_PER_HEAD else None


def _resized(backbone: BackboneWeights, img_size: int, filename: str) -> BackboneWeights:
    patch = backbone.state['patch_embed.proj.weight'].shape[-1]
    if img_size < patch or img_size % patch:
        raise ValueError(f'img_size={img_size} must be a multiple of the patch size {patch} of {filename}')
    about = {**backbone.about, 'img_size': (img_size, img_size)} if backbone.about else {}
    if 'pos_embed' not in backbone.state:  # rotary positions are those of any grid
        return backbone._replace(about=about)
    positions = backbone.state['pos_embed'].float()
    num_prefix = int('cls_token' in backbone.state and 'reg_token' not in backbone.state)
    prefix, grid = positions[:, :num_prefix], positions[:, num_prefix:]
    grid = resize_grid(grid, (img_size // patch, img_size // patch), filename, stored_grid(backbone))
    return backbone._replace(state={**backbone.state, 'pos_embed': torch.cat((prefix, grid), dim=1)}, about=about)


# --- layouts -----------------------------------------------------------------------------------------------------------


def _as_timm(source: Source) -> Conversion:
    lost = _lost_beside_backbone(source) + _lost_facts(source)
    if 'rope' not in source.settings:
        return Conversion(dict(source.backbone.state), _kept(source), lost)
    if 'layer_scale' not in source.settings:
        raise ValueError("timm's DINOv3 has layer scales, and this backbone has none")
    if 'rope.periods' in source.backbone.state:
        rope = rotary_positions(source.settings)
        rope.periods.copy_(source.backbone.state['rope.periods'])
        rope_base(rope)
    state = eva_names(source.backbone.state, source.settings.get('ffn') == 'swiglu')
    periods = ['rope.periods, which timm computes'] if 'rope.periods' in source.backbone.state else []
    return Conversion(state, _kept(source), lost + periods)


def _lost_facts(source: Source) -> list[str]:
    """Facts not stored in tensors that change features: an eps of the norms other than that of the library."""
    usual = EPS_OF_DINOV3 if 'rope' in source.settings else USUAL_EPS
    eps, license = source.settings.get('norm_eps', USUAL_EPS), license_title(source.backbone.about)
    lost = [f'eps of the norms, {eps:g}: set it instead of {usual:g} where you load the file'] if eps != usual else []
    return [*lost, f'license, {license}: it still applies to the new file'] if license else lost


def _with_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds zeros for biases of queries, keys and values, for layouts whose models always have them."""
    weights = {name: tensor for name, tensor in state.items() if name.endswith('.attn.qkv.weight')}
    biases = {name.removesuffix('weight') + 'bias': tensor.new_zeros(len(tensor)) for name, tensor in weights.items()}
    return {**biases, **state}


def _as_dino(source: Source) -> Conversion:
    if {'rope', 'ffn'} & source.settings.keys():
        raise ValueError("DINO's vision transformer has neither rotary positions nor gated feed-forward layers")
    if source.state is not None:
        return _as_run_of_dino(source.state)
    if {'reg_token', 'blocks.0.ls1.gamma'} & source.backbone.state.keys() or 'cls_token' not in source.backbone.state:
        raise ValueError("DINO's vision transformer has a class token, and neither registers nor LayerScale")
    return _as_timm(source)


def _as_run_of_dino(state: TrainingState) -> Conversion:
    content = write_as_dino(state)
    written: TrainingState | MaybeNone = read_training_state(content)
    return Conversion(content, _kept_of(written), beside_dino(state))


def _as_ours(source: Source) -> Conversion:
    meta = source.checkpoint.get('meta')
    if isinstance(meta, Mapping) and isinstance(meta.get('architecture'), Mapping):
        raise ValueError('it already is an mmadclr checkpoint')
    settings = {**infer_settings(source.backbone, source.num_heads), 'img_size': source.settings['img_size']}
    recorded = {key: settings[key] for key in RECORDED if key in settings}
    about = {key: value for key, value in {**recorded, **source.backbone.about}.items() if key != 'rope_periods'}
    if source.state is None:
        heads = settings['arch']['num_heads']
        attention = {f'teacher.backbone.blocks.{i}.attn': heads for i in range(settings['arch']['depth'])}
        meta = {'architecture': attention, 'backbone': about}
        state = completed_state(source.backbone, settings)
        tensors = {f'teacher.backbone.{name}': tensor for name, tensor in state.items()}
        kept, lost = _kept(source), _lost_beside_backbone(source)
        token = trained_mask_token(source.checkpoint, source.backbone)
        if token is not None:
            tensors['teacher.backbone.mask_token'] = token
            kept, lost = [*kept, 'mask token'], [name for name in lost if timm_name(name) not in MASK_TOKEN_NAMES]
        return Conversion({'meta': meta, 'state_dict': tensors}, kept, lost)
    content = write_as_ours(source.state, settings)
    content['meta']['backbone'] |= {key: about[key] for key in PROVENANCE if key in about}
    return Conversion(content, _kept_of(source.state), list(source.state.left_out))


def _as_mm(source: Source, package: str, needs_class_token: bool) -> Conversion:
    state = source.backbone.state
    if 'reg_token' in state or 'rope' in source.settings:
        what = 'rotary positions' if 'rope' in source.settings else 'registers'
        raise ValueError(f'the vision transformer of {package} has no {what}')
    gated = source.settings.get('ffn') == 'swiglu'
    if gated and package != 'mmpretrain':
        raise ValueError(f'the vision transformer of {package} has no gated feed-forward layers')
    if needs_class_token and ('cls_token' not in state or 'blocks.0.ls1.gamma' in state):
        raise ValueError(f'the vision transformer of {package} has a class token and no LayerScale')
    renamed = {f'backbone.{mm_name(name, package, gated)}': tensor for name, tensor in _with_biases(state).items()}
    lost = _lost_beside_backbone(source) + _lost_facts(source)
    return Conversion({'meta': {}, 'state_dict': renamed}, _kept(source), lost)


LAYOUTS: dict[str, Callable[[Source], Conversion]] = {
    'mmadclr': _as_ours,
    'timm': _as_timm,
    'dino': _as_dino,
    'mmpretrain': lambda source: _as_mm(source, 'mmpretrain', needs_class_token=False),
    'mmseg': lambda source: _as_mm(source, 'mmseg', needs_class_token=True),
    'safetensors': _as_timm,
}


def _kept(source: Source) -> list[str]:
    return [f'backbone ({source.backbone.prefix or "full file"}): {len(source.backbone.state)} tensors']


def _kept_of(state: TrainingState) -> list[str]:
    kept = [f'{name}: {len(part)} tensors' for name, part in (('student', state.student), ('teacher', state.teacher))]
    kept += [f'center of {name}' for name in state.centers]
    return [*kept, f'optimizer: moments of {len(state.moments)} tensors'] if state.moments is not None else kept


def _lost_beside_backbone(source: Source) -> list[str]:
    """What a file contains besides the backbone: groups of tensors with their number."""
    groups = Counter(
        _group(path) for path, _ in tensors_by_path(source.checkpoint) if not path.startswith(source.backbone.prefix or '\0')
    )
    beside = [f'{group}: {number} tensors' for group, number in groups.items()] if source.backbone.prefix else []
    optimizer = ['optimizer'] if 'optimizer' in source.checkpoint else []
    return [*source.backbone.left_out, *beside, *optimizer]


def _group(path: str) -> str:
    """A path up to and including its first part that is not a mere wrapper."""
    names = path.split('.')
    length = next((i for i, name in enumerate(names, 1) if name not in WRAPPINGS), len(names))
    return '.'.join(names[:length])


# --- files -------------------------------------------------------------------------------------------------------------


def _write(content: dict[str, Any], path: Path) -> None:
    if path.suffix != '.safetensors':
        with path.open('wb') as file:  # torch raises no OSError for a full disk on files that it opens itself
            torch.save(content, file)
    elif all(isinstance(value, Tensor) for value in content.values()):
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        raise ValueError(f'{path.name}: .safetensors files store only tensors, but this layout is nested: use a .pth file')


def _check_written(path: Path, source: Source, which: str, layout: str) -> None:
    checkpoint = read_checkpoint(path)
    facts = {'rope': source.settings['rope']} if 'rope' in source.settings else {}  # no names of timm show it
    # Without a training state, there is only one network.
    written = find_backbone(checkpoint, which if source.state is not None else 'teacher', facts=facts).state
    expected = dict(source.backbone.state)
    if layout != 'mmadclr':
        expected.pop('rope.periods', None)
    _compare('backbone', expected, {name: tensor for name, tensor in written.items() if name in expected})
    _check_added(expected, written)
    state = read_training_state(checkpoint)
    if state is not None and source.state is not None:
        for part in ('student', 'teacher', 'centers'):
            found = getattr(state, part)
            before = {name: tensor for name, tensor in getattr(source.state, part).items() if name in found}
            _compare(part, before, found)
    elif layout in ('timm', 'safetensors', 'dino'):
        check_timm(checkpoint, source.settings)
    elif layout in MM_NAMES:
        check_mm(checkpoint['state_dict'], source.settings, layout)


def _check_added(expected: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> None:
    """Only what a file need not contain may be new: periods, and biases of zeros."""
    added = {name: tensor for name, tensor in written.items() if name not in expected and name != 'rope.periods'}
    if any(not name.endswith('.attn.qkv.bias') or tensor.any() for name, tensor in added.items()):
        raise ValueError('the new file has other tensors than the source')


def _compare(what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    same_names = expected.keys() == found.keys()
    if not same_names or not all(torch.equal(expected[name], found[name]) for name in expected):
        raise ValueError(f'the {what} read back from the new file differs from the source')
