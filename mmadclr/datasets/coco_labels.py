"""Assigns labels of COCO files by the names in ``metainfo.classes``, independent of the category order in the file.

mmdet numbers categories in file order (``CocoDataset.load_data_list`` and ``CocoMetric.compute_metrics`` of
mmdet 3 call ``pycocotools``' ``getCatIds``, which filters by name and keeps that order). If it differs from the class
list, or between training and validation, labels refer to the wrong classes. :func:`by_name` corrects
this in mmdet itself, so that all data sets and metrics based on its COCO interface agree.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def category_ids(categories: Sequence[dict], names: Sequence[str]) -> list[int]:
    """Category ids in the order of the names, so that the index of an id is its label.

    Raises:
        ValueError: A name is missing, which would shift the labels after it, or refers to two categories.
    """
    ids: dict[str, list] = {}
    for category in categories:
        ids.setdefault(category['name'], []).append(category['id'])
    missing = [name for name in names if name not in ids]
    if missing:
        found = ', '.join(map(str, [*ids][:5]))
        raise ValueError(f'no category is named {", ".join(missing[:5])} (metainfo.classes); the file has {found}')
    double = next((name for name in names if len(ids[name]) > 1), None)
    if double is not None:
        raise ValueError(f'categories {ids[double]} are all named {double}, so the label is ambiguous')
    return [ids[name][0] for name in names]


def _patch_interface(module: ModuleType) -> None:
    """mmdet's ``COCO.get_cat_ids(cat_names=...)``, in the order of the names."""
    original = module.COCO.get_cat_ids

    @wraps(original)
    def get_cat_ids(self, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()) -> list[int]:
        if isinstance(cat_names, (list, tuple)) and len(cat_names) and not len(sup_names) and not cat_ids:
            return category_ids(self.dataset['categories'], cat_names)
        return original(self, list(cat_names), list(sup_names), cat_ids)

    module.COCO.get_cat_ids = get_cat_ids


def _patch_metric(module: ModuleType) -> None:
    """``CocoMetric``: maps labels to categories by name; sorts its class table by id, as pycocotools sorts results."""
    original = module.CocoMetric.results2json

    @wraps(original)
    def results2json(self, *args, **kwargs) -> dict:
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        files = original(self, *args, **kwargs)
        self.cat_ids = sorted(self.cat_ids)
        return files

    module.CocoMetric.results2json = results2json


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    'mmdet.datasets.api_wrappers.coco_api': _patch_interface,
    'mmdet.evaluation.metrics.coco_metric': _patch_metric,
}
MARK = '_mmadclr_by_name'


def _patch(module: ModuleType) -> None:
    if not hasattr(module, MARK):
        PATCHES[module.__name__](module)
        setattr(module, MARK, True)


class _PatchingLoader(Loader):
    """Executes a module with its own loader, then patches it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _patch(module)


class _Finder(MetaPathFinder):
    """Finds the modules to patch; all other modules are left to later finders."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in PATCHES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader)
        return spec


def by_name() -> None:
    """Makes mmdet's labels follow ``metainfo.classes``, without importing mmdet."""
    for name in PATCHES:
        if name in sys.modules:
            _patch(importlib.import_module(name))
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
