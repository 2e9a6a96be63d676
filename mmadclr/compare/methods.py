"""The rows of a comparison: configs to train, finished runs, and the untrained network."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmadclr.checkpoint.run_files import newest_good_checkpoint
from mmadclr.config.loading import load_config
from mmadclr.models.selfsup import SelfDistillation
from mmadclr.registry import MODELS, SCOPE


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        name: Of the row, and of its folder.
        cfg: Resolved pretraining config.
        parameters: Number of trainable parameters in pretraining.
        class_token: Whether the backbone has one.
        trained: False for the untrained network.
        run: Last checkpoint of a finished run; None for a config to be trained.
    """

    name: str
    cfg: Config
    parameters: int
    class_token: bool
    trained: bool = True
    run: Path | None = None


def load_methods(sources: Sequence[str], options: Mapping[str, Any], epochs: int | None) -> list[Method]:
    """Methods from config files or work dirs of finished runs; ``options`` and ``epochs`` apply only to config files.

    Rows are named after the file or folder, with the parent folder's name prepended if names collide.

    Raises:
        FileNotFoundError, ConfigError: See ``load_config``.
        ValueError: Two sources have the same name, a config is not for pretraining with one of our methods, or a run is not
            finished.
    """
    overrides = dict(options) if epochs is None else {**options, 'train_cfg.max_epochs': epochs}
    names = row_names(sources)
    return [
        load_run(name, Path(source)) if Path(source).is_dir() else load_method(name, source, overrides)
        for name, source in zip(names, sources, strict=True)
    ]


def row_names(sources: Sequence[str]) -> list[str]:
    """A unique name for every config or folder."""
    paths = [Path(source).resolve() for source in sources]
    short = [path.name.removesuffix('.py') for path in paths]
    names = [
        name if short.count(name) == 1 else f'{path.parent.name}_{name}' for name, path in zip(short, paths, strict=True)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'two rows of the table would be named {twice[0]}: list each config once, or rename one')
    return names


def load_method(name: str, file: str, overrides: Mapping[str, Any], run: Path | None = None) -> Method:
    cfg = load_config(Namespace(config=file, cfg_options=dict(overrides), work_dir=None))
    model = MODELS.build(cfg.model) if cfg.get('default_scope') == SCOPE else None
    if not isinstance(model, SelfDistillation):
        raise ValueError(f'{file} is not a pretraining config of one of our methods')
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Method(name, cfg, parameters, model.teacher['backbone'].cls_token is not None, run=run)


def load_run(name: str, work_dir: Path) -> Method:
    """A finished run, from the config and the newest checkpoint in its folder."""
    files = sorted(work_dir.glob('*.py'))
    if len(files) != 1:
        found = f'has {len(files)} configs: {", ".join(file.name for file in files)}' if files else 'has no config'
        raise ValueError(f'{work_dir} {found}; a work dir must have exactly one, which training writes')
    warnings: list[str] = []
    checkpoint = newest_good_checkpoint(work_dir, warnings.append)
    method = load_method(name, str(files[0]), {}, run=checkpoint)
    last = f'epoch_{method.cfg.train_cfg.max_epochs}.pth'
    if checkpoint is None or checkpoint.name != last:
        raise ValueError(
            f'{work_dir} is not finished: its newest checkpoint is {checkpoint and checkpoint.name}, not {last}. '
            f'Finish it with mmadclr train {files[0]} --work-dir {work_dir} --resume. {" ".join(warnings)}'.rstrip()
        )
    return method


def untrained(method: Method) -> Method:
    """The network of a method before pretraining, as a separate row."""
    return method._replace(name='random initialization', trained=False, run=None)
