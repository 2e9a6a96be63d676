"""Loads the backbone of a checkpoint into a model, and reports on every tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from mmadclr.checkpoint.families import PROVENANCE, completed_provenance, license_sentence
from mmadclr.checkpoint.kinds import PLAIN, foreign_kind
from mmadclr.checkpoint.layouts import BackboneWeights, find_backbone, with_class_position
from mmadclr.checkpoint.reading import read_checkpoint

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# Supported dtypes; lower precisions require scales.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
GIVEN = ('norm_eps', 'pos_embed_resize', 'img_size', 'mean', 'std', 'rope', 'license')  # facts that users may give
CONFIG_REMEDY = (
    'Correct the backbone in the config, or list what may differ in allow=[...] of its init_cfg, for example '
    "allow=['norm.*']"
)


@dataclass
class LoadReport:
    """How the tensors of a file and a model were matched; names are timm's.

    ``matched`` and ``resized`` were loaded. ``missing``: only in the model. ``unexpected``: only in the file.
    ``left_out``: in the file, and known not to be used by this model.
    """

    filename: str
    prefix: str
    matched: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        origin = f'{self.filename}, {self.prefix}*' if self.prefix else self.filename
        kinds = {
            'matched': self.matched,
            'resized': self.resized,
            'missing': self.missing,
            'unexpected': self.unexpected,
            'left out': self.left_out,
        }
        counts = ', '.join(f'{len(names)} {kind}' for kind, names in kinds.items())
        details = [f'{kind}: {_shortened(names)}' for kind, names in kinds.items() if names and kind != 'matched']
        return '; '.join((f'backbone from {origin}: {counts} tensors', *details))


def load_weights(
    model: VisionTransformer,
    filename: str | Path,
    which: str = 'teacher',
    prefix: str | None = None,
    allow: Sequence[str] = (),
    unused: Sequence[str] = (),
    facts: Mapping | None = None,
) -> LoadReport:
    """Loads a plain vision transformer from any supported checkpoint, logs a report and returns it.

    Position embeddings are resized to the model's grid (bicubic, by size, as bytedance/ibot does for detection). Files
    of other code bases do not specify their grid: if the number of positions differs from the model's, it is assumed square.

    Args:
        model: A ``QueryViT`` or ``DenseViT``.
        filename: A file or folder, see :mod:`mmadclr.checkpoint.layouts` for supported layouts; or the name of a public
            model, see :mod:`mmadclr.checkpoint.public`. Nothing in it is executed.
        which: ``'teacher'`` or ``'student'``, if the file has both; averages (EMA) count as a teacher. The choice is logged.
        prefix: Of the backbone in the file, if it should not be found automatically; ``which`` is then ignored.
        allow: Patterns (``'norm.*'``) of tensors that may be missing or unexpected, and ``'num_heads'`` if the number
            of heads may differ from that of pretraining.
        unused: Patterns of tensors that the model does not use by design.
        facts: What no tensor shows, instead of what the file or its family says: ``norm_eps``, ``pos_embed_resize``,
            ``img_size`` of the stored positions, ``mean``, ``std``, ``rope``, ``license``.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or does not match beyond what is allowed.
    """
    check_patterns(allow)
    return fill(model, read_backbone(filename, which, prefix, facts), filename, allow, unused)


def check_patterns(allow: Sequence[str]) -> None:
    """Raises ValueError if ``allow`` is a single pattern, not a list of patterns."""
    if isinstance(allow, str):
        raise ValueError(f'allow={allow!r} must be a list of patterns: [{allow!r}]')


def fill(
    model: VisionTransformer,
    weights: BackboneWeights,
    filename: str | Path,
    allow: Sequence[str] = (),
    unused: Sequence[str] = (),
    remedy: str = CONFIG_REMEDY,
) -> LoadReport:
    """As :func:`load_weights`, for a backbone already read; ``filename`` and ``remedy`` are used in messages.

    Raises:
        ValueError: The tensors do not match beyond what is allowed.
    """
    if model.pos_embed is None and 'pos_embed' in weights.state:
        raise ValueError(
            f'{filename} has a position embedding, but the backbone has rotary positions: remove rope from its config'
        )
    if 'pos_embed' in weights.state and weights.state['pos_embed'].shape != model.pos_embed.shape:
        weights = with_class_position(weights)
    target = model.state_dict()
    weights = _with_implied(weights, model, target)
    report = LoadReport(str(filename), weights.prefix, left_out=list(weights.left_out))
    state = dict(weights.state)
    if 'pos_embed' in state:
        state['pos_embed'] = _fit_positions(model, weights, report)
    for name in [name for name in state if name not in target]:
        (report.left_out if _matches(name, unused) else report.unexpected).append(name)
    report.missing = [name for name in target if name not in state]
    loaded = {name: tensor for name, tensor in state.items() if name in target}
    report.matched = [name for name in loaded if name not in report.resized]
    _check(model, weights, loaded, report, allow, remedy)
    report.resized = [f'{name} {_grid_text(weights.state[name], target[name])}' for name in report.resized]
    model.load_state_dict(loaded, strict=False)
    print_log(str(report), 'current')
    _compare_eps(model, weights, filename)
    model.weights_origin = {key: weights.about[key] for key in PROVENANCE if key in weights.about}
    return report


def _with_implied(weights: BackboneWeights, model: VisionTransformer, target: Mapping[str, Tensor]) -> BackboneWeights:
    """Adds or removes what a file need not contain: periods of rotary positions, and biases that are zero."""
    state = dict(weights.state)
    if 'rope.periods' in target and 'rope' in weights.about and 'rope.periods' not in state:
        state['rope.periods'] = implied_periods(model.rope, weights.about)
    biases = [name for name in {**target, **state} if name.endswith('.attn.qkv.bias')]
    if not any(name in state for name in biases):
        state |= {name: torch.zeros_like(target[name], device='cpu') for name in biases}
    elif not any(name in target for name in biases) and not any(state[name].any() for name in biases):
        state = {name: tensor for name, tensor in state.items() if name not in biases}
    return weights._replace(state=state)


def implied_periods(rope: Any, about: Mapping) -> Tensor:
    """Periods (C/4) of the rotary positions of a file without them: those recorded in its config, or computed.

    Args:
        rope: ``RotaryPositions``.
        about: Facts about the backbone in the file.

    Raises:
        ValueError: They do not match the width of the heads.
    """
    recorded = about.get('rope_periods')
    if recorded is None:
        return rope.periods_of(**about['rope'])
    periods = torch.tensor(recorded, dtype=torch.float32)
    if periods.shape != rope.periods.shape:
        raise ValueError(f'{len(periods)} recorded periods do not match {len(rope.periods)} of the model')
    return periods


def _compare_eps(model: VisionTransformer, weights: BackboneWeights, filename: str | Path) -> None:
    eps, own = weights.about.get('norm_eps'), model.blocks[0].norm1.eps
    if eps not in (None, own):
        print_log(f'{filename}: its norms have eps={eps:g}, those of the model eps={own:g}', 'current')


def read_backbone(
    filename: str | Path, which: str = 'teacher', prefix: str | None = None, facts: Mapping | None = None
) -> BackboneWeights:
    """The backbone in a file or folder; see :func:`load_weights` for the arguments.

    Raises:
        FileNotFoundError, ValueError: The file does not exist, has no backbone or an ambiguous one, or its weights are not
            finite floating-point numbers.
    """
    return pick_backbone(read_checkpoint(filename), filename, which, prefix, facts)


def pick_backbone(
    checkpoint: Mapping,
    filename: str | Path,
    which: str = 'teacher',
    prefix: str | None = None,
    facts: Mapping | None = None,
) -> BackboneWeights:
    """As :func:`read_backbone`, for content already read; logs assumptions, and the license of the weights in one line.

    Raises:
        ValueError: As for that function.
    """
    weights = identify_backbone(checkpoint, filename, which, prefix, facts)
    for remark in filter(None, (*weights.remarks, license_sentence(weights.about))):
        print_log(f'{filename}: {remark}', 'current')
    return weights


def identify_backbone(
    checkpoint: Mapping, filename: str | Path, which: str, prefix: str | None, facts: Mapping | None
) -> BackboneWeights:
    """As :func:`pick_backbone`, without telling anything."""
    try:
        _check_given(facts or {})
        weights = find_backbone(checkpoint, which, prefix, facts)
        problem, kind = _broken_numbers(weights.state), foreign_kind(weights.state)
        if problem is not None:  # other models may have other dtypes, and NaN in buffers
            raise ValueError(problem if kind is None else f'it is {kind}; supported is {PLAIN}')
    except ValueError as error:
        raise ValueError(str(error) if str(filename) in str(error) else f'{filename}: {error}') from error
    about = dict(weights.about)
    is_own = about.pop('own', False)
    return weights._replace(about=about if is_own else completed_provenance(about, str(filename)))


def _check_given(facts: Mapping) -> None:
    unknown = facts.keys() - GIVEN
    if unknown:
        raise ValueError(f'facts: unknown {", ".join(sorted(map(str, unknown)))}; accepted: {", ".join(GIVEN)}')


def _broken_numbers(state: Mapping[str, Tensor]) -> str | None:
    strange = [f'{name}: {tensor.dtype}' for name, tensor in state.items() if tensor.dtype not in FLOATS]
    if strange:
        return (
            f'{len(strange)} of {len(state)} tensors of the backbone are not of an ordinary floating-point dtype '
            f'({_shortened(strange)}), as in quantized files; use the original file'
        )
    spread = [name for name, tensor in state.items() if tensor.numel() > tensor.untyped_storage().nbytes()]
    if spread:
        return f'{_shortened(spread)}: expanded tensors, with more elements than are stored: save copies of them'
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        return (
            f'{len(broken)} of {len(state)} tensors of the backbone contain NaN or infinity '
            f'({_shortened(broken)}): the run diverged; use an earlier checkpoint'
        )
    return None


def _fit_positions(model: VisionTransformer, weights: BackboneWeights, report: LoadReport) -> Tensor:
    """Position embedding of the file (1, p + n, D), adapted to the prefix tokens and the grid of the model."""
    state = weights.state
    found, own = state['pos_embed'].float(), model.pos_embed
    num_prefix = int('cls_token' in state and 'reg_token' not in state)
    if found.shape == own.shape and num_prefix == model.num_positioned_prefix:
        return found
    if found.ndim != 3 or found.shape[2] != own.shape[2]:
        return found  # wrong width: reported with all other shapes
    prefix, grid = found[:, :num_prefix], found[:, num_prefix:]
    if num_prefix != model.num_positioned_prefix:
        prefix = own.detach()[:, : model.num_positioned_prefix].cpu()
    if grid.shape[1] != own.shape[1] - model.num_positioned_prefix:
        grid = resize_grid(grid, model.patch_embed.grid_size, report.filename, stored_grid(weights))
    report.resized.append('pos_embed')
    return torch.cat((prefix, grid), dim=1)


def stored_grid(weights: BackboneWeights) -> tuple[int, int] | None:
    """Rows and columns of patches for which positions are stored, if the file specifies them."""
    kernel = weights.state.get('patch_embed.proj.weight')
    if 'img_size' not in weights.about or kernel is None or kernel.ndim != 4:
        return None
    height, width = weights.about['img_size']
    return height // kernel.shape[2], width // kernel.shape[3]


def resize_grid(grid: Tensor, size: tuple[int, int], filename: str, stored: tuple[int, int] | None = None) -> Tensor:
    """Bicubic resizing of positions (1, n, D) from a ``stored`` grid, square by default, to a grid of another ``size``.

    Raises:
        ValueError: The number of positions does not match the grid.
    """
    side = math.isqrt(grid.shape[1])
    rows, columns = stored or (side, side)
    if rows * columns != grid.shape[1]:
        raise ValueError(
            f'{filename}: {grid.shape[1]} positions do not form a square grid and cannot be resized; set img_size of the '
            'backbone to the size it was trained with'
        )
    grid = F.interpolate(grid.unflatten(1, (rows, columns)).permute(0, 3, 1, 2), size=size, mode='bicubic')
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


def _check(
    model: VisionTransformer,
    weights: BackboneWeights,
    loaded: dict[str, Tensor],
    report: LoadReport,
    allow: Sequence[str],
    remedy: str,
) -> None:
    problems = []
    target = model.state_dict()
    shapes = [
        f'{name} {tuple(t.shape)} in the file, {tuple(target[name].shape)} in the model'
        for name, t in loaded.items()
        if t.shape != target[name].shape
    ]
    if shapes:
        problems.append(f'{len(shapes)} of a different shape ({_shortened(shapes)}): arch or patch size differs')
    for kind, names in (('missing from the file', report.missing), ('not in the model', report.unexpected)):
        refused = [name for name in names if not _matches(name, allow)]
        if refused:
            problems.append(f'{len(refused)} {kind} ({_shortened(refused)})')
    heads = model.blocks[0].attn.num_heads
    if weights.num_heads not in (None, heads) and 'num_heads' not in allow:
        problems.append(f"pretrained with {weights.num_heads} attention heads, not {heads} ('num_heads')")
    if problems:
        foreign = foreign_kind(weights.state)
        raise ValueError(
            f'{report.filename} does not match the backbone: {f"it is {foreign}; " if foreign else ""}{"; ".join(problems)}'
            f'{f". {remedy}" if remedy else ""}'
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _grid_text(found: Tensor, own: Tensor) -> str:
    return f'({found.shape[1]} -> {own.shape[1]} positions)'


def _shortened(names: Sequence[str], most: int = 4) -> str:
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
