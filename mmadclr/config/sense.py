"""Settings of a pretraining run that cannot work together, found before anything is built or read.

No rule is stated here: each stands with the class that has it, as a class method ``find_conflicts(place)``, which yields a
``Finding`` for all that cannot work or may not be meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmadclr.config.components import Place, Places
from mmadclr.config.findings import ConfigError, Finding, report
from mmadclr.registry import SCOPE


def check_sense(cfg: Mapping) -> None:
    """Asks the class of every component of a pretraining config for settings that exclude each other.

    Configs of other scopes are left to their libraries. Reads the config and looks whether paths exist; nothing is built.

    Raises:
        ConfigError: Lists all that cannot work, with keys and ways out; what may be meant is logged as a warning.
    """
    if (cfg.get('default_scope') or SCOPE) != SCOPE:
        return
    findings = list(find_conflicts(cfg))
    report(finding for finding in findings if not finding.fatal)
    fatal = [finding for finding in findings if finding.fatal]
    if fatal:
        cause = next((finding.cause for finding in fatal if finding.cause is not None), None)
        raise ConfigError('\n  '.join(('settings that cannot work:', *(finding.text for finding in fatal)))) from cause


def find_conflicts(cfg: Mapping) -> Iterator[Finding]:
    """What the classes of all components find."""
    for place in Places(cfg).all.values():
        yield from _ask(place)


def _ask(place: Place) -> Iterator[Finding]:
    """What one class finds; a class that fails is a finding itself, so that those of the others are told, too."""
    find = getattr(place.component, 'find_conflicts', None)
    if find is None:
        return
    try:
        yield from find(place)
    except Exception as error:  # of classes that are not ours, too
        text = f'{place.component.__name__}.find_conflicts failed with {type(error).__name__}: {error}'
        yield Finding(f'{place.path or "the config"}: {text}', cause=error)
