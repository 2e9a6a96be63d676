"""Checks before training that the classifier and the data sets have the same classes."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook

from mmadclr.datasets.class_names import check_count, check_names
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.registry import HOOKS


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Compares the classes of the training set, the evaluation set and the outputs of the head.

    Labels are indices into a list of class names, so a missing class folder would silently shift all later classes. The
    names a model was trained with are stored in its checkpoint.
    """

    trained_on: Sequence[str] | None = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        names = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
        self.trained_on = None if names is None else tuple(names)

    def before_train(self, runner) -> None:
        self.trained_on = tuple(runner.train_dataloader.dataset.metainfo['classes'])
        check_count(self.trained_on, unwrapped(runner.model).head.num_classes, runner.train_dataloader.dataset.data_root)
        if runner.val_dataloader is not None:
            self.compare(runner, runner.val_dataloader)

    def before_val(self, runner) -> None:
        self.compare(runner, runner.val_dataloader)

    def before_test(self, runner) -> None:
        self.compare(runner, runner.test_dataloader)

    def compare(self, runner, dataloader) -> None:
        dataset = dataloader.dataset
        classes = tuple(dataset.metainfo['classes'])
        check_count(classes, unwrapped(runner.model).head.num_classes, dataset.data_root)
        if self.trained_on is not None:
            check_names(self.trained_on, classes, dataset.data_root)
