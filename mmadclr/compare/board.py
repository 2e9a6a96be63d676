"""Runs the jobs of a comparison and updates its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmadclr.compare.chance import add_differences
from mmadclr.compare.jobs import JobError, result_of, run_job
from mmadclr.compare.methods import Method, untrained
from mmadclr.compare.plan import Settings, plan
from mmadclr.compare.suite import samples_of
from mmadclr.compare.table import COST, Results, columns_of, feature_notes, markdown, tabulate
from mmadclr.files import atomic_path

MARKED = (
    "\\* differs from {first} by more than chance (p < .05, Welch's t-test over seeds; in columns of the dense suite also "
    'over images). Not corrected for the number of cells'
)
PIXELS_ROW = 'raw pixels'


class Comparison:
    """All jobs of a comparison by method, seed and part; ``run`` runs those without a result.

    Jobs are ordered by seed, so that early tables compare all methods.

    Args:
        methods: The network of the first one is the untrained baseline.
        seeds: Of initialization, order, augmentation and classifiers.
        settings: Output folder and configs of dense tasks.
        parts: Parts to run and show; the cost of pretraining is always shown.
        protocol: Description of the comparison for the JSON file.
        notes: Lines below the table.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        seeds: Sequence[int],
        settings: Settings,
        parts: Sequence[str],
        protocol: dict,
        notes: Sequence[str] = (),
    ) -> None:
        self.rows = [untrained(methods[0]), *methods]
        self.seeds, self.settings, self.parts = seeds, settings, parts
        self.protocol, self.notes = protocol, notes
        self.jobs = {
            (row.name, seed, part): job
            for seed in seeds
            for row in self.rows
            for part, job in plan(row, seed, settings, parts).items()
        }

    def run(self) -> list[str]:
        """Runs missing jobs and writes the table after each one; returns the names of failed jobs."""
        failed = []
        for (row, seed, part), job in self.jobs.items():
            name = f'{row}, seed {seed}, {part}'
            if part not in self.parts:
                continue
            if result_of(job) is not None:
                print(f'already done: {name}', flush=True)
                continue
            print(f'running: {name}', flush=True)
            try:
                print(f'  {run_job(job)}', flush=True)
            except JobError as error:
                failed.append(name)
                print(f'FAILED: {name}: {error}', flush=True)
            self.write()
        self.write()
        return failed

    def results(self) -> Results:
        """Row -> seed -> all available metrics, raw pixels first."""
        found: dict[str, dict[int, dict]] = {name: {} for name in (PIXELS_ROW, *(row.name for row in self.rows))}
        for (row, seed, _), job in self.jobs.items():
            metrics = result_of(job) or {}
            pixels = {name.removeprefix('pixels_'): value for name, value in metrics.items() if name.startswith('pixels_')}
            found[PIXELS_ROW].setdefault(seed, {}).update(pixels)
            own = {name: value for name, value in metrics.items() if not name.startswith('pixels_')}
            found[row].setdefault(seed, {}).update(own)
        return found

    def samples(self) -> dict[str, dict[str, dict[int, np.ndarray]]]:
        """Row -> column -> seed -> scores of bootstrap samples of the images, of columns of the dense suite."""
        found: dict[str, dict[str, dict[int, np.ndarray]]] = {}
        for (row, seed, part), job in self.jobs.items():
            if part == 'suite' and result_of(job) is not None:
                for column, samples in samples_of(job.folder).items():
                    found.setdefault(row, {}).setdefault(column, {})[seed] = samples
        return found

    def table(self) -> tuple[dict[str, dict[str, dict]], list[str]]:
        """Rows with their differences from the first method, and notes. Finished runs are no sample of seeds."""
        results = self.results()
        rows, notes = tabulate(results), self.all_notes(results)
        first, *others = self.rows[1:]
        trained = [row.name for row in others if not row.run]
        scores = [column for column in columns_of(rows.values()) if column not in COST]
        if trained and not first.run and len(self.seeds) > 1:
            try:
                add_differences(rows, first.name, trained, scores, self.samples())
                notes.append(MARKED.format(first=first.name))
            except ImportError as error:
                notes.append(str(error))
        return rows, notes

    def write(self) -> None:
        """Writes ``table.json`` and ``table.md``."""
        rows, notes = self.table()
        content = {'protocol': self.protocol, 'notes': notes, 'rows': rows}
        self._write('table.json', json.dumps(content, indent=1, default=str) + '\n')
        self._write('table.md', markdown(rows, notes))

    def markdown(self) -> str:
        return markdown(*self.table())

    def all_notes(self, results: Results) -> list[str]:
        runs = [
            f'{row.name} is a single finished run: its spread is only that of the measurements'
            for row in self.rows
            if row.run
        ]
        return [*self.notes, *runs, *feature_notes(results)]

    def _write(self, name: str, text: str) -> None:
        with atomic_path(Path(self.settings.out, name)) as temporary:
            temporary.write_text(text)
