"""The rows of a comparison: configs that are to be trained, finished runs, and the network before training."""

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
        cfg: Resolved config of pretraining.
        parameters: Number of parameters that pretraining trains.
        class_token: Whether the backbone has one.
        trained: False for the network as it is before pretraining.
        run: Last checkpoint of a finished run; None for a config that is to be trained.
    """

    name: str
    cfg: Config
    parameters: int
    class_token: bool
    trained: bool = True
    run: Path | None = None


def load_methods(sources: Sequence[str], options: Mapping[str, Any], epochs: int | None) -> list[Method]:
    """Methods by their config files, or by the work dirs of finished runs, which ``options`` and ``epochs`` do not change.

    They are called as the file or the folder; where several have one name, with the folder it lies in before it.

    Raises:
        FileNotFoundError, ConfigError: See ``load_config``.
        ValueError: Two sources have one name, a config is not one of pretraining with one of our methods, or a run is not
            finished.
    """
    overrides = dict(options) if epochs is None else {**options, 'train_cfg.max_epochs': epochs}
    names = row_names(sources)
    return [
        load_run(name, Path(source)) if Path(source).is_dir() else load_method(name, source, overrides)
        for name, source in zip(names, sources, strict=True)
    ]


def row_names(sources: Sequence[str]) -> list[str]:
    """A name for every config or folder that is no other's."""
    paths = [Path(source).resolve() for source in sources]
    short = [path.name.removesuffix('.py') for path in paths]
    names = [
        name if short.count(name) == 1 else f'{path.parent.name}_{name}' for name, path in zip(short, paths, strict=True)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f'two rows of the table would be called {twice[0]}: list each config once, or give one another name'
        )
    return names


def load_method(name: str, file: str, overrides: Mapping[str, Any], run: Path | None = None) -> Method:
    cfg = load_config(Namespace(config=file, cfg_options=dict(overrides), work_dir=None))
    model = MODELS.build(cfg.model) if cfg.get('default_scope') == SCOPE else None
    if not isinstance(model, SelfDistillation):
        raise ValueError(f'{file}: no config of pretraining with one of our methods')
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Method(name, cfg, parameters, model.teacher['backbone'].cls_token is not None, run=run)


def load_run(name: str, work_dir: Path) -> Method:
    """A finished run, by the config and the newest checkpoint in its folder."""
    files = sorted(work_dir.glob('*.py'))
    if len(files) != 1:
        found = f'has {len(files)} configs: {", ".join(file.name for file in files)}' if files else 'has no config'
        raise ValueError(f'{work_dir} {found}; the folder of a run holds one, which training writes')
    warnings: list[str] = []
    checkpoint = newest_good_checkpoint(work_dir, warnings.append)
    method = load_method(name, str(files[0]), {}, run=checkpoint)
    last = f'epoch_{method.cfg.train_cfg.max_epochs}.pth'
    if checkpoint is None or checkpoint.name != last:
        raise ValueError(
            f'{work_dir} is not finished: its newest checkpoint is {checkpoint and checkpoint.name}, not {last}. '
            f'Go on with it by mmadclr train {files[0]} --work-dir {work_dir} --resume. {" ".join(warnings)}'.rstrip()
        )
    return method


def untrained(method: Method) -> Method:
    """The network of a method before pretraining, as a row of its own."""
    return method._replace(name='random initialization', trained=False, run=None)
