"""Baselines of pretraining: the untrained network, and raw pixels.

``python -m mmadclr.cli.baselines CONFIG --work-dir DIR`` writes the untrained network of the config, initialized with
its seed, to ``DIR/random.pth``, and the metrics of raw pixels to ``DIR/pixels.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmadclr.checkpoint.run_files import write_checkpoint
from mmadclr.cli.arguments import add_config_arguments
from mmadclr.cli.launch import report_bad_input
from mmadclr.cli.main import find_own_modules
from mmadclr.compare.baselines import PIXELS, RANDOM, headline, raw_pixels
from mmadclr.config.loading import load_config
from mmadclr.engine import Runner
from mmadclr.files import atomic_path, writing_below


@report_bad_input
def main() -> None:
    find_own_modules()
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    args = parser.parse_args()
    cfg = load_config(args)
    with writing_below(cfg.work_dir):
        runner = Runner.from_cfg(cfg)
    out = Path(runner.work_dir)
    content = {'meta': runner.checkpoint_meta(0), 'state_dict': runner.model.state_dict()}
    write_checkpoint(content, out / RANDOM)
    pixels = headline(runner.build_val_loop(runner.val_loop).evaluate(raw_pixels(runner)))
    with atomic_path(out / PIXELS) as temporary:
        temporary.write_text(json.dumps(pixels) + '\n')


if __name__ == '__main__':
    main()
