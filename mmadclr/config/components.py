"""The components of a config: their paths, classes and effective settings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_type_hints

from mmengine import registry as root_registries
from mmengine.registry import Registry

from mmadclr import registry as our_registries
from mmadclr.annotations import MaybeNone
from mmadclr.config.findings import ConfigError
from mmadclr.packages import EXTRAS, how_to_get
from mmadclr.registry import ConfigOf

# Top-level keys that a run reads beside the arguments of mmengine's runner.
MORE_RUNNER_KEYS = frozenset(
    {
        'find_unused_parameters',
        'model_wrapper_cfg',
        'sync_bn',
        'compile',
        'activation_checkpointing',
        'efficient_conv_bn_eval',
        'custom_imports',
        'dataset_check',
        'sharding',
        'verbose',
    }
)


@cache
def runner_keys() -> frozenset[str]:
    """Top-level keys that a run reads; other top-level names are variables.

    The runner is not imported before: loader workers that are started afresh import the data sets alone.
    """
    from mmengine.runner import Runner

    return (MORE_RUNNER_KEYS | inspect.signature(Runner.__init__).parameters.keys()) - {'self', 'cfg'}


class Node(NamedTuple):
    """A dict in a config.

    Attributes:
        path: Dotted.
        node: Its keys as written.
        kind: Its type, or the one declared by the class that receives it; None if unknown.
        component: Class or function of that type; None if no registry lists it.
        keys: What the class that receives it reads from it beyond the arguments of the type (``config_keys``).
    """

    path: str
    node: Mapping
    kind: str | type | MaybeNone
    component: Any
    keys: frozenset[str] = frozenset()


class Place(NamedTuple):
    """A component in its config; argument of the class method ``find_conflicts``, which reports invalid settings.

    Attributes:
        path: Dotted; empty for the runner, whose settings are the config.
        component: The class.
        settings: The arguments it will be called with: those of the config, with defaults from its signature.
        config: All places.
    """

    path: str
    component: Any
    settings: Mapping[str, Any]
    config: Places

    @property
    def cfg(self) -> Mapping:
        """The full config."""
        return self.config.cfg

    def get(self, path: str, default: Any = None) -> Any:
        """See :meth:`Places.get`."""
        return self.config.get(path, default)

    def at(self, path: str) -> Place:
        """See :meth:`Places.at`."""
        return self.config.at(path)

    @property
    def phase(self) -> str:
        """``'train'``, ``'val'`` or ``'test'``; the latter two for settings that the runner uses only in that phase."""
        phase = self.path.partition('_')[0]
        return phase if phase in ('val', 'test') else 'train'

    @property
    def in_training(self) -> bool:
        """Whether training builds it: everything except test settings, and validation settings only with ``val_cfg``."""
        return self.phase == 'train' or (self.phase == 'val' and bool(self.get('val_cfg')))


class Places:
    """Access to a config by dotted paths of its components."""

    def __init__(self, cfg: Mapping) -> None:
        self.cfg = cfg

    @cached_property
    def all(self) -> dict[str, Place]:
        """Every registered component of the run by path; variables are already substituted."""
        found = {}
        for path, node, _, component, _ in nodes(
            self.cfg, registries_of(self.cfg.get('default_scope') or our_registries.SCOPE)
        ):
            if component is not None and path.split('.')[0] in {'', *runner_keys()}:
                found[path] = Place(path, component, {**defaults_of(component), **dict(node.items())}, self)
        return found

    def at(self, path: str) -> Place:
        """The component at a path; without a class or settings if unknown."""
        written = self.written(path)
        nothing = Place(path, None, written if isinstance(written, Mapping) else {}, self)
        return self.all.get(path, nothing)

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a path, from the config or the defaults of its component; otherwise ``default``."""
        parent, _, key = path.rpartition('.')
        value = self.at(parent).settings.get(key) if parent else self.written(key)
        return default if value is None else value

    def of_kind(self, kind: type, phase: str = 'train') -> Iterator[Place]:
        """Components of a class or its subclasses."""
        for place in self.all.values():
            if inspect.isclass(place.component) and issubclass(place.component, kind) and place.phase == phase:
                yield place

    def written(self, path: str) -> Any:
        """Value at a path in the config itself; None if there is none."""
        value: Any = self.cfg
        for key in path.split('.'):
            if isinstance(value, (list, tuple)) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                value = value.get(key) if hasattr(value, 'get') else None  # Config is not a Mapping
        return value


def nodes(cfg: Mapping, registries: Sequence[Registry]) -> Iterator[Node]:
    """Every dict of a config, parents before children; the first is the config itself, for its runner."""
    runner = find_component(str(cfg.get('runner_type') or 'Runner'), registries)
    yield Node('', cfg, None, runner)
    parts = {name: part.component for name, part in getattr(runner, 'config_parts', {}).items()}
    keys = _declared_keys(cfg, runner, registries)
    for name, value in cfg.items():
        yield from _below(cfg, name, value, registries, parts.get(name), keys.get(name, frozenset()))


def _below(
    cfg: Mapping,
    path: str,
    node: Any,
    registries: Sequence[Registry],
    declared: str | type | None,
    declared_keys: frozenset[str] = frozenset(),
) -> Iterator[Node]:
    """A node and all nodes below it; ``declared``: its type if it has none, according to the class that receives it."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _below(cfg, f'{path}.{i}', child, registries, None)
    if not isinstance(node, Mapping):
        return
    kind = node.get('type', declared)
    kind = kind if isinstance(kind, (str, type)) else None
    component = find_component(kind, registries) if isinstance(kind, str) else kind
    yield Node(path, node, kind, component, declared_keys)
    parts, keys = _declared_parts(cfg, path, node, component), _declared_keys(node, component, registries)
    for name, child in node.items():
        yield from _below(cfg, f'{path}.{name}', child, registries, parts.get(name), keys.get(name, frozenset()))


def _declared_keys(node: Mapping, component: Any, registries: Sequence[Registry]) -> dict[str, frozenset[str]]:
    """``config_keys`` of the class of a node, and of the constructor that mmengine hands the node to."""
    constructor = node.get('constructor')
    classes = [component, find_component(constructor, registries) if isinstance(constructor, str) else None]
    return {name: frozenset(keys) for each in classes for name, keys in getattr(each, 'config_keys', {}).items()}


def _declared_parts(cfg: Mapping, path: str, node: Mapping, component: Any) -> dict[str, str | type]:
    """Types of those arguments that are configs, as declared by the class."""
    declared = declared_configs(component) if inspect.isclass(component) else {}
    return {name: _type_like(cfg, path, node, part.like) or part.component for name, part in declared.items()}


def _type_like(cfg: Mapping, path: str, node: Mapping, like: str | None) -> str | type | None:
    """Type of another argument; mmengine's runner sets the ``dataloader`` of a loop from the top level."""
    if like is None:
        return None
    value: Any = {'dataloader': cfg.get(f'{path.removesuffix("_cfg")}_dataloader'), **node}
    for key in like.split('.'):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value.get('type') if isinstance(value, Mapping) else None


def defaults_of(component: Any) -> dict[str, Any]:
    """Default arguments of a component, including inherited ones as in :func:`accepted_arguments`."""
    defaults: dict[str, Any] = {}
    for constructor in _constructors(component) if inspect.isclass(component) else (component,):
        parameters = _parameters(constructor)
        for name, parameter in parameters.items():
            if parameter.default is not parameter.empty:
                defaults.setdefault(name, parameter.default)
        if not _takes_anything(parameters):
            break
    return defaults


def _parameters(component: Callable) -> Mapping[str, inspect.Parameter]:
    """Parameters of the signature; empty if Python cannot determine them, as for some C functions."""
    try:
        return inspect.signature(component).parameters
    except (TypeError, ValueError):
        return {}


def accepted_arguments(component: Callable) -> set[str] | None:
    """Argument names that a class or function accepts; None if it accepts any.

    A ``**kwargs`` in a constructor stands for the arguments of the next constructor in the inheritance order.
    """
    if not inspect.isclass(component):
        parameters = inspect.signature(component).parameters
        return None if _takes_anything(parameters) else _keywords(parameters)
    if component.__init__ is object.__init__ and component.__new__ is object.__new__:
        return set()  # no constructor, although the signature of ``object.__init__`` accepts anything
    accepted: set[str] = set()
    for constructor in _constructors(component):
        parameters = inspect.signature(constructor).parameters
        accepted |= _keywords(parameters)
        if not _takes_anything(parameters):
            return accepted
    return None


def check_arguments(component: Callable, settings: Mapping[str, Any], where: str) -> None:
    """Raises ValueError if a component cannot be called with these settings."""
    try:
        inspect.signature(component).bind(**settings)
    except TypeError as error:
        raise ValueError(f'{where}: {getattr(component, "__name__", component)} cannot be built: {error}') from error


def declared_configs(component: type) -> dict[str, ConfigOf]:
    """Arguments of a class annotated as the config of a component, including those of inherited constructors."""
    declared: dict[str, ConfigOf] = {}
    for constructor in _constructors(component):
        try:
            hints = get_type_hints(constructor, include_extras=True)
        except (NameError, TypeError, AttributeError):  # annotations that only a type checker can resolve
            hints = {}
        for name, hint in hints.items():
            if (part := next(_parts_of(hint), None)) is not None:
                declared.setdefault(name, part)
        if not _takes_anything(inspect.signature(constructor).parameters):
            break
    return declared


def _constructors(component: type) -> Iterator[Callable]:
    """Constructors in inheritance order; each may forward unnamed arguments to the next."""
    return (vars(cls)['__init__'] for cls in component.__mro__ if '__init__' in vars(cls))


def _parts_of(hint: Any) -> Iterator[ConfigOf]:
    """``ConfigOf`` annotations in a type, including those in unions (``... | None``)."""
    yield from (part for part in getattr(hint, '__metadata__', ()) if isinstance(part, ConfigOf))
    if not hasattr(hint, '__metadata__'):
        for choice in get_args(hint):
            yield from _parts_of(choice)


def _keywords(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """Parameters that can be passed by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, parameter in parameters.items() if parameter.kind in by_name}


def _takes_anything(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def find_component(name: str, registries: Sequence[Registry]) -> Any:
    """The first component of a name; None if there is none. Only names with dots are imported."""
    for registry in registries:
        try:
            component = registry.get(name) if '.' in name else _registered(registry, name)
        except (RuntimeError, ValueError, TypeError, ImportError, AttributeError):
            return None  # not a valid name: mmengine tried to import it
        if component is not None:
            return component
    return None


def _registered(registry: Registry, name: str) -> Any:
    """``registry.get`` of a name without dots, which would look for a module of every name that is not registered."""
    registry.import_from_location()
    node: Registry | None = registry
    while node is not None and name not in node.module_dict:
        node = node.parent
    return None if node is None else node.module_dict[name]


def registries_of(scope: str) -> list[Registry]:
    """Registries of the config's scope, then ours; each falls back to its parent, mmengine's of the same kind."""
    modules = [our_registries]
    if scope not in (our_registries.SCOPE, 'mmengine'):
        modules.insert(0, _registry_module(scope))
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Registry)]
    children = [registry for registry in found if registry.scope != 'mmengine']  # the modules import the parents too
    parents = {registry.parent.name for registry in children if registry.parent is not None}
    roots = [value for value in vars(root_registries).values() if isinstance(value, Registry)]
    return children + [registry for registry in roots if registry.name not in parents]


def _registry_module(scope: Any) -> ModuleType:
    try:
        return importlib.import_module(f'{scope}.registry')
    except (ImportError, AssertionError, TypeError, ValueError) as error:  # asserted are the versions of other packages
        hint = f'; {how_to_get(scope)}' if scope in EXTRAS else ''
        raise ConfigError(
            f'default_scope={scope!r}: there is no package of this name with registries ({error}){hint}'
        ) from error
