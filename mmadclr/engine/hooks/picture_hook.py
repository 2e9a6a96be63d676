"""Sends the crops of a batch to experiment trackers."""

from __future__ import annotations

from mmengine.dist import master_only
from mmengine.hooks import Hook

from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.trackers import trackers_of
from mmadclr.models.preprocessors.view_preprocessor import ViewPreprocessor
from mmadclr.registry import HOOKS


@HOOKS.register_module()
class CropsPictureHook(Hook):
    """Sends one picture to every tracker of the run: the crops of the first batch after a start or resumption.

    Without a tracker, or with a preprocessor of another kind, it does nothing. It draws no random numbers, so that runs with
    and without a tracker are the same.

    Args:
        num_images: Rows of the picture.
    """

    priority = 'LOW'

    def __init__(self, num_images: int = 8) -> None:
        self.num_images = num_images
        self.sent = False

    @master_only
    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        trackers = trackers_of(runner.visualizer)
        if self.sent or not trackers or data_batch is None:
            return
        from mmadclr.show.sheets import crops_sheet  # imports matplotlib, which other runs do not need

        self.sent = True
        preprocessor = unwrapped(runner.model).data_preprocessor
        if not isinstance(preprocessor, ViewPreprocessor):
            return
        views = ViewPreprocessor.forward(preprocessor, data_batch, True)['views']  # subclasses rename or leave out some
        sheet = crops_sheet(views, preprocessor.mean, preprocessor.std, self.num_images)
        for tracker in trackers:
            tracker.add_image('crops', sheet, step=runner.iter)
