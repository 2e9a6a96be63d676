"""The Slurm launcher against stand-ins for Slurm's commands: what it asks for, and that it goes on after a preemption."""

import os
import subprocess

import pytest
from places import REPO


@pytest.fixture
def slurm(tmp_path):
    """Runs the launcher; ``srun`` ends with the given statuses, one a call. Returns status and the calls in order."""

    def run(*statuses: int, **environment: str):
        calls = tmp_path / 'calls'
        calls.write_text('')
        (tmp_path / 'statuses').write_text('\n'.join(map(str, statuses)) + '\n')
        srun = f'echo "srun $*" >> {calls}\nread -r s < {tmp_path}/statuses\nsed -i 1d {tmp_path}/statuses\nexit $s\n'
        for name, body in (('srun', srun), ('scontrol', f'echo "scontrol $*" >> {calls}\n')):
            (tmp_path / name).write_text(f'#!/bin/bash\n{body}')
            (tmp_path / name).chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith('SLURM_')}
        command = ['tools/slurm_train.sh', 'gpu', 'configs/a.py', '16', '--amp', 'bf16']
        path = f'{tmp_path}:{os.environ["PATH"]}'
        done = subprocess.run(command, cwd=REPO, env={**clean, 'PATH': path, **environment}, capture_output=True, text=True)
        return done.returncode, calls.read_text().splitlines()

    return run


def test_a_run_that_ends_is_started_once(slurm):
    status, (call,) = slurm(0)
    assert status == 0
    assert '--ntasks=16 --ntasks-per-node=8' in call
    assert '--signal=USR1@120' in call
    assert call.endswith('train.py configs/a.py --launcher slurm --amp bf16')


def test_an_error_is_passed_on(slurm):
    assert slurm(1)[0] == 1


def test_from_a_login_node_a_preempted_run_is_submitted_again(slurm):
    status, calls = slurm(85, 85, 0)
    assert status == 0
    assert [call.endswith('--amp bf16 --resume') for call in calls] == [False, True, True]


def test_inside_a_batch_job_the_job_is_requeued_and_goes_on(slurm):
    status, calls = slurm(85, SLURM_JOB_ID='7')
    assert status == 0
    assert calls[1:] == ['scontrol requeue 7']
    _, (call,) = slurm(0, SLURM_JOB_ID='7', SLURM_RESTART_COUNT='1')
    assert call.endswith('--amp bf16 --resume')
