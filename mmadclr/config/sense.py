"""Finds conflicting settings of a pretraining run before anything is built or read.

The rules are implemented by the classes concerned: each class method ``find_conflicts(place)`` yields a ``Finding`` for
every setting that cannot work or may be unintended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmadclr.config.components import Place, Places
from mmadclr.config.findings import ConfigError, Finding, report
from mmadclr.registry import SCOPE


def check_sense(cfg: Mapping) -> None:
    """Checks all components of a pretraining config for conflicting settings.

    Configs of other scopes are not checked. Reads the config and checks whether paths exist; nothing is built.

    Raises:
        ConfigError: Lists all fatal findings with keys and fixes; other findings are logged as warnings.
    """
    if (cfg.get('default_scope') or SCOPE) != SCOPE:
        return
    findings = list(find_conflicts(cfg))
    report(finding for finding in findings if not finding.fatal)
    fatal = [finding for finding in findings if finding.fatal]
    if fatal:
        cause = next((finding.cause for finding in fatal if finding.cause is not None), None)
        raise ConfigError(
            '\n  '.join(('the config has conflicting settings:', *(finding.text for finding in fatal)))
        ) from cause


def find_conflicts(cfg: Mapping) -> Iterator[Finding]:
    """Findings of the classes of all components."""
    for place in Places(cfg).all.values():
        yield from _ask(place)


def _ask(place: Place) -> Iterator[Finding]:
    """Findings of one class; an exception becomes a finding, so that those of other classes are still reported."""
    find = getattr(place.component, 'find_conflicts', None)
    if find is None:
        return
    try:
        yield from find(place)
    except Exception as error:  # including those of third-party classes
        text = f'{place.component.__name__}.find_conflicts failed with {type(error).__name__}: {error}'
        yield Finding(f'{place.path or "the config"}: {text}', cause=error)
