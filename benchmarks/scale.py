"""Time and memory against the number of images, of steps and of processes: ``python benchmarks/scale.py [PART ...]``.

Each part is a module of ``scale_parts``. Sizes are those of real sets (generated file trees, samplers of simulated ranks,
stand-in models); ``--scale 0.001`` goes through all of it in a minute.
"""

from __future__ import annotations

import argparse
import importlib
import time

import common

PARTS = ('listing', 'shards', 'orders', 'reading', 'crops', 'evaluation', 'checkpoints', 'loop')


def main() -> None:
    parser = common.parser(__doc__, scale=1.0)
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'some of them: {", ".join(PARTS)}')
    args = parser.parse_args()
    rows = []
    for name in args.parts or PARTS:
        if name not in PARTS:
            parser.error(f'no part is called {name!r}: choose from {", ".join(PARTS)}')
        start = time.perf_counter()
        rows += importlib.import_module(f'scale_parts.{name}').rows(args.scale)
        print(f'({name}: {time.perf_counter() - start:.0f} s)', flush=True)
    common.report('scale', rows, argparse.Namespace(**{**vars(args), 'parts': ' '.join(args.parts)}))


if __name__ == '__main__':
    main()
