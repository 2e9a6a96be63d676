"""Faults of a config end a training before anything is read or built: one line, soon, no work dir left behind."""

import time

import pytest
from injection import WORKERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('train_cfg.max_epoch=3', 'has no such argument; did you mean max_epochs?'),
        ('env_cfg.mp_cfg.opencv_threads=0', 'env_cfg.mp_cfg.opencv_threads: mp_cfg has no such argument'),
        ('default_hooks.schedule.warmup_epochs=3', 'default_hooks.schedule.warmup_epochs=3 > train_cfg.max_epochs=2'),
        ('default_hooks.schedule.freeze_last_layer_epochs=3', 'the last layer is never trained'),
        ('train_dataloader.dataset.transform.local_size=20', 'local_size=20 must be a multiple of the patch size 8'),
        ('load_from=/none/epoch_1.pth', 'load_from: checkpoint /none/epoch_1.pth does not exist'),
        ('optim_wrapper.precision=fp16', "optim_wrapper.precision='fp16': choose 'auto', 'fp32', 'bf16'"),
    ],
)
@pytest.mark.parametrize('processes', [1, 2])
def test_refused_before_the_first_step(training, record_fault, option, message, processes):
    if processes == 2 and 'warmup' not in option:
        pytest.skip('one fault stands for all: every process reads the same config')
    start = time.monotonic()
    run = training(option, *WORKERS, processes=processes)
    assert run.wait() != 0
    seconds = time.monotonic() - start
    errors = [line for line in run.output().splitlines() if 'error: ' in line]
    assert errors, run.output()[-3000:]
    assert message in run.output()
    assert 'tools/train.py", line' not in run.output(), 'a traceback'
    assert run.iteration() == 0
    where = f'{processes} processes' if processes > 1 else '1 process'
    record_fault(
        'impossible config', f'`{option}`, {where}', f'refused before the first step, {seconds:.0f} s after the start'
    )
