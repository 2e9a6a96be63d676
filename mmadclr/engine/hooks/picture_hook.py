"""Pictures of the crops of a run: for its report, and for experiment trackers."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from PIL import Image

from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.loading import collate_samples
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.trackers import trackers_of
from mmadclr.files import atomic_path
from mmadclr.models.preprocessors.view_preprocessor import ViewPreprocessor
from mmadclr.registry import HOOKS

FILE = 'crops.png'


@HOOKS.register_module()
class CropsPictureHook(Hook):
    """Draws crops as the model sees them, once after a start or resumption.

    ``<work_dir>/<time>/crops.png``: images that are evenly spread over the training data, with the boxes of their crops, and
    the crops. Every tracker of the run gets the crops of the first batch. With a preprocessor or data set of another kind it
    does nothing. It draws no random numbers: runs with and without it are the same. A failure is one warning.

    Args:
        num_images: Rows of a picture.
    """

    priority = 'LOW'

    def __init__(self, num_images: int = 8) -> None:
        self.num_images = num_images
        self.drawn = False

    @master_only
    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        preprocessor = unwrapped(runner.model).data_preprocessor
        if self.drawn or data_batch is None or not isinstance(preprocessor, ViewPreprocessor):
            return
        self.drawn = True
        try:
            self.send(runner, preprocessor, data_batch)
            self.write(runner, preprocessor)
        except Exception as error:  # whatever it is, the run itself goes on
            text = ' '.join(str(error).split())
            runner.logger.warning(
                f'no picture of crops ({type(error).__name__}: {text}); the run goes on, and default_hooks.crops=None '
                'disables it'
            )

    def send(self, runner, preprocessor: ViewPreprocessor, data_batch: dict) -> None:
        """The crops of the batch to every tracker."""
        trackers = trackers_of(runner.visualizer)
        if not trackers:
            return
        from mmadclr.show.sheets import crops_sheet

        sheet = crops_sheet(views_of(preprocessor, data_batch), preprocessor.mean, preprocessor.std, self.num_images)
        for tracker in trackers:
            tracker.add_image('crops', sheet, step=runner.iter)

    def write(self, runner, preprocessor: ViewPreprocessor) -> None:
        """The file of the session."""
        dataset = runner.train_dataloader.dataset
        if not isinstance(dataset, ImageDataset):
            return
        from mmadclr.show.pictures import spread
        from mmadclr.show.sheets import boxes_sheet
        from mmadclr.show.snapshots import examples

        # Copies: what they open on reading must not be passed on to workers.
        dataset = copy.copy(dataset)
        dataset.source, dataset.transform = copy.copy(dataset.source), copy.copy(dataset.transform)
        data = collate_samples([dataset[index] for index in spread(range(len(dataset)), self.num_images)])
        images = [example.image for example in examples(dataset, self.num_images)]
        sheet = boxes_sheet(images, data, views_of(preprocessor, data), preprocessor.mean, preprocessor.std)
        with atomic_path(Path(runner.log_dir, FILE)) as temporary:
            Image.fromarray(np.ascontiguousarray(sheet)).save(temporary, 'PNG')


def views_of(preprocessor: ViewPreprocessor, batch: dict) -> dict:
    """All views of a batch; subclasses of the preprocessor rename or leave out some."""
    return ViewPreprocessor.forward(preprocessor, batch, True)['views']
