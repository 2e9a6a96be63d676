"""Families of public backbones, and the licenses of their weights.

A model carries the license of the weights it started from: checkpoints and exports record it. Families are recognized by
the name of a model or by the names of tensors; the latter cannot tell published weights from others of the same
architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mmadclr.urls import is_public_name

PROVENANCE = ('family', 'source', 'license')  # keys of `meta.backbone`, all of them texts


class Family(NamedTuple):
    """``models``: pattern of model names. ``tensors``: patterns of names in files, of which all must match."""

    title: str
    license: str
    models: str
    tensors: tuple[str, ...] = ()


class License(NamedTuple):
    """``duties``: what a user must know before sharing weights or results; empty for permissive licenses.

    ``text_required``: a copy of the license must be distributed with the weights and everything derived from them.
    """

    title: str
    duties: str = ''
    text_required: bool = False


# DINOv3's weights for satellite images, whose files do not have their normalization.
SATELLITE = 'sat493m'
STATISTICS_OF_SATELLITE = {'mean': (0.430, 0.411, 0.296), 'std': (0.213, 0.156, 0.143)}
# The first match counts.
FAMILIES = {
    'eupe': Family('EUPE', 'fair-noncommercial-research-license', r'eupe', (r'^projectors\.', r'^storage_tokens$')),
    'dinov3': Family('DINOv3', 'dinov3-license', r'dinov3'),
    'dinov2': Family('DINOv2', 'apache-2.0', r'dinov2'),
    'ibot': Family('iBOT', 'apache-2.0', r'ibot', (r'^masked_embed$',)),
    'mae': Family('MAE', 'cc-by-nc-4.0', r'(^|[^a-z])mae($|[^a-z])', (r'^decoder_\w+|^decoder\.',)),
    'dino': Family('DINO', 'apache-2.0', r'(^|[^a-z])dino($|[^a-z])'),
    'deit3': Family('DeiT III', 'apache-2.0', r'deit3|deit-iii'),
    'deit': Family('DeiT', 'apache-2.0', r'deit', (r'^(dist_token|embeddings\.distillation_token)$',)),
    'augreg': Family('augreg', 'apache-2.0', r'augreg|google/vit-'),
}
LICENSES = {
    'dinov3-license': License(
        'DINOv3 License',
        'share these weights and all that derive from them, as by continued training or distillation, only under that '
        'license and with a copy of it; name DINOv3 in publications of results; no military, nuclear, weapons or espionage '
        'use, and trade controls apply',
        text_required=True,
    ),
    'cc-by-nc-4.0': License(
        'CC-BY-NC-4.0', 'no commercial use of these weights or of any that derive from them; name their authors'
    ),
    'fair-noncommercial-research-license': License(
        'FAIR Noncommercial Research License',
        'noncommercial research only, also for all that derives from these weights; share them under that license and with '
        'a copy of it',
        text_required=True,
    ),
    'apache-2.0': License('Apache-2.0'),
}


def family_of_model(name: str) -> str | None:
    """The family of a model by its name, such as ``facebook/dinov3-vits16-pretrain-lvd1689m``."""
    return next((key for key, family in FAMILIES.items() if re.search(family.models, name.lower())), None)


def family_of_tensors(names: Iterable[str], is_rotary: bool, is_scaled: bool) -> str | None:
    """The family of a backbone by the names of its tensors, without prefix.

    Args:
        names: Those of the file.
        is_rotary: It has rotary positions.
        is_scaled: It has layer scales, and registers or a mask token as wide as its tokens.
    """
    names = list(names)
    for key, family in FAMILIES.items():
        if family.tensors and all(any(re.search(pattern, name) for name in names) for pattern in family.tensors):
            return key
    if is_rotary:
        return 'dinov3'
    return 'dinov2' if is_scaled else None


def provenance(family: str | None, source: str, license: str | None = None) -> dict[str, str]:
    """Entries of ``PROVENANCE``; the license of the family unless another is given, and only what is known."""
    known = {'source': source}
    if family is not None:
        known |= {'family': family, 'license': FAMILIES[family].license}
    return known | ({'license': license} if license else {})


def completed_provenance(about: Mapping[str, Any], filename: str) -> dict[str, Any]:
    """Facts about the backbone of a file of others, with all entries of ``PROVENANCE`` that can be known.

    A file name counts only if it is that of published weights, such as ``mae_pretrain_vit_base.pth``. Published weights
    whose name is of no family have the architecture of one, and a license of their own.
    """
    is_public = is_public_name(filename)
    name = filename if is_public else filename.replace('\\', '/').rstrip('/').rpartition('/')[2]
    by_name = family_of_model(name) if is_public or 'pretrain' in name else None
    if is_public and by_name is None and 'source' not in about:
        rest = {key: value for key, value in about.items() if key != 'family'}
        return {**rest, **provenance(None, name, about.get('license'))}
    family = about.get('family') or by_name
    if SATELLITE in name:
        about = {**STATISTICS_OF_SATELLITE, **about}
    return {**about, **provenance(family, about.get('source', name), about.get('license'))}


def license_title(about: Mapping[str, Any]) -> str | None:
    """The license of a backbone in words, if it is recorded."""
    key = about.get('license')
    return None if key is None else LICENSES[key].title if key in LICENSES else key


def license_duties(about: Mapping[str, Any]) -> str:
    """What the license demands; empty if it is permissive, or unknown."""
    found = LICENSES.get(about.get('license', ''))
    return found.duties if found else ''


def needs_license_text(about: Mapping[str, Any]) -> bool:
    """Whether a copy of the license must accompany the weights."""
    found = LICENSES.get(about.get('license', ''))
    return found is not None and found.text_required


def license_sentence(about: Mapping[str, Any]) -> str | None:
    """One line for the log on a backbone with these facts; None if its weights come from no file of others."""
    if 'source' not in about and 'license' not in about:
        return None
    title, duties = license_title(about), license_duties(about)
    family = FAMILIES[about['family']].title if about.get('family') in FAMILIES else 'the weights'
    if title is None:
        return 'the license of the weights is not recorded in the file: ask their authors before sharing them'
    source = about.get('source', 'an unknown source')
    return f'{family}, from {source}: published under {title}' + (f' ({duties})' if duties else '')
