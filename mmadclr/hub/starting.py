"""Completes pretraining configs that start from the weights of a file by what the file says of its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import ConfigDict
from mmengine.logging import print_log

from mmadclr.checkpoint.architecture import CHANNELS_PER_HEAD
from mmadclr.checkpoint.kinds import detector_part
from mmadclr.checkpoint.layouts import BackboneWeights, tensors_by_path, with_class_position
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import newest_good_checkpoint
from mmadclr.checkpoint.weights import identify_backbone, pick_backbone
from mmadclr.hub.opening import check_architecture
from mmadclr.hub.pretrained import trained_mask_token
from mmadclr.models.backbones.architectures import resolve_arch
from mmadclr.models.selfsup import SelfDistillation
from mmadclr.registry import MODELS, SCOPE

# Arguments that the method decides, not the file: SelfPatch's backbone has neither [CLS] nor final norm.
OF_METHOD = ('class_token', 'final_norm')
OF_READING = ('which', 'prefix', 'facts')  # keys of init_cfg
KEY = 'model.backbone'


class Start(NamedTuple):
    """What a file says of its backbone.

    ``settings``: arguments of ``QueryViT``. ``normalization``: ``mean`` and ``std`` in [0, 255], empty if the file does not
    say. ``mask_token_trained``: whether it has a mask token that is not zero, as one never trained is.
    """

    settings: dict[str, Any]
    normalization: dict[str, tuple[float, ...]]
    mask_token_trained: bool


def read_start(
    filename: str | Path,
    which: str = 'teacher',
    prefix: str | None = None,
    num_heads: int | None = None,
    facts: Mapping | None = None,
) -> Start:
    """Reads what a pretraining run has to know of the weights it starts from; arguments as for ``open_backbone``.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or has no plain vision transformer.
    """
    checkpoint = read_checkpoint(filename, mapped=True)
    weights = pick_backbone(checkpoint, filename, which, prefix, facts)
    if prefix is None:
        check_pretrained(filename, checkpoint, weights)
    start = start_of(filename, checkpoint, weights, num_heads)
    if not {'mean', 'std'} <= weights.about.keys():
        print_log(
            f'{filename} does not say how images are normalized; assuming the mean and std of ImageNet (otherwise give '
            'the facts mean and std, of values in [0, 1]: --fact on the command line)',
            'current',
        )
    return start


def check_pretrained(filename: str | Path, checkpoint: Mapping, weights: BackboneWeights) -> None:
    """Raises ValueError if a backbone is that of a finished detector or segmentor; a ``prefix`` selects it all the same."""
    problem = next(iter(detector_part(dict(tensors_by_path(checkpoint)), weights.prefix)), None)
    if problem is not None:
        raise ValueError(f'{filename}: {problem}; to use this one all the same, set prefix={weights.prefix!r} (--prefix)')


def start_of(filename: str | Path, checkpoint: Mapping, weights: BackboneWeights, num_heads: int | None = None) -> Start:
    """As :func:`read_start`, for a backbone found in the content of a file."""
    weights = with_class_position(weights)
    settings = check_architecture(filename, weights, num_heads)
    if num_heads is None and weights.num_heads is None and 'rope.periods' not in weights.state:
        heads = settings['arch']['num_heads']
        print_log(
            f'{filename} does not specify its number of attention heads; assuming {heads}, of {CHANNELS_PER_HEAD} channels',
            'current',
        )
    about, token = weights.about, trained_mask_token(checkpoint, weights)
    scaled = {key: tuple(255 * value for value in about[key]) for key in ('mean', 'std') if key in about}
    return Start(settings, scaled, token is not None)


def complete_start(cfg: Any) -> Any:
    """A pretraining config with ``init_cfg``, completed by what its file says; any other config as it is.

    Keys of ``model.backbone`` that the config does not set, or sets to None, are those of the file: ``arch``, ``img_size``,
    registers, LayerScale, eps, positions and their resizing, kind of MLP, biases; so are ``mean`` and ``std`` of the
    preprocessor. A run that continues from a checkpoint takes them from it, and no longer needs the file.

    Args:
        cfg: Config of a run, changed in place.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or the config has another ``arch``.
    """
    if not _pretrains(cfg) or not cfg['model']['backbone'].get('init_cfg'):
        return cfg
    backbone = cfg['model']['backbone']
    init = backbone['init_cfg']
    init.setdefault('type', 'Pretrained')
    later = _later_weights(cfg)
    if later is not None:
        init['checkpoint'] = None  # replaced anyway, and may no longer exist
    elif init.get('checkpoint') is None:
        return cfg
    filename = later or init['checkpoint']
    chosen = dict(prefix='teacher.backbone') if later else {key: init[key] for key in OF_READING if key in init}
    # Without telling: loading the weights, which comes next, tells what is assumed of them, and their license.
    checkpoint = read_checkpoint(filename, mapped=True)
    weights = identify_backbone(checkpoint, filename, **(dict.fromkeys(OF_READING) | dict(which='teacher') | chosen))
    if chosen.get('prefix') is None:
        check_pretrained(filename, checkpoint, weights)
    _check_width(backbone.get('arch'), weights, filename)
    start = start_of(filename, checkpoint, weights, _heads_of(backbone.get('arch')))
    _check_arch(backbone.get('arch'), start.settings['arch'], filename)
    for key, value in start.settings.items():
        if backbone.get(key) is None and key not in OF_METHOD:
            backbone[key] = value
    if 'rope' in start.settings:  # the config may add random changes of positions in training
        backbone['rope'] = {**start.settings['rope'], **backbone['rope']}
    _complete_normalization(cfg, start.normalization)
    return cfg


def _pretrains(cfg: Mapping) -> bool:
    """Whether the config is one of our methods'."""
    model = cfg.get('model')
    if (cfg.get('default_scope') or SCOPE) != SCOPE or not isinstance(model, Mapping):
        return False
    kind = model.get('type')
    component = MODELS.get(kind) if isinstance(kind, str) else kind
    return isclass(component) and issubclass(component, SelfDistillation) and isinstance(model.get('backbone'), Mapping)


def _later_weights(cfg: Mapping) -> str | None:
    """The checkpoint that replaces the initial weights: ``load_from``, or the newest in the work dir of a resumed run."""
    if cfg.get('load_from'):
        return str(cfg['load_from'])
    newest = newest_good_checkpoint(cfg['work_dir'], _nothing) if cfg.get('resume') else None
    return None if newest is None else str(newest)


def _nothing(text: str) -> None:
    """The runner warns of damaged checkpoints when it resumes."""


def _heads_of(arch: Any) -> int | None:
    """Heads that the config gives, for files that do not."""
    return None if arch is None else resolve_arch(arch)['num_heads']


def _check_width(arch: Any, weights: BackboneWeights, filename: str | Path) -> None:
    """Raises ValueError if the config has another width, before its number of heads is taken for that of the file."""
    kernel = weights.state.get('patch_embed.proj.weight')
    if arch is None or kernel is None:
        return
    width = resolve_arch(arch)['embed_dim']
    if width != len(kernel):
        raise ValueError(
            f'{KEY}.arch={arch!r} is not that of {filename}: embed_dim {len(kernel)} in the file, {width} in the config; '
            f'set {KEY}.arch=None to use that of the file'
        )


def _check_arch(arch: Any, found: Mapping[str, Any], filename: str | Path) -> None:
    if arch is None:
        return
    sizes = {'mlp_ratio': 4.0, **resolve_arch(arch)}
    sizes['mlp_ratio'] = found['mlp_ratio'] if _same_width(sizes, found) else sizes['mlp_ratio']
    differing = [
        f'{name} {found[name]:g} in the file, {sizes[name]:g} in the config' for name in found if found[name] != sizes[name]
    ]
    if differing:
        raise ValueError(
            f'{KEY}.arch={arch!r} is not that of {filename}: {", ".join(differing)}; set {KEY}.arch=None to '
            'use that of the file'
        )


def _same_width(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether feed-forward layers have the same number of channels; libraries round ratios differently."""
    return int(one['embed_dim'] * one['mlp_ratio']) == int(other['embed_dim'] * other['mlp_ratio'])


def _complete_normalization(cfg: Any, normalization: Mapping[str, tuple[float, ...]]) -> None:
    preprocessor = cfg.get('data_preprocessor') or cfg['model'].setdefault('data_preprocessor', ConfigDict())
    for key, value in normalization.items():
        if preprocessor.get(key) is None:
            preprocessor[key] = value
