"""Converts training states of other code bases to checkpoints for ``mmadclr train --resume``."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.checkpoint.loading import architecture
from mmadclr.hub.training_state import PATCH_PROTOTYPES, TrainingState, optimizer_state, parameter_order
from mmadclr.models.selfsup import SelfDistillation
from mmadclr.registry import MODELS


def write_as_ours(state: TrainingState, settings: dict) -> dict:
    """The state in our runner's format.

    Args:
        state: See :func:`mmadclr.hub.training_state.read_training_state`.
        settings: Arguments of the ``QueryViT``.

    Raises:
        ValueError: The tensors do not match our model of that method.
    """
    model = build_model(state, settings)
    tensors = {f'{part}.{name}': t for part in ('student', 'teacher') for name, t in getattr(state, part).items()}
    tensors |= {f'{name}.center': center for name, center in state.centers.items()}
    _check_shapes(tensors, model.state_dict(), state.method)
    about = {key: settings[key] for key in ('img_size', 'pos_embed_resize')}
    meta = dict(
        epoch=state.epoch,
        iter=0,
        method=state.method,
        architecture=architecture(model),
        backbone=about,
        dataset_meta=dict(classes=()),
    )
    checkpoint = {
        'meta': meta,
        'state_dict': {name: tensors[name] for name in model.state_dict()},
        'message_hub': {'log_scalars': {}, 'runtime_info': {}, 'resumed_keys': {}},
    }
    if state.moments is not None:
        meta['iter'] = max((int(moments['step']) for moments in state.moments.values() if moments), default=0)
        names = parameter_order(dict(model.student.named_parameters()), state.learns_norms)
        checkpoint['optimizer'] = optimizer_state(state.moments, names)
    return checkpoint


def build_model(state: TrainingState, settings: dict) -> SelfDistillation:
    """Our model of the method, with the sizes of the state, on the meta device."""
    names = ('head', 'patch_head') if 'patch_head.last_layer.weight_v' in state.student else ('head',)
    heads = {name: dict(**head_settings(state.student, name), norm_last_layer=not state.learns_norms) for name in names}
    with torch.device('meta'):
        return MODELS.build(dict(type=state.method, backbone=dict(type='QueryViT', **settings), **heads))


def head_settings(parameters: dict[str, Tensor], head: str = 'head') -> dict:
    """Type and sizes of a head; the [CLS] head may also have patch prototypes.

    Raises:
        ValueError: It has batch norms, which our heads do not support.
    """
    if f'{head}.mlp.1.weight' in parameters:
        raise ValueError(f'{head}.mlp.1 is a batch norm, which our heads do not support')
    out_dim, bottleneck_dim = parameters[f'{head}.last_layer.weight_v'].shape
    widths = [len(t) for name, t in parameters.items() if name.startswith(f'{head}.mlp.') and name.endswith('weight')]
    sizes = dict(out_dim=out_dim, hidden_dim=widths[0], bottleneck_dim=bottleneck_dim, num_layers=len(widths))
    if head == 'head' and PATCH_PROTOTYPES in parameters:
        return dict(type='IBOTHead', patch_out_dim=len(parameters[PATCH_PROTOTYPES]), **sizes)
    return dict(type='DINOHead', **sizes)


def _check_shapes(found: dict[str, Tensor], expected: dict[str, Tensor], method: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    differing = sorted({name for name, _ in shapes.items() ^ {n: tuple(t.shape) for n, t in expected.items()}.items()})
    if differing:
        raise ValueError(f'{len(differing)} tensors do not match {method}: {", ".join(differing[:4])}')
