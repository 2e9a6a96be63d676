"""The command ``mmadclr dense`` after its arguments: plan, run, table."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine import dist
from mmengine.device import get_device

from mmadclr.cli.evaluation import join_processes, open_source, workers
from mmadclr.datasets.benchmarks import Benchmark
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.suite.against import Records, against_table, as_json, compare_records, read_others
from mmadclr.evaluation.suite.encoder import BackboneEncoder
from mmadclr.evaluation.suite.passes import Loading, digest_of
from mmadclr.evaluation.suite.plan import Job, open_benchmarks, parse_suite, plan_jobs, protocols_for, suited_settings
from mmadclr.evaluation.suite.records import digest_of_weights, read_record, record_path
from mmadclr.evaluation.suite.run import Options, run_jobs
from mmadclr.evaluation.suite.settings import PROTOCOLS, build_settings
from mmadclr.evaluation.suite.table import plan_table, published_rows, published_table, result_table
from mmadclr.files import atomic_path, check_writable
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.report.evaluations import SUITE_FILE, suite_folder

TABLE = 'result.txt'


class Plan(NamedTuple):
    """Jobs, and notes for the user."""

    jobs: list[Job]
    notes: list[str]


def run_suite(args: Namespace) -> None:
    """Runs the suite; see :mod:`mmadclr.cli.dense`.

    Raises:
        ValueError, FileNotFoundError: Invalid arguments, missing benchmarks or files.
    """
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: there is no GPU that torch can use')
    join_processes(args, args.device)
    folder = Path(args.out) if args.out else suite_folder(Path(args.checkpoint))
    if dist.is_main_process():
        check_writable(folder / SUITE_FILE)
    benchmarks = together(lambda: open_benchmarks(parse_suite(args.suite, args.data_root)))
    opened = open_source(args)
    common = dict(weights=digest_of_weights(opened.model, opened.settings), dtype=args.dtype, precision=args.precision)
    digest = digest_of([common['weights'], args.precision])
    options = Options(folder, Loading(args.batch_size, workers(args)), args.dtype, digest, args.draws, args.keep_features)
    plan = together(lambda: make_plan(args, benchmarks, opened, folder, common))
    keys = [(job.benchmark, job.protocol) for job in plan.jobs]
    others = together(lambda: {folder: read_others(Path(folder), keys) for folder in args.against})
    show(f'{plan_table(plan.jobs)}\n', *plan.notes)
    encoder = BackboneEncoder(opened, args.device or get_device(), args.precision)
    run_jobs(plan.jobs, benchmarks, encoder, options)
    if dist.is_main_process():
        report(args, plan, folder, encoder, others)


def make_plan(
    args: Namespace, benchmarks: Mapping[str, Benchmark], opened: OpenedBackbone, folder: Path, common: Mapping[str, Any]
) -> Plan:
    """What will run, after all checks that need no image; ``common``: what all results depend on."""
    asked = None if args.protocols is None else [name.strip() for name in args.protocols.split(',') if name.strip()]
    names, notes = protocols_for(asked, list(benchmarks), opened.model)
    resized = [name for name in names if args.size is not None and PROTOCOLS[name].kind == 'segmentation']
    if args.size is not None and not resized:
        notes.append(f'--size {args.size} has no effect, since no benchmark is one for segmentation')
    changed = {*args.set, *(f'{name}.size' for name in resized)}
    wanted = {*(asked or ()), *(key.partition('.')[0] for key in args.set)}
    built = build_settings(names, args.set, args.size)
    settings, more = suited_settings(built, benchmarks, opened, changed, wanted)
    return Plan(plan_jobs(benchmarks, settings, {**common, 'draws': args.draws}, folder), [*notes, *more])


def show(*lines: str) -> None:
    """Prints lines, on the main process."""
    if dist.is_main_process():
        print(*lines, sep='\n', flush=True)


def report(args: Namespace, plan: Plan, folder: Path, encoder: BackboneEncoder, others: Mapping[str, Records]) -> None:
    """Prints all results with those of others, and writes both as text and JSON."""
    records: dict[tuple[str, str], Any] = {}
    for job in plan.jobs:
        records[job.benchmark, job.protocol] = read_record(record_path(folder, job.benchmark, job.protocol))
    published = published_rows(plan.jobs, encoder.patch_size, records)
    compared = {other: compare_records(records, found) for other, found in others.items()}
    tables = [against_table(*found, Path(other)) for other, found in compared.items()]
    text = '\n\n'.join(filter(None, (result_table(records), *tables, published_table(published))))
    result = dict(
        checkpoint=args.checkpoint,
        metrics={f'{key[0]}/{name}': each for key, record in records.items() for name, each in record['metrics'].items()},
        published=published,
        against={other: [as_json(row) for row in rows] for other, (rows, _) in compared.items()},
        notes=plan.notes + [f'{key[0]} {key[1]}: {note}' for key, record in records.items() for note in record['notes']],
        results={
            f'{benchmark}.{name}': {key: value for key, value in record.items() if key != 'samples'}
            for (benchmark, name), record in records.items()
        },
    )
    for name, content in ((SUITE_FILE, json.dumps(result, indent=1)), (TABLE, text)):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content + '\n')
    show(text, '', f'written to {folder / SUITE_FILE}')
