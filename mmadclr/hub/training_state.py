"""Full training states: both networks, centers and optimizer moments, of our runs and of official ones.

Parameters are named as in our models below ``student`` and ``teacher``: ``backbone.blocks.0.norm1.weight``,
``head.last_layer.weight_v``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmadclr.checkpoint.names import unwrapped_name, without_wrappers

# Official training scripts: our method -> (key of the loss state, our loss by the name of its center in that state).
OFFICIAL = {
    'DINO': ('dino_loss', {'center': 'loss_cls'}),
    'IBOT': ('ibot_loss', {'center': 'loss_cls', 'center2': 'loss_patch'}),
    'SelfPatch': ('dino_loss', {'center': 'loss_cls', 'patch_center': 'loss_patch'}),
}
# SelfPatch's names of network parts -> ours.
PARTS = {'c_head.': 'head.', 'p_head.': 'patch_head.', 'ca_head.': 'class_attention.'}
PATCH_PROTOTYPES = 'head.last_layer2.weight_v'
BUFFERS = ('rope.periods',)  # tensors that no optimizer has
MASK = re.compile(r'(?<=^backbone\.)(masked_embed|mask_token)$')  # iBOT's name, and ours


@dataclass
class TrainingState:
    """A self-distillation run after ``epoch`` epochs.

    ``method``: name of our algorithm. ``centers``: (K,) by name of the loss. ``moments``: AdamW's state by name of the
    student parameter, None if the file has none. ``left_out``: parts of the file that are not included.
    """

    method: str
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    centers: dict[str, Tensor]
    epoch: int
    moments: dict[str, dict] | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def learns_norms(self) -> bool:
        """Whether the norms of the prototypes are trained; otherwise the optimizer does not include them."""
        if self.moments is not None:
            return any(name.endswith('last_layer.weight_g') for name in self.moments)
        norms = [tensor for name, tensor in self.student.items() if name.endswith('last_layer.weight_g')]
        return any((norm != 1).any() for norm in norms)


def read_training_state(checkpoint: Mapping) -> TrainingState | None:
    """The training state in a checkpoint of ours, DINO, iBOT or SelfPatch; None for other files.

    Raises:
        ValueError: The training state cannot be converted.
    """
    student, teacher = checkpoint.get('student'), checkpoint.get('teacher')
    if isinstance(student, Mapping) and isinstance(teacher, Mapping) and _has_official_head(teacher):
        for method, (loss, centers) in OFFICIAL.items():
            found = checkpoint.get(loss)
            if isinstance(found, Mapping) and _tensors(found).keys() == centers.keys():
                return _of_official(checkpoint, method, loss, centers)
    state = checkpoint.get('state_dict')
    return _of_ours(checkpoint) if isinstance(state, Mapping) and _is_ours(checkpoint, state) else None


def _tensors(node: Mapping) -> dict[str, Tensor]:
    return {name: value for name, value in node.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _has_official_head(network: Mapping) -> bool:
    return bool(
        {'head.last_layer.weight_v', 'c_head.last_layer.weight_v'} & {unwrapped_name(name) for name in _tensors(network)}
    )


def _is_ours(checkpoint: Mapping, state: Mapping) -> bool:
    """Two networks could also be another trainer's: ours have a method in ``meta``, or one of our heads."""
    names = {unwrapped_name(name) for name in _tensors(state)}
    meta = checkpoint.get('meta')
    has_method = isinstance(meta, Mapping) and isinstance(meta.get('method'), str)
    heads = {'student.head.last_layer.weight_v', 'student.patch_head.last_layer.weight_v'}
    return {name.partition('.')[0] for name in names} >= {'student', 'teacher'} and (has_method or bool(heads & names))


def write_as_dino(state: TrainingState) -> dict:
    """The state in the format of DINO's training script, for its ``restart_from_checkpoint``; drops what DINO does not have.

    Raises:
        ValueError: It has no class token, or no head or center for it.
    """
    if 'backbone.cls_token' not in state.student:
        raise ValueError("DINO's vision transformer has a class token, but that of this run has none")
    if 'head.last_layer.weight_v' not in state.student or 'loss_cls' not in state.centers:
        raise ValueError('the run has no head (head.last_layer) or no center (loss_cls.center) for the class token')
    student, teacher = _of_dino_alone(state.student), _of_dino_alone(state.teacher)
    checkpoint = {
        'student': {f'module.{name}': tensor for name, tensor in student.items()},
        'teacher': teacher,
        'epoch': state.epoch,
        'args': None,
        'dino_loss': {'center': state.centers['loss_cls'][None]},
    }
    if state.moments is not None:
        checkpoint['optimizer'] = optimizer_state(state.moments, parameter_order(student, state.learns_norms))
    return checkpoint


def beside_dino(state: TrainingState) -> list[str]:
    """What :func:`write_as_dino` drops from a state."""
    parts = (('student', state.student), ('teacher', state.teacher))
    tensors = [f'{part}.{name}' for part, parameters in parts for name in parameters.keys() - _of_dino_alone(parameters)]
    return [*state.left_out, *sorted(tensors), *(f'center of {name}' for name in state.centers if name != 'loss_cls')]


def _of_dino_alone(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Backbone and [CLS] head; prototype norms before their directions, the order of torch's weight norm."""
    own = {
        name: t for name, t in parameters.items() if name.startswith(('backbone.', 'head.mlp.')) and not MASK.search(name)
    }
    return own | {name: parameters[name] for name in ('head.last_layer.weight_g', 'head.last_layer.weight_v')}


def parameter_order(parameters: Mapping[str, Tensor], learns_norms: bool) -> tuple[list[str], list[str]]:
    """Names of the parameters with and without weight decay in state-dict order, which the optimizer follows.

    As in facebookresearch/dino, ``utils.py: get_params_groups``.
    """
    decayed: list[str] = []
    exempt: list[str] = []
    for name, tensor in parameters.items():
        if not name.endswith(BUFFERS) and (learns_norms or not name.endswith('last_layer.weight_g')):
            (exempt if name.endswith('.bias') or tensor.ndim == 1 else decayed).append(name)
    return decayed, exempt


def optimizer_state(moments: Mapping[str, dict], groups: Iterable[list[str]]) -> dict:
    """State dict of an AdamW over ``groups`` of parameter names, of which the last has no weight decay.

    Learning rate and weight decay are placeholders: both follow schedules that are functions of the step.
    """
    states: dict[int, dict] = {}
    settings: list[dict] = []
    count = 0
    for names in groups:
        indices = range(count, count + len(names))
        states |= {index: moments[name] for index, name in zip(indices, names, strict=True) if name in moments}
        settings.append(_group(list(indices), decays=not settings))
        count += len(names)
    return {'state': states, 'param_groups': settings}


def _group(params: list[int], decays: bool) -> dict:
    return dict(
        params=params,
        lr=0.0,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.04 if decays else 0.0,
        amsgrad=False,
        maximize=False,
        foreach=None,
        capturable=False,
        differentiable=False,
        fused=True,
        decoupled_weight_decay=True,
    )


def moments_by_name(optimizer: Mapping, parameters: Mapping[str, Tensor]) -> dict[str, dict]:
    """Optimizer state over the two groups of :func:`parameter_order`, by parameter name.

    Raises:
        ValueError: The optimizer has other groups, so that its indices cannot be mapped to parameters.
    """
    if not isinstance(optimizer, Mapping) or not {'state', 'param_groups'} <= optimizer.keys():
        raise ValueError('its optimizer state is not a torch state dict (state, param_groups) and cannot be converted')
    found = [group['params'] for group in optimizer['param_groups']]
    for learns_norms in (True, False):
        groups = parameter_order(parameters, learns_norms)
        if [len(names) for names in groups] == [len(indices) for indices in found]:
            pairs = zip((n for names in groups for n in names), (i for indices in found for i in indices), strict=True)
            moments = {name: optimizer['state'].get(index, {}) for name, index in pairs}
            _check_moments(moments, parameters)
            return moments
    raise ValueError(
        f'the optimizer has groups of {[len(indices) for indices in found]} parameters, but the student has groups of '
        f'{[len(names) for names in parameter_order(parameters, True)]}: its state cannot be converted'
    )


def _check_moments(moments: Mapping[str, dict], parameters: Mapping[str, Tensor]) -> None:
    for name, state in moments.items():
        if 'exp_avg' in state and state['exp_avg'].shape != parameters[name].shape:
            raise ValueError(
                f'the optimizer has moments of a different shape for {name}: its parameters are in another order'
            )


def _of_official(checkpoint: Mapping, method: str, loss: str, centers: Mapping[str, str]) -> TrainingState:
    student, teacher = (_with_our_names(_tensors(checkpoint[part])) for part in ('student', 'teacher'))
    if PATCH_PROTOTYPES in student and PATCH_PROTOTYPES not in teacher:
        raise ValueError('its teacher shares the head between [CLS] and patches, but its student does not')
    return TrainingState(
        method=method,
        student=student,
        teacher=teacher,
        centers={ours: checkpoint[loss][theirs].flatten() for theirs, ours in centers.items()},
        epoch=_epoch(checkpoint),
        moments=moments_by_name(checkpoint['optimizer'], student) if 'optimizer' in checkpoint else None,
        left_out=sorted(checkpoint.keys() - {'student', 'teacher', loss, 'epoch', 'optimizer'}),
    )


def _epoch(checkpoint: Mapping) -> int:
    epoch = checkpoint.get('epoch')
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f'epoch={epoch!r} of the run must be an integer of at least 0')
    return epoch


def _with_our_names(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of an official network under our names, without wrappers and duplicates of shared prototypes."""
    named = {_our_name(clean): parameters[name] for clean, name in without_wrappers(parameters).items()}
    shares = PATCH_PROTOTYPES in named and torch.equal(named[PATCH_PROTOTYPES], named['head.last_layer.weight_v'])
    return {name: tensor for name, tensor in named.items() if not (shares and name.startswith('head.last_layer2.'))}


def _our_name(name: str) -> str:
    part = next((theirs for theirs in PARTS if name.startswith(theirs)), '')
    return PARTS.get(part, '') + MASK.sub('mask_token', name.removeprefix(part))


def _of_ours(checkpoint: Mapping) -> TrainingState:
    parts: dict[str, dict[str, Tensor]] = {'student': {}, 'teacher': {}}
    centers = {}
    tensors = _tensors(checkpoint['state_dict'])
    for name, original in without_wrappers(tensors).items():
        tensor = tensors[original]
        first, _, rest = name.partition('.')
        if first in parts:
            parts[first][rest] = tensor
        elif name.endswith('.center'):
            centers[name.removesuffix('.center')] = tensor
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    optimizer = checkpoint.get('optimizer')
    return TrainingState(
        method=meta.get('method', 'DINO'),
        student=parts['student'],
        teacher=parts['teacher'],
        centers=centers,
        epoch=_epoch({'epoch': 0, **meta}),
        moments=None if optimizer is None else moments_by_name(optimizer, parts['student']),
    )
