"""One of two processes with a part of a command: ``one_of_two.py CASE`` says what it found, or the error."""

import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine import dist

from mmadclr.adaptation import processes
from mmadclr.adaptation.processes import on_main, said_once
from mmadclr.cli.launch import report_bad_input
from mmadclr.datasets import UnreadableImageError
from mmadclr.distributed.agreement import together


def fail(*ranks):
    if dist.get_rank() in ranks:
        raise UnreadableImageError(f'the input of process {dist.get_rank()} is wrong')


def stuck():
    """Process 1 fails while process 0 waits for it."""
    fail(1)
    dist.barrier()


CASES = {
    'found': lambda: print('found', on_main(lambda: [dist.get_rank(), None]), said_once(dist.get_rank)),
    'nothing': lambda: print('found', on_main(lambda: None)),
    'all': lambda: said_once(lambda: fail(0, 1)),
    'main': lambda: said_once(lambda: on_main(lambda: fail(0))),
    'other': lambda: said_once(lambda: together(lambda: fail(1))),
    'alone': lambda: said_once(lambda: fail(1)),
    'slow': lambda: said_once(lambda: time.sleep(2) if dist.get_rank() else fail(0)),
    'stuck': lambda: said_once(stuck),
}

if __name__ == '__main__':
    processes.PATIENCE = timedelta(seconds=4)
    torch.distributed.init_process_group('gloo')
    report_bad_input(CASES[sys.argv[1]])()
