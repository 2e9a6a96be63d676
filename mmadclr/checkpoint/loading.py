"""Strict loading of our checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from mmadclr.checkpoint.architecture import USUAL_EPS
from mmadclr.checkpoint.families import PROVENANCE
from mmadclr.checkpoint.reading import read_checkpoint

if TYPE_CHECKING:
    from mmengine.model import BaseModel


def architecture(model: nn.Module) -> dict[str, int]:
    """The number of attention heads of every attention module, by module name: the state dict does not contain it.

    Weights of a 6-head model load into an 8-head model without an error, but compute something else.
    """
    return {name: module.num_heads for name, module in model.named_modules() if hasattr(module, 'num_heads')}


def described(model: Any, dataset: Dataset) -> dict[str, Any]:
    """What the ``meta`` of a checkpoint tells about a model, and the classes of the data set it is trained on."""
    meta: dict[str, Any] = {'architecture': architecture(model)}
    if hasattr(dataset, 'metainfo'):
        meta['dataset_meta'] = dataset.metainfo
    if hasattr(model, 'teacher'):  # of a pretraining method
        meta |= {'method': method_name(model), 'backbone': describe_backbone(model)}
    elif weights_origin(model):  # of a task that started from weights of others
        meta['backbone'] = {**attention_facts(model.backbone), **weights_origin(model)}
    return meta


def backbones(model: Any) -> list[Any]:
    """The backbones of a pretraining method (student, teacher) or of a task."""
    if hasattr(model, 'teacher'):
        return [model.student['backbone'], model.teacher['backbone']]
    return [model.backbone] if isinstance(getattr(model, 'backbone', None), nn.Module) else []


def weights_origin(model: nn.Module) -> dict[str, str]:
    """Family, source and license of the weights of others that the backbones started from; empty if there are none."""
    found = [getattr(backbone, 'weights_origin', {}) for backbone in backbones(model)]
    return dict(next(filter(None, found), {}))


def restore_origin(model: nn.Module, meta: Any) -> None:
    """Sets what :func:`weights_origin` returns to that of a checkpoint with this ``meta``."""
    recorded = meta.get('backbone') if isinstance(meta, Mapping) else None
    recorded = recorded if isinstance(recorded, Mapping) else {}
    for backbone in backbones(model):
        backbone.weights_origin = {key: recorded[key] for key in PROVENANCE if isinstance(recorded.get(key), str)}


def describe_backbone(model: BaseModel) -> dict:
    """Facts about the backbone of a pretraining model that no tensor shows; stored in checkpoints as ``meta.backbone``.

    ``mean`` and ``std`` are for values in [0, 1]. ``family``, ``source`` and ``license`` are those of the weights that
    training started from, if they were loaded from a file (:mod:`mmadclr.checkpoint.families`).
    """
    backbone, preprocessor = model.teacher['backbone'], model.data_preprocessor
    return dict(
        **attention_facts(backbone),
        **weights_origin(model),
        img_size=tuple(backbone.patch_embed.img_size),
        pos_embed_resize=backbone.pos_embed_resize,
        mean=tuple(round(value / 255, 6) for value in preprocessor.mean.flatten().tolist()),
        std=tuple(round(value / 255, 6) for value in preprocessor.std.flatten().tolist()),
    )


def attention_facts(backbone: Any) -> dict[str, Any]:
    """``norm_eps``, ``qkv_bias`` and ``rope``, as arguments of ``QueryViT``; only those that differ from a plain ViT's."""
    block = backbone.blocks[0]
    eps, bias = block.norm1.eps, block.attn.qkv.bias
    facts: dict[str, Any] = {} if eps == USUAL_EPS and backbone.rope is None else {'norm_eps': eps}
    if bias is None:
        facts['qkv_bias'] = False
    elif block.attn.qkv_bias() is not bias:
        facts['qkv_bias'] = 'qv'
    elif backbone.rope is not None:
        facts['qkv_bias'] = True
    return facts if backbone.rope is None else {**facts, 'rope': backbone.rope.described()}


def check_state_dict(model: nn.Module, filename: str | Path, checkpoint: dict | None = None) -> Mapping[str, Tensor]:
    """State dict of a checkpoint, verified to match ``model`` in every key, shape and number of heads.

    ``checkpoint`` is the content of the file if already read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or of another method or model; names both, or the differing keys.
    """
    checkpoint = checkpoint or read_checkpoint(filename)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    _check_method(model, filename, meta.get('method'))
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, Mapping):
        raise ValueError(f'{filename}: its state_dict is a {type(state).__name__}, not a dict of tensors')
    shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    _compare(filename, 'tensors', shapes, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    heads = meta.get('architecture')
    if heads is not None:
        heads = heads if isinstance(heads, Mapping) else {}
        _compare(filename, 'numbers of attention heads', heads, architecture(model))
    return state


def method_name(model: nn.Module) -> str:
    """The registered name of a pretraining method; FSDP2 prefixes the class name of sharded modules."""
    return type(model).__name__.removeprefix('FSDP')


def _check_method(model: nn.Module, filename: str | Path, method: str | None) -> None:
    """Compares the methods first: this error is clearer than a list of differing tensors."""
    expected = method_name(model)
    if isinstance(method, str) and method.removeprefix('FSDP') != expected:
        raise ValueError(
            f'{filename} is a checkpoint of {method.removeprefix("FSDP")}, but the config has model {expected}: use '
            f'a config of {method.removeprefix("FSDP")}, or start a run of {expected} in another work dir'
        )


def _compare(filename: str | Path, what: str, found: Mapping, expected: Mapping) -> None:
    names = found.keys() | expected.keys()
    differing = sorted((name for name in names if found.get(name, names) != expected.get(name, names)), key=str)
    if differing:
        examples = '; '.join(f'{n}: file {found.get(n, "-")}, model {expected.get(n, "-")}' for n in differing[:4])
        raise ValueError(
            f'{filename} does not match the model of the config: {len(differing)} of {len(expected)} {what} differ '
            f'({examples}). Use the config the checkpoint was trained with.'
        )
