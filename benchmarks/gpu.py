"""Everything that a GPU should be asked, in one command: ``make gpu``, or ``python benchmarks/gpu.py``.

Parts, in this order: what large kernels reach here (ceilings), the tests that need a GPU (tests), training steps against
the reference form (steps), where their time goes (profile), the loader (loading), files to weights (whole), Mask R-CNN and
UperNet (dense), what DINO and ADCLR learn (training), and keys that no config sets yet (levers). Each has a share of the
time, is a process of its own, and puts every figure into ``gpu.json`` the moment it is known; ``gpu.md`` is the page of all
of them. A second call goes on where the first one stopped. What cannot be measured costs one line. Nothing is fetched from a
network.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import common  # noqa: F401  the path of the clone
import torch
from gpu_parts.context import Context, Record, one_line
from gpu_parts.page import page

from mmadclr.files import atomic_path

# Share of the time of each part. What one leaves over goes to those after it.
PARTS = {
    'ceilings': 3,
    'tests': 14,
    'steps': 35,
    'profile': 9,
    'loading': 4,
    'whole': 8,
    'dense': 7,
    'training': 10,
    'levers': 10,
}
CLONE = Path(__file__).resolve().parents[1]
GRACE = 15.0  # seconds a part may take longer, to come to the end of a row


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=9, help='for everything (default: 9)')
    parser.add_argument('--out', type=Path, metavar='DIR', help='of gpu.json, gpu.md, gpu.log and traces (default: docs)')
    parser.add_argument(
        '--images', type=Path, metavar='DIR', help='class folders train and val, perhaps with masks; see training'
    )
    parser.add_argument(
        '--parts', nargs='+', choices=list(PARTS), default=list(PARTS), metavar='PART', help=', '.join(PARTS)
    )
    parser.add_argument('--smoke', action='store_true', help='every part at toy size on the CPU')
    parser.add_argument('--run', choices=list(PARTS), help=argparse.SUPPRESS)  # one part, in this process
    parser.add_argument('--deadline', type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out or CLONE / ('work_dirs/gpu/smoke' if args.smoke else 'docs')
    args.parts = [name for name in PARTS if name in args.parts]
    if not args.minutes > 0:
        parser.error(f'--minutes {args.minutes:g}: give a number above 0')
    return args


def main() -> None:
    args = parse_args()
    if args.run:
        run_part(args)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part at work is ended, too
    args.out.mkdir(parents=True, exist_ok=True)
    record = open_record(args)
    end = time.monotonic() - time.process_time() + 60 * args.minutes  # the imports above count, too
    for name in args.parts:
        if record.part(name)['state'] == 'done':
            print(f'{name}: known from before')
            continue
        rest = sum(PARTS[other] for other in args.parts[args.parts.index(name) :] if record.part(other)['state'] != 'done')
        now = time.monotonic()
        record = finish(args, name, deadline=now + max(0.0, end - now) * PARTS[name] / rest, end=end)
    states = ', '.join(f'{name} {record.part(name)["state"]}' for name in args.parts)
    print(f'\n{args.out / "gpu.md"}: {states}')


def open_record(args: argparse.Namespace) -> Record:
    """Results of before, if they are of this machine and this size; others are put aside, and nothing is lost."""
    record, machine, settings = (
        Record.of(args.out),
        describe_machine(args),
        {'smoke': args.smoke, 'images': str(args.images or '')},
    )
    before = record.content['machine']
    if before and (before, record.content['settings']) != (machine, settings):
        aside = args.out / f'gpu-{time.strftime("%Y%m%d-%H%M%S")}'
        for name in ('gpu.json', 'gpu.md'):
            if (args.out / name).exists():
                shutil.move(args.out / name, aside.with_suffix(Path(name).suffix))
        print(f'results of {before.get("card")} with {before.get("torch")} or of other settings are now {aside}.json')
        record = Record(args.out)
    record.content['machine'], record.content['settings'] = machine, settings
    record.save()
    return record


def describe_machine(args: argparse.Namespace) -> dict[str, str]:
    """Card, driver and versions. CUDA itself is left to the parts: a context here would take memory from them."""
    smi = ['nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader']
    card, driver, memory = 'none', '', ''
    if not args.smoke and shutil.which('nvidia-smi'):
        done = subprocess.run(smi, capture_output=True, text=True, check=False)
        fields = [field.strip() for field in done.stdout.partition('\n')[0].split(',')]
        card, driver, memory = (
            fields if len(fields) == 3 else (f'none ({done.stdout.strip() or done.stderr.strip()})', '', '')
        )
    names = ('torchvision', 'timm', 'triton', 'mmengine', 'mmdet', 'mmseg')
    return {
        'card': card,
        'memory': memory,
        'driver': driver,
        'cores': str(len(os.sched_getaffinity(0))),
        'shared memory': f'{shutil.disk_usage("/dev/shm").total / 2**30:.1f} GiB' if Path('/dev/shm').is_dir() else 'none',
        'python': sys.version.split()[0],
        'torch': torch.__version__,
        'CUDA': torch.version.cuda or '',
        **{name: version_of(name) for name in names},
    }


def version_of(name: str) -> str:
    """Of an installed package by the name it is imported by, without importing it; '' if it is not there."""
    distributions = importlib.metadata.packages_distributions().get(name)
    return importlib.metadata.version(distributions[0]) if distributions else ''


def finish(args: argparse.Namespace, name: str, deadline: float, end: float) -> Record:
    """Runs a part in a process of its own, notes how it ended, and writes the page.

    Args:
        deadline: Up to which it measures; a row under way then has ``GRACE`` more, as long as that is before ``end``.
    """
    print(f'{name} ({deadline - time.monotonic():.0f} s)', flush=True)
    command = [sys.executable, str(Path(__file__).resolve()), '--run', name, '--out', str(args.out.resolve())]
    command += ['--deadline', str(deadline), *(['--smoke'] if args.smoke else [])]
    command += ['--images', str(args.images.resolve())] if args.images else []
    start, note = time.monotonic(), ''
    log = args.out / 'gpu.log'
    with log.open('a') as file:
        size = log.stat().st_size
        process = subprocess.Popen(command, cwd=CLONE, stderr=file, start_new_session=True)
        try:
            code = wait(process, max(deadline, min(deadline + GRACE, end)), args.out)
        finally:
            stop(process)
            for leftover in (*args.out.glob('.*.tmp.gpu.*'), *args.out.glob('.tests.*.jsonl')):
                leftover.unlink()
    record = Record.of(args.out)
    part = record.part(name)
    if code is None:
        note = f'ended after {time.monotonic() - start:.0f} s, in the middle of a row'
    if code != 0:
        part['note'] = note or last_line(log, size) or f'the process ended with {code}'
        print(f'  {part["note"]}')
    complete = code == 0 and part['rows'] and not any('problem' in row or 'cut' in row for row in part['rows'].values())
    part['state'] = 'done' if complete else 'partial'
    part['note'] = part['note'] if code != 0 else ''
    part['seconds'] += time.monotonic() - start
    record.save()
    write_page(args.out)
    return record


def wait(process: subprocess.Popen, end: float, out: Path) -> int | None:
    """Exit status of a part, None at ``end``; keeps the page up to date, since the machine may be taken away."""
    while time.monotonic() < end:
        try:
            return process.wait(min(10.0, max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            write_page(out)
    return None


def write_page(out: Path) -> None:
    """Never fails: the page can be made of the record again, a part at work cannot."""
    try:
        with atomic_path(out / 'gpu.md') as temporary:
            temporary.write_text(page(Record.of(out), section_of), encoding='utf-8')
    except OSError as error:
        print(f'  the page could not be written: {error}')


def section_of(name: str, rows: dict) -> list[str]:
    part = module(name)
    return [f'## {part.TITLE}', '', *(part.section(rows) if rows else [])]


def stop(process: subprocess.Popen) -> None:
    """Ends whatever of the part still runs, loader workers and tests included."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        time.sleep(0 if process.poll() is not None else 1)
    process.wait()


def last_line(log: Path, start: int) -> str:
    with log.open('rb') as file:
        file.seek(start)
        lines = file.read().decode(errors='replace').strip().splitlines()
    return lines[-1][:300] if lines else ''


def module(name: str) -> ModuleType:
    return importlib.import_module(f'gpu_parts.{name}')


def run_part(args: argparse.Namespace) -> None:
    """One part, in this process; a part that needs a GPU and has none ends in one line."""
    part = module(args.run)
    if part.NEEDS_GPU and not args.smoke and (problem := why_no_gpu()):
        raise SystemExit(problem)
    torch.set_num_threads(1 if args.smoke else min(8, len(os.sched_getaffinity(0))))
    context = Context(Record.of(args.out), args.run, args.deadline, args.smoke, args.images)
    try:
        with redirect_stdout(sys.stderr):  # the terminal is for figures; what libraries say goes to gpu.log
            part.run(context)
    except Exception as error:
        import traceback

        traceback.print_exc()
        raise SystemExit(one_line(error)) from None


def why_no_gpu() -> str | None:
    try:
        torch.cuda.init()
        torch.ones(1, device='cuda').add_(1).item()
    except (RuntimeError, AssertionError) as error:
        return f'no GPU that torch {torch.__version__} can use: {one_line(error)}'
    return None


if __name__ == '__main__':
    main()
