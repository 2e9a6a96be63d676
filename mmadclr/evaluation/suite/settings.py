"""Settings of the protocols of the dense suite, with published values as defaults, and the names of their metrics.

Sizes are in pixels, 0 where the native size of an image is used. ``mean`` and ``std`` normalize values in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from mmadclr.evaluation.suite.linear_settings import (
    MEAN,
    STD,
    Linear,
    LinearDinov2,
    LinearDinov3,
    LinearIbot,
    Numbers,
)
from mmadclr.shipped import nearest


@dataclass(frozen=True)
class Hummingbird:
    """``memory``: patches in the bank, 0 for all. ``epochs``: of ``augment`` (jitter and crops). ``void_as``: class that
    ignored pixels have in the bank. ``std``: the published code has .255. See ``dense.hummingbird``.
    """

    size: int = 512
    k: int = 30
    beta: float = 0.02
    epochs: int = 2
    memory: int = 102_400
    augment: bool = True
    matching: Literal['hungarian', 'none'] = 'hungarian'
    void_as: int = 0
    seed: int = 0
    mean: Numbers = MEAN
    std: Numbers = (0.229, 0.224, 0.255)


@dataclass(frozen=True)
class PatchKnn:
    """Values of ``k`` and ``distance`` to choose from. ``seed``: of the holdout images. See ``dense.patch_knn``."""

    size: int = 224
    k: tuple[int, ...] = (1, 3, 10, 30)
    distance: tuple[Literal['cosine', 'L2'], ...] = ('cosine', 'L2')
    seed: int = 0
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class PatchLogistic:
    """``strengths``: values of C to choose from; published: 8 from 1e-6 to 1e5. See ``dense.patch_logistic``."""

    size: int = 224
    strengths: Numbers = tuple(10 ** (-6 + 11 * step / 7) for step in range(8))
    seed: int = 0
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class Cluster:
    """``k``: 0 for the number of classes. ``drop_last``: drop the last images that do not fill a batch of 32, as published.
    ``pca``: channels, 0 for no PCA. See ``dense.clustering``.
    """

    size: int = 448
    k: int = 0
    seeds: int = 5
    pca: int = 50
    steps: int = 100
    redos: int = 5
    points_per_center: int = 256
    drop_last: bool = False
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class Overcluster(Cluster):
    """500 clusters."""

    k: int = 500


@dataclass(frozen=True)
class Attention:
    """See ``dense.attention_masks``."""

    size: int = 448
    mass: float = 0.6
    objects: Literal['published', 'labels'] = 'published'
    without_objects: Literal['zero', 'skip'] = 'zero'
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class Davis:
    """``size``: short side. ``std``: the published code has .228. See ``dense.davis``."""

    size: int = 480
    n_last: int = 7
    radius: int = 12
    topk: int = 5
    temperature: float = 0.1
    stretch: bool = True
    mean: Numbers = MEAN
    std: Numbers = (0.228, 0.224, 0.225)


@dataclass(frozen=True)
class Spair:
    """``per_category``: pairs of each category, drawn with ``seed``, 0 for all; probe3d draws 200, in an order that depends
    on its file system. See ``dense.spair``.
    """

    size: int = 800
    alpha: float = 0.1
    cell: Literal['corner', 'center'] = 'corner'
    align_corners: bool = True
    truncate: bool = True
    per_category: int = 0
    seed: int = 20
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class Lost:
    """``keep_hard``: annotated objects that are difficult or truncated count. See ``dense.discovery``."""

    size: int = 0
    k: int = 100
    keep_hard: bool = True
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class TokenCut:
    """See :class:`Lost` and ``dense.discovery``."""

    size: int = 0
    tau: float = 0.2
    keep_hard: bool = True
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class DinoSeg:
    """See :class:`Lost` and ``dense.discovery``."""

    size: int = 0
    head: int = 4
    mass: float = 0.6
    choose_among: Literal['published', 'all'] = 'published'
    keep_hard: bool = True
    mean: Numbers = MEAN
    std: Numbers = STD


Settings = (
    Hummingbird | PatchKnn | PatchLogistic | Linear | LinearDinov2 | Cluster | Attention
    | Davis | Spair | Lost | TokenCut | DinoSeg
)  # fmt: skip


class Protocol(NamedTuple):
    """``kind``: of benchmark. ``settings``: their class. ``needs_cls``: whether it uses attention of [CLS]. ``base``: name
    of its metrics, with the settings that it always shows. ``by_name_only``: whether it has to be requested.
    """

    kind: str
    settings: type
    base: str
    needs_cls: bool = False
    by_name_only: bool = False


PROTOCOLS = {
    'hummingbird': Protocol('segmentation', Hummingbird, 'hummingbird{k}_{size}_mem{memory}'),
    'patch-knn': Protocol('segmentation', PatchKnn, 'patch_knn_{size}'),
    'patch-logistic': Protocol('segmentation', PatchLogistic, 'patch_logistic_{size}'),
    'linear': Protocol('segmentation', Linear, 'linear_neco_{size}'),
    'linear-dinov2': Protocol('segmentation', LinearDinov2, 'linear_dinov2_{size}', by_name_only=True),
    'linear-dinov3': Protocol('segmentation', LinearDinov3, 'linear_dinov3_{size}', by_name_only=True),
    'linear-ibot': Protocol('segmentation', LinearIbot, 'linear_ibot_{size}', by_name_only=True),
    'cluster': Protocol('segmentation', Cluster, 'cluster{k}_{size}'),
    'overcluster': Protocol('segmentation', Overcluster, 'overcluster{k}_{size}'),
    'attention': Protocol('segmentation', Attention, 'attention_jaccard_{size}_mass{mass}', needs_cls=True),
    'davis': Protocol('video', Davis, 'davis_{size}'),
    'spair': Protocol('pairs', Spair, 'spair_{size}_pck{alpha}'),
    'lost': Protocol('boxes', Lost, 'corloc_lost'),
    'tokencut': Protocol('boxes', TokenCut, 'corloc_tokencut'),
    'dino-seg': Protocol('boxes', DinoSeg, 'corloc_dino_seg', needs_cls=True),
}


def short(number: float) -> str:
    """Short form of a number in names: ``1.024e5``; small numbers are not changed."""
    if number < 1e4:
        return f'{number:g}'
    exponent = len(str(int(number))) - 1
    return f'{number / 10**exponent:g}e{exponent}'


def metric_base(name: str, settings: Settings, classes: int = 0) -> str:
    """Prefix of the metrics of a protocol: settings in its base, then the others that are not the defaults.

    Args:
        name: Of the protocol.
        settings: Used ones.
        classes: C, which is K of clustering if that is not set.
    """
    protocol = PROTOCOLS[name]
    shown = {field.name: getattr(settings, field.name) for field in fields(settings)}
    in_base = {key for key in shown if f'{{{key}}}' in protocol.base} | {'size'}
    named = {key: short(value) for key, value in shown.items() if key in in_base and not isinstance(value, (str, tuple))}
    if 'memory' in named and not shown['memory']:
        named['memory'] = 'all'
    if isinstance(settings, Cluster) and not settings.k:
        named['k'] = str(classes)
    plain = protocol.settings()
    tags = [f'_{key}={_plain(value)}' for key, value in shown.items() if key not in in_base and value != getattr(plain, key)]
    return protocol.base.format(**named) + ''.join(tags)


def _plain(value: Any) -> str:
    return ','.join(map(_plain, value)) if isinstance(value, tuple) else f'{value:g}' if type(value) is float else str(value)


def build_settings(names: Sequence[str], overrides: Mapping[str, Any], size: int | None = None) -> dict[str, Settings]:
    """Settings of protocols.

    Args:
        names: Of the protocols.
        overrides: Values by ``protocol.setting``.
        size: Of the square inputs of the protocols on segmentation benchmarks, if given.

    Raises:
        ValueError: An unknown protocol or setting, or a value of another type.
    """
    found = {name: PROTOCOLS[check_name(name, PROTOCOLS, 'protocol')].settings() for name in names}
    for name, settings in found.items():
        if size is not None and PROTOCOLS[name].kind == 'segmentation':
            found[name] = replace(settings, size=size)
    for key, value in overrides.items():
        name, _, setting = key.partition('.')
        check_name(name, PROTOCOLS, 'protocol')
        if name not in found:
            raise ValueError(f'--set {key}: protocol {name} is not among those to run ({", ".join(found)})')
        found[name] = _changed(name, found[name], setting, value)
    for name, settings in found.items():
        _check_values(name, settings)
    return found


def check_name(name: str, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    """The name, if it is known.

    Raises:
        ValueError: It is not; the message has the nearest ones.
    """
    if name in known:
        return name
    near = nearest(name, list(known))
    hint = f'did you mean {" or ".join(near)}?' if near else f'choose from {", ".join(known)}'
    raise ValueError(f'unknown {what} {name!r}; {hint}')


def _changed(name: str, settings: Settings, setting: str, value: Any) -> Settings:
    types = get_type_hints(type(settings))
    check_name(setting, types, f'setting of {name}')
    return replace(settings, **{setting: _converted(f'{name}.{setting}', types[setting], value)})


def _converted(key: str, kind: Any, value: Any) -> Any:
    """A value as the type of a setting, without losing anything.

    Raises:
        ValueError: It is of another type.
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f'--set {key}={value!r}: must be one of {", ".join(get_args(kind))}')
        return value
    if get_args(kind):
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_converted(key, get_args(kind)[0], item) for item in items)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and number and int(value) == value:
        return int(value)
    if kind in (bool, str) and type(value) is kind:
        return value
    raise ValueError(f'--set {key}={value!r}: must be of type {kind.__name__}')


POSITIVE = (
    *('k', 'epochs', 'batch', 'lr', 'beta', 'temperature', 'seeds', 'steps', 'redos', 'points_per_center'),
    *('topk', 'n_last', 'alpha', 'strengths', 'iterations', 'most_of_class'),
)
NATURAL = (
    *('size', 'memory', 'pca', 'per_category', 'seed', 'radius', 'head', 'step_epochs'),
    *('decay', 'warmup', 'lag', 'dropout', 'stride', 'validate'),
)


def _check_values(name: str, settings: Settings) -> None:
    for field in fields(settings):
        value = getattr(settings, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            _check_value(f'{name}.{field.name}', field.name, item, isinstance(settings, Cluster))
        if value == ():
            raise ValueError(f'{name}.{field.name}: must have at least one value')
        if field.name in ('mean', 'std') and len(value) != 3:
            raise ValueError(f'{name}.{field.name}={value}: must have 3 values')


def _check_value(key: str, setting: str, value: Any, cluster: bool) -> None:
    least_zero = setting in NATURAL or (setting == 'k' and cluster)
    if (setting in POSITIVE and not least_zero and not value > 0) or (least_zero and value < 0):
        raise ValueError(f'{key}={value}: must be {"at least" if least_zero else "above"} 0')
    if setting == 'std' and not value > 0:
        raise ValueError(f'{key}={value}: must be above 0')
