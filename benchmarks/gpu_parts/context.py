"""What every part works with: a record that is on disk the moment a figure is known, and the time that is left."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmadclr.files import atomic_path
from mmadclr.precision import resolve_precision

FULL_SIZE = dict(queries=10, locals=10, prototypes=65536)
TOY_SIZE = dict(queries=3, locals=2, prototypes=300)


class Record:
    """All results of a folder: ``gpu.json``, written anew with every figure.

    Attributes:
        content: ``machine``, ``settings``, and for each of ``parts`` its ``state``, ``note``, ``seconds`` and ``rows``.
    """

    def __init__(self, folder: Path, content: dict[str, Any] | None = None) -> None:
        self.path = folder / 'gpu.json'
        self.content = content or {'machine': {}, 'settings': {}, 'parts': {}}

    @classmethod
    def of(cls, folder: Path) -> Record:
        """What the folder holds already; an empty record where it holds nothing.

        Raises:
            SystemExit: ``gpu.json`` is no record.
        """
        path = folder / 'gpu.json'
        if not path.exists():
            return cls(folder)
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            return cls(folder, {**content, 'parts': dict(content['parts']), 'machine': dict(content['machine'])})
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f'{path} is no record of this program ({error!r}): move it away, or name another --out'
            ) from None

    def part(self, name: str) -> dict[str, Any]:
        return self.content['parts'].setdefault(name, {'state': 'open', 'note': '', 'seconds': 0.0, 'rows': {}})

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        """Measured rows of a part."""
        rows = self.content['parts'].get(name, {}).get('rows', {})
        return {key: row for key, row in rows.items() if 'problem' not in row}

    def save(self) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + '\n', encoding='utf-8')


class Context:
    """A part at work.

    Args:
        record: Where figures go.
        part: Its name.
        deadline: By ``time.monotonic()``, which is one clock for all processes.
        smoke: Toy sizes, on a CPU.
        images: Folder of images for training; None for generated ones.

    Attributes:
        device: ``'cuda'``, or ``'cpu'`` for toy sizes and without a GPU.
        precision: Of our form: ``'bf16'`` where the GPU has it, else ``'fp32'``.
    """

    def __init__(self, record: Record, part: str, deadline: float, smoke: bool = False, images: Path | None = None) -> None:
        self.record, self.part, self.smoke, self.images = record, part, smoke, images
        self.deadline = deadline
        self.terminal = sys.stdout
        self.device = 'cpu' if smoke or not torch.cuda.is_available() else 'cuda'
        self.precision = 'fp32' if self.device == 'cpu' else resolve_precision('auto')

    @property
    def folder(self) -> Path:
        return self.record.path.parent

    @property
    def sizes(self) -> dict[str, int]:
        """Query crops and local views an image, and prototypes."""
        return TOY_SIZE if self.smoke else FULL_SIZE

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def measured(self, key: str) -> dict[str, Any] | None:
        return self.record.rows(self.part).get(key)

    def add(self, key: str, **figures: Any) -> None:
        """Puts a row on disk and a line on the terminal."""
        self.record.part(self.part)['rows'][key] = figures
        self.record.save()
        shown = ', '.join(
            f'{name} {_short(value)}' for name, value in figures.items() if not isinstance(value, (dict, list))
        )
        print(f'  {key}: {shown}', file=self.terminal, flush=True)

    def measure(self, key: str, function: Callable[[], dict[str, Any]], needs: float = 0.0) -> dict[str, Any] | None:
        """A row, unless it is known from before; None where it could not be had, with the reason in its place.

        Args:
            key: Of the row.
            function: Returns its figures.
            needs: Seconds it is expected to take; with less left it is not begun.
        """
        if self.measured(key) is not None:
            return self.measured(key)
        if self.left() < needs:
            self.add(key, problem=f'not reached: {max(0, self.left()):.0f} s were left, about {needs:.0f} s are needed')
            return None
        try:
            figures = function()
        except Exception as error:  # a row that fails must not take the others with it
            self.add(key, problem=one_line(error))
        else:
            self.add(key, **figures)
        self.clean()
        return self.measured(key)

    def clean(self) -> None:
        """Gives back what a row held, its graphs included."""
        gc.collect()
        if self.device == 'cuda':
            torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    """What went wrong, for a table."""
    if isinstance(error, torch.OutOfMemoryError):
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f'too little memory: more than the {total:.0f} GiB of this GPU'
    if isinstance(error, ModuleNotFoundError):
        return f'the package {error.name} is missing: see requirements/gpu.txt'
    text = next((line for line in str(error).splitlines() if line.strip()), '')
    return f'{type(error).__name__}: {text.strip()}'[:300]


def seconds_of(function: Callable[[], object], device: str) -> float:
    """Wall-clock time of a call, from an idle device to an idle device."""
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start


def workers_that_fit(wanted: int, batch_bytes: int) -> int:
    """Loader workers, as far as there are cores and shared memory for the batches they hold ready."""
    free = shutil.disk_usage('/dev/shm').free if Path('/dev/shm').is_dir() else 0
    return max(0, min(wanted, len(os.sched_getaffinity(0)), int(0.8 * free / (2 * batch_bytes))))


def wait_for(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f'| {" | ".join(header)} |', f'|{"---|" * len(header)}', *(f'| {" | ".join(row)} |' for row in rows)]


def number(value: float | None, digits: int = 3) -> str:
    """For a table: no decimals from 1000 on, ``digits`` significant ones below."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.{digits}g}'


def _short(value: Any) -> str:
    return number(value, 4) if isinstance(value, float) else str(value)
