"""Experiment trackers: mmengine's backends with tables, and with what today's packages need.

All of them are set by ``visualizer.vis_backends`` of a config. Each has ``add_row(table, row, step)``, which adds a line of
values by name to a table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmengine.visualization import Visualizer, vis_backend

from mmadclr.registry import VISBACKENDS

TRACKERS = ('TensorboardVisBackend', 'WandbVisBackend', 'MLflowVisBackend', 'AimVisBackend')
MLFLOW_STORE = 'sqlite:///mlflow.db'  # MLflow's own default, in the current folder


def trackers_of(visualizer: Visualizer) -> list[Any]:
    """The trackers of a run."""
    return [tracker for name in TRACKERS if (tracker := visualizer.get_backend(name)) is not None]


@VISBACKENDS.register_module()
class TensorboardVisBackend(vis_backend.TensorboardVisBackend):
    """mmengine's; TensorBoard has no tables, and a line is a text."""

    def add_row(self, table: str, row: Mapping[str, Any], step: int) -> None:
        lines = [f'| {" | ".join(map(str, cells))} |' for cells in (row, ['---'] * len(row), row.values())]
        self.experiment.add_text(table, '\n'.join(lines), global_step=step)


@VISBACKENDS.register_module()
class WandbVisBackend(vis_backend.WandbVisBackend):
    """mmengine's, with iterations as the x of all plots.

    mmengine leaves the step to wandb, which counts calls: those of the loss, of the collapse monitor and of validations.
    ``define_metric_cfg`` replaces this.
    """

    def __init__(self, save_dir: str, define_metric_cfg: Any = None, **settings: Any) -> None:
        by_iteration = [dict(name='*', step_metric='iter')]
        super().__init__(save_dir, define_metric_cfg=define_metric_cfg or by_iteration, **settings)
        self.tables: dict[str, list[Mapping[str, Any]]] = {}

    def add_row(self, table: str, row: Mapping[str, Any], step: int) -> None:
        """Sends the whole table so far: one that is sent stays as it is."""
        rows = self.tables.setdefault(table, [])
        rows.append(row)
        columns = list(dict.fromkeys(name for each in rows for name in each))
        data = [[each.get(name) for name in columns] for each in rows]
        self.experiment.log({table: self.experiment.Table(columns=columns, data=data), 'iter': step})


@VISBACKENDS.register_module()
class MLflowVisBackend(vis_backend.MLflowVisBackend):
    """mmengine's, with one database for all runs, and names of pictures that are file names.

    mmengine writes to a folder of files for every run, which MLflow 3 refuses. Without ``tracking_uri``, the environment
    variable ``MLFLOW_TRACKING_URI`` counts, else ``mlflow.db`` in the current folder.
    """

    def __init__(self, save_dir: str, tracking_uri: str | None = None, **settings: Any) -> None:
        tracking_uri = tracking_uri or os.environ.get('MLFLOW_TRACKING_URI') or MLFLOW_STORE
        super().__init__(save_dir, tracking_uri=tracking_uri, **settings)

    def add_image(self, name: str, image: Any, step: int = 0, **kwargs: Any) -> None:
        """As mmengine's, which passes the name on as that of a file."""
        super().add_image(f'{name}_{step}.png', image, step, **kwargs)

    def add_row(self, table: str, row: Mapping[str, Any], step: int) -> None:
        """Into ``<table>.json``, which MLflow shows as a table."""
        self.experiment.log_table({name: [value] for name, value in row.items()}, f'{table}.json')


@VISBACKENDS.register_module()
class AimVisBackend(vis_backend.AimVisBackend):
    """mmengine's; Aim has no tables, and a line is a text."""

    def add_row(self, table: str, row: Mapping[str, Any], step: int) -> None:
        from aim import Text

        self.experiment.track(Text(', '.join(f'{name}: {value}' for name, value in row.items())), name=table, step=step)
