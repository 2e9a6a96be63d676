"""What a pass over images has to say about them: which could not be read, and what others lost on the way to 8-bit RGB."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from mmengine import dist
from mmengine.logging import print_log

from mmadclr.datasets.accounts import LostAccount
from mmadclr.datasets.image_dataset import UnreadableImageError


class Told(Protocol):
    """A batch that says what became of its images: messages, and pairs of what was lost and of which image."""

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
    """Of one pass of this process. All but ``over`` has to be called on all processes, and speaks of the images of all."""

    def __init__(self) -> None:
        self._unreadable: list[str] = []
        self._lost = LostAccount()

    def over(self, batches: Iterable[B]) -> Iterator[B]:
        """The batches, of which account is taken on the way."""
        for batch in batches:
            self._unreadable += batch.unreadable
            self._lost.add(batch.lost)
            yield batch

    def unreadable(self) -> list[str]:
        """A message for each image that could not be read, however many processes tried."""
        return sorted({message for part in dist.all_gather_object(self._unreadable) for message in part})

    def lost_lines(self) -> list[str]:
        """A line and a count for each kind of loss."""
        return self._lost.of_all_processes().lines()

    def report_unreadable(self, dataset: Images, limit: int) -> list[str]:
        """Logs every unreadable image once and returns the messages.

        Raises:
            UnreadableImageError: There are more than ``limit``.
        """
        messages = self.unreadable()
        if len(messages) > limit:
            count = f'{len(messages)} of {len(dataset)} images below {dataset.data_root}'
            raise UnreadableImageError(f'{count} cannot be read, the first: {messages[0]}')
        for message in messages:
            print_log(f'unreadable image, left out of the evaluation: {message}', 'current', logging.WARNING)
        return messages

    def report(self, dataset: Images, limit: int) -> list[str]:
        """As ``report_unreadable``, and logs what other images lost."""
        messages = self.report_unreadable(dataset, limit)
        for line in self.lost_lines():
            print_log(line, 'current', logging.WARNING)
        return messages
