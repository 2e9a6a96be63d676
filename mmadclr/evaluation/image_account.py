"""Report of a pass over images: unreadable images, and information lost in conversion to 8-bit RGB."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from mmengine import dist
from mmengine.logging import print_log

from mmadclr.datasets.accounts import LostAccount
from mmadclr.datasets.image_dataset import UnreadableImageError


class Told(Protocol):
    """A batch with messages about unreadable images, and pairs of lost information and image."""

    @property
    def unreadable(self) -> list[str]: ...

    @property
    def lost(self) -> list[tuple[str, str]]: ...


class Images(Protocol):
    """A set of images, and where they lie."""

    data_root: Any

    def __len__(self) -> int: ...


B = TypeVar('B', bound=Told)


class ImageAccount:
    """Report of one pass on this process. All methods except ``over`` are collective and cover all processes."""

    def __init__(self) -> None:
        self._unreadable: list[str] = []
        self._lost = LostAccount()

    def over(self, batches: Iterable[B]) -> Iterator[B]:
        """Passes the batches through and records their messages."""
        for batch in batches:
            self._unreadable += batch.unreadable
            self._lost.add(batch.lost)
            yield batch

    def unreadable(self) -> list[str]:
        """One message per unreadable image, even if several processes tried it."""
        return sorted({message for part in dist.all_gather_object(self._unreadable) for message in part})

    def lost_lines(self) -> list[str]:
        """A line with a count for each kind of loss."""
        return self._lost.of_all_processes().lines()

    def report_unreadable(self, dataset: Images, limit: int) -> list[str]:
        """Logs every unreadable image once and returns the messages.

        Raises:
            UnreadableImageError: There are more than ``limit``.
        """
        messages = self.unreadable()
        if len(messages) > limit:
            count = f'{len(messages)} of {len(dataset)} images in {dataset.data_root}'
            raise UnreadableImageError(f'{count} cannot be read; the first: {messages[0]}')
        for message in messages:
            print_log(f'unreadable image, excluded from the evaluation: {message}', 'current', logging.WARNING)
        return messages

    def report(self, dataset: Images, limit: int) -> list[str]:
        """As ``report_unreadable``; also logs information lost from other images."""
        messages = self.report_unreadable(dataset, limit)
        for line in self.lost_lines():
            print_log(line, 'current', logging.WARNING)
        return messages
