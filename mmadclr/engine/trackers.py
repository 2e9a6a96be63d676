"""Experiment trackers: mmengine's backends for Weights & Biases and MLflow, with what today's packages need.

mmengine's ``AimVisBackend`` is used as it is. All of them are set by ``visualizer.vis_backends`` of a config.
"""

from __future__ import annotations

import os
from typing import Any

from mmengine.visualization import vis_backend

from mmadclr.registry import VISBACKENDS

TRACKERS = ('WandbVisBackend', 'MLflowVisBackend', 'AimVisBackend')
MLFLOW_STORE = 'sqlite:///mlflow.db'  # MLflow's own default, in the current folder


@VISBACKENDS.register_module()
class WandbVisBackend(vis_backend.WandbVisBackend):
    """mmengine's, with iterations as the x of all plots.

    mmengine leaves the step to wandb, which counts calls: those of the loss, of the collapse monitor and of validations.
    ``define_metric_cfg`` replaces this.
    """

    def __init__(self, save_dir: str, define_metric_cfg: Any = None, **settings: Any) -> None:
        by_iteration = [dict(name='*', step_metric='iter')]
        super().__init__(save_dir, define_metric_cfg=define_metric_cfg or by_iteration, **settings)


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
