"""Selects a network in a file: self-distillation and averaging store two of them, under many names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mmadclr.checkpoint.names import ANCHOR, unwrapped_name

WHICH = ('teacher', 'student')
# Words in a part of a name that indicate a teacher, which may be an average of the student's weights.
TEACHER_WORDS = frozenset(('teacher', 'ema', 'momentum', 'target', 'averaged', 'average', 'avg', 'swa', 'shadow'))
STUDENT_WORDS = frozenset(('student', 'online'))
# MoCo's names of the key encoder; `k` alone would be ambiguous.
TEACHER_PARTS = frozenset(('encoder_k', 'k_encoder', 'key_encoder', 'encoder_key'))
WORD = re.compile(r'[A-Z]+(?![a-z])|[A-Z]?[a-z]+')


class Network(NamedTuple):
    """A backbone in a file: prefix of its names, the same without wrappers, and role 'teacher', 'student' or None."""

    prefix: str
    clean: str
    role: str | None


class Choice(NamedTuple):
    """A network, and a sentence about the others in the file (empty if there are none)."""

    network: Network
    sentence: str


def networks(names: Iterable[str], checkpoint: Mapping[str, Any]) -> list[Network]:
    """The backbones below different prefixes, in file order; ``names`` are dotted paths of tensors."""
    found = {}
    for name in names:
        clean = unwrapped_name(name)
        if match := ANCHOR.fullmatch(clean):
            prefix = _prefix_of_anchor(name, match['name'].split('.')[0])
            found[prefix] = Network(prefix, match['prefix'], role(prefix, checkpoint))
    return list(found.values())


def _prefix_of_anchor(name: str, first: str) -> str:
    """The prefix of a name up to the last part ``first``; the name may have wrappers anywhere."""
    parts = name.split('.')
    index = len(parts) - 1 - parts[::-1].index(first)
    return ''.join(f'{part}.' for part in parts[:index])


def role(prefix: str, checkpoint: Mapping[str, Any]) -> str | None:
    """'teacher' or 'student' by the innermost part of a prefix that indicates it; None if none does.

    mmengine's ``EMAHook`` swaps the two when it saves (mmengine, ``hooks/ema_hook.py: before_save_checkpoint``): in
    files with mmengine's version, ``state_dict`` holds the averages and ``ema_state_dict`` the trained weights.
    """
    found = None
    for part in prefix.split('.'):
        words = {word.lower() for word in WORD.findall(part)}
        if part in ('state_dict', 'ema_state_dict') and is_exchanged(checkpoint):
            found = 'teacher' if part == 'state_dict' else 'student'
        elif part in TEACHER_PARTS or words & TEACHER_WORDS:
            found = 'teacher'
        elif words & STUDENT_WORDS:
            found = 'student'
    return found


def is_exchanged(checkpoint: Mapping[str, Any]) -> bool:
    """Whether mmengine's ``EMAHook`` swapped averaged and trained weights in a file."""
    meta = checkpoint.get('meta')
    return 'ema_state_dict' in checkpoint and isinstance(meta, Mapping) and 'mmengine_version' in meta


def choose(found: list[Network], which: str, prefix: str | None) -> Choice:
    """One of the networks of a file.

    Args:
        found: At least one.
        which: 'teacher' or 'student'. If names identify only one of the two roles, the remaining networks get the other
            role.
        prefix: Of the network, with or without wrapper parts and preceding keys, as long as it is unambiguous;
            ``which`` is then ignored.

    Raises:
        ValueError: No such network, or more than one.
    """
    if which not in WHICH:
        raise ValueError(f"which={which!r}: choose 'teacher' or 'student'")
    if prefix is not None:
        return Choice(_with_prefix(found, prefix), '')
    roles = {network.role for network in found}
    if len(found) == 1:
        return Choice(_the_only(found[0], which), '')
    if 'teacher' in roles and 'student' not in roles:
        found = [network._replace(role=network.role or 'student') for network in found]
    elif 'student' in roles and 'teacher' not in roles:
        found = [network._replace(role=network.role or 'teacher') for network in found]
    candidates = [network for network in found if network.role == which]
    if len(candidates) != 1:
        raise ValueError(
            f'the file has several backbones, below {_listed(found)}: choose one with prefix=... (--prefix in the tools)'
        )
    return Choice(candidates[0], _sentence(candidates[0], found))


def _the_only(network: Network, which: str) -> Network:
    if which == 'student' and network.role == 'teacher':
        raise ValueError(
            f"which='student': the only network in the file is the teacher below {network.prefix!r}; omit which "
            '(--which in the tools) to use it'
        )
    return network


def _with_prefix(found: list[Network], prefix: str) -> Network:
    dotted = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
    clean = unwrapped_name(dotted)
    tests = (
        lambda network: network.prefix == dotted,
        lambda network: network.clean == clean,
        lambda network: bool(clean) and f'.{network.clean}'.endswith(f'.{clean}'),
    )
    for test in tests:
        matching = [network for network in found if test(network)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise ValueError(f'prefix={prefix!r} matches several backbones: {_listed(matching)}; give the full prefix')
    raise ValueError(f'no backbone below prefix={prefix!r}; found: {_listed(found)}')


def _listed(found: list[Network]) -> str:
    return ', '.join(repr(network.prefix) for network in found)


def _sentence(taken: Network, found: list[Network]) -> str:
    others = [network for network in found if network is not taken]
    other = f'which={others[0].role!r} (--which {others[0].role} in the tools)'
    way = other if len(others) == 1 else 'which=... or prefix=... (--which, --prefix in the tools)'
    return f'using the {taken.role} below {taken.prefix!r}; select {_listed(others)} with {way}'
