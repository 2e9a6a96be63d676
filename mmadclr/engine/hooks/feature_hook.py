"""Keeps what the teacher makes of a few images over a run, for the report and for trackers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from PIL import Image

from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.trackers import trackers_of
from mmadclr.files import atomic_path
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.registry import HOOKS
from mmadclr.report.features import FOLDER, image_file, thumbnail

if TYPE_CHECKING:
    from mmadclr.show.snapshots import Snapshot

PICTURE = 'features.png'


@HOOKS.register_module()
class FeaturePicturesHook(Hook):
    """Stores principal components of patches and attention of the teacher on a few fixed images, for the report's slider.

    At the start and ``times`` times in the run, at equal distances, it writes ``<work_dir>/<time>/features/iter_<n>.npz``,
    some 20 kB each, which stay when checkpoints are pruned; the newest as a picture, ``<work_dir>/<time>/features.png``; and
    a picture to every tracker of the run. The images are
    evenly spread over the validation data, or over the training data if there is none. Only the main process works, while
    the others wait at their next step, and nothing random is used: the run is the same with and without. A failure is one
    warning, and ends the pictures, not the run. Without pictures remain runs of other methods than ours, of sharded
    parameters, and of data sets of other classes than ``ImageDataset``.

    Args:
        times: How often in the run, apart from the start.
        images: Number of images.

    Raises:
        ValueError: A number is below 1.
    """

    priority = 'LOWEST'  # after the update of the teacher

    def __init__(self, times: int = 20, images: int = 4) -> None:
        if times < 1 or images < 1:
            raise ValueError(
                f'times={times}, images={images} of FeaturePicturesHook must be at least 1; None removes the hook'
            )
        self.times, self.images = times, images
        self.active = False
        self.sent: Snapshot | None = None  # the last

    @master_only
    def before_train(self, runner) -> None:
        self.active = isinstance(unwrapped(runner.model), SelfDistillation) and not runner.sharded
        self.attempt(runner, self.start)

    @master_only
    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        done = runner.iter + 1
        if self.active and done * self.times // runner.max_iters > (done - 1) * self.times // runner.max_iters:
            self.attempt(runner, lambda runner: self.take(runner, done))

    def attempt(self, runner, action) -> None:
        """Runs an action; after a failure there are no more pictures."""
        if not self.active:
            return
        try:
            action(runner)
        except Exception as error:  # whatever it is, the run itself goes on
            self.active = False
            text = ' '.join(str(error).split())
            runner.logger.warning(
                f'no more pictures of features in the report ({type(error).__name__}: {text}); the run goes on, and '
                'default_hooks.features=None disables them'
            )

    def start(self, runner) -> None:
        """Chooses the images, stores them small, and takes the first pictures."""
        from mmadclr.show.snapshots import examples

        dataset = dataset_of(runner)
        self.active = dataset is not None
        if dataset is None:
            return
        self.folder = Path(runner.log_dir, FOLDER)
        self.examples = examples(dataset, self.images)
        for number, example in enumerate(self.examples):
            with atomic_path(self.folder / image_file(number)) as temporary:
                temporary.write_bytes(thumbnail(example.image))
        self.take(runner, runner.iter)

    def take(self, runner, done: int) -> None:
        from mmadclr.show.snapshots import snapshot, write_snapshot
        from mmadclr.show.study import Subject

        model = unwrapped(runner.model)
        mean, std = ((part / 255).flatten().tolist() for part in (model.data_preprocessor.mean, model.data_preprocessor.std))
        subject = Subject('teacher', model.teacher['backbone'], tuple(mean), tuple(std))
        found = snapshot(subject, self.examples, done, epoch_of(runner, done))
        write_snapshot(found, self.folder)
        self.send(runner, found)

    def send(self, runner, found: Snapshot) -> None:
        """To a file of the session, the newest alone, and to trackers, in colors that change little from one to the next."""
        from mmadclr.show.sheets import features_sheet
        from mmadclr.show.snapshots import colors_over_time, turned_to

        self.sent = found if self.sent is None else turned_to(found, self.sent)
        sheet = features_sheet([image for _, image in self.examples], colors_over_time([self.sent])[0], found.attention)
        with atomic_path(Path(runner.log_dir, PICTURE)) as temporary:
            Image.fromarray(sheet).save(temporary, 'PNG')
        for tracker in trackers_of(runner.visualizer):
            tracker.add_image('features', sheet, step=found.iteration)


def dataset_of(runner) -> ImageDataset | None:
    """The validation data, or else the training data; None if neither is an ``ImageDataset``."""
    loaders = [runner.val_loop and runner.val_loop.dataloader, runner.train_dataloader]
    found = [getattr(loader, 'dataset', None) for loader in loaders]
    return next((dataset for dataset in found if isinstance(dataset, ImageDataset)), None)


def epoch_of(runner, done: int) -> float | None:
    """Epochs done, with a fraction; None in a run without epochs."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return None
    return round(done / len(runner.train_dataloader), 2)
