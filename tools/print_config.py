"""Prints a config as a run would see it, with file and line of each value: ``python tools/print_config.py CONFIG``."""

import argparse
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CLONE))  # runs from a clone that is not installed, too

from mmengine.config import Config

from mmadclr.cli.launch import add_config_arguments, report_bad_input
from mmadclr.config.loading import load_config, spell_out
from mmadclr.config.origin import find_origins, render, select
from mmadclr.files import atomic_path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--key', metavar='KEY', help='print this part alone, for example model.backbone')
    parser.add_argument('--out', metavar='FILE', help='write to a file, which can be used as a config')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    cfg = load_config(args).to_dict()
    overrides = spell_out(Config.fromfile(args.config), args.cfg_options)
    text = render(select(cfg, args.key) if args.key else cfg, find_origins(args.config, overrides, CLONE))
    if args.out is None:
        sys.stdout.write(text)
        return
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
