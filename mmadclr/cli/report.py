"""Write a report on a run, or on several side by side, as one HTML file.

The file opens in a browser, offline. It tells what ran and how good it is: curves, verdicts on collapse, evaluations,
skipped steps, unreadable images, stops and resumptions, where the time went, features of a few images over the run, and
what to do next. The run may be finished, stopped, crashed or still training.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

USAGE = 'WORK_DIR [WORK_DIR ...] [options]'
EXAMPLE = 'work_dirs/demo'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('work_dirs', nargs='+', metavar='DIR', help='work dir of a run of any task')
    parser.add_argument('--out', metavar='FILE', help='file to write (default: report.html in the first work dir)')


def run(args: Namespace) -> None:
    """Writes the file, and prints its name and what is missing."""
    from mmadclr.report import write_report

    path, notes = write_report(args.work_dirs, args.out, newest=True)
    for note in notes:
        print(f'note: {note}', file=sys.stderr)
    print(f'report: {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser')
