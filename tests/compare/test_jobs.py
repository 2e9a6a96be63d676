"""Jobs are kept, gone on with and made anew; commands are tiny shell scripts."""

import json
import sys
from pathlib import Path

import pytest

from mmadclr.compare import jobs
from mmadclr.compare.jobs import Job, JobError, cost, last_logged, result_of, run_command, run_job

# Every run adds a letter; the result is their number.
COUNT = 'printf x >> $0/count'


def job(folder, script=COUNT, identity='one', **kwargs):
    def read(folder, memory):
        return {'runs': len((folder / 'count').read_text())}

    return Job(folder, ['sh', '-c', script, str(folder)], {'name': identity}, read, **kwargs)


@pytest.fixture
def said():
    return []


def test_result_is_kept_and_belongs_to_its_identity(tmp_path, said):
    one = job(tmp_path / 'job')
    assert result_of(one) is None
    assert run_job(one, said.append) == {'runs': 1}
    assert result_of(one) == {'runs': 1}
    assert result_of(job(tmp_path / 'job', identity='other')) is None
    assert not said


def test_changed_job_starts_anew_and_says_so(tmp_path, said):
    run_job(job(tmp_path / 'job'), said.append)
    assert run_job(job(tmp_path / 'job', identity='other'), said.append) == {'runs': 1}
    aside = f'moved the old folder to {tmp_path / "job"}.old1'
    assert said == [f'{tmp_path / "job"}: config or options have changed, starting from scratch; {aside}']
    assert (tmp_path / 'job.old1/count').read_text() == 'x'
    run_job(job(tmp_path / 'job', identity='third'), said.append)
    assert (tmp_path / 'job.old2/count').read_text() == 'x'


def test_interrupted_job_goes_on_in_its_folder(tmp_path, said):
    with pytest.raises(JobError, match='exit status 3'):
        run_job(job(tmp_path / 'job', script=f'{COUNT}; exit 3'), said.append)
    assert result_of(job(tmp_path / 'job')) is None
    assert run_job(job(tmp_path / 'job'), said.append) == {'runs': 2}
    assert not said


def test_failure_shows_the_end_of_the_log(tmp_path):
    script = 'for i in $(seq 100); do echo line $i; done; echo no space >&2; exit 1'
    with pytest.raises(JobError) as caught:
        run_job(job(tmp_path / 'job', script=script))
    first, *lines = str(caught.value).splitlines()
    assert first == f'exit status 1; the end of {tmp_path / "job" / "output.log"}:'
    assert lines == [*(f'line {i}' for i in range(87, 101)), 'no space']


def test_command_without_result_fails(tmp_path):
    with pytest.raises(JobError, match=r'no readable result in .*count'):
        run_job(job(tmp_path / 'job', script='true'))


def test_needed_job_comes_first_and_its_change_is_a_change(tmp_path, said):
    first = job(tmp_path / 'first')
    second = job(tmp_path / 'second', needs=first)
    with pytest.raises(JobError, match=r'needs the result of .*first'):
        run_job(second, said.append)
    run_job(first, said.append)
    assert run_job(second, said.append) == {'runs': 1}
    assert result_of(job(tmp_path / 'second', needs=job(tmp_path / 'first', identity='other'))) is None


def test_job_without_a_command_only_reads(tmp_path):
    done = Job(tmp_path / 'job', None, {'name': 'run'}, lambda folder, memory: {'memory': memory})
    assert run_job(done) == result_of(done) == {'memory': 0.0}


def test_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'job').mkdir()
    (tmp_path / 'job' / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='contains unrelated files: choose another --out'):
        run_job(job(tmp_path / 'job'))
    assert [path.name for path in (tmp_path / 'job').iterdir()] == ['thesis.tex']


def test_memory_is_that_of_the_command_and_not_of_this_process(tmp_path):
    if not Path('/proc/self/status').is_file():
        pytest.skip('needs /proc')
    held = b'x' * (400 << 20)  # what a child's ru_maxrss would start from
    peak = {}
    for size in (1, 101):
        script = f'import time; x = b"x" * ({size} << 20); del x; time.sleep(0.5)'
        status, peak[size] = run_command([sys.executable, '-S', '-c', script], tmp_path / 'log')
        assert status == 0
    assert peak[101] - peak[1] == pytest.approx(100, abs=2)
    assert peak[101] < len(held) >> 20


def test_interrupt_lets_the_command_write_its_checkpoint(tmp_path, monkeypatch):
    log = tmp_path / 'log'

    def interrupt(_):
        if log.read_text() == 'ready\n':
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs.time, 'sleep', interrupt)
    script = 'trap "echo saved; exit 85" TERM; echo ready; while :; do sleep 0.02; done'
    with pytest.raises(KeyboardInterrupt):
        run_command(['sh', '-c', script], log)
    assert log.read_text() == 'ready\nsaved\n'


def log(folder, name, *lines):
    file = folder / name / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_logs_of_a_resumed_run_are_read_in_order(tmp_path):
    log(tmp_path, '20260102_000000', {'images_per_s': 40.0}, {'miou': 3.0})
    log(tmp_path, '20260101_000000', {'images_per_s': 1.0}, {'images_per_s': 30.0}, {'miou': 2.0})
    assert last_logged(tmp_path, 'miou') == 3.0
    assert cost(tmp_path, memory=50.0) == {'images_per_s': 30.0, 'memory_mib': 50.0}
    assert cost(tmp_path, memory=0.0) == {'images_per_s': 30.0}
    with pytest.raises(KeyError, match='box_ap was never logged'):
        last_logged(tmp_path, 'box_ap')


def test_memory_of_a_gpu_goes_before_that_of_the_process(tmp_path):
    log(tmp_path, '20260101_000000', {'images_per_s': 1.0, 'memory': 700}, {'images_per_s': 1.0, 'memory': 900})
    assert cost(tmp_path, memory=50.0)['memory_mib'] == 900
