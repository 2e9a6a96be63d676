"""The command: what it writes and prints, and one line for bad input."""

import json

from program import mmadclr

LINE = {'loss': 1.0, 'iter': 1, 'epoch': 1, 'step': 1}


def work_dir(folder):
    session = folder / '20260101_120000'
    (session / 'vis_data').mkdir(parents=True)
    (session / 'vis_data' / 'scalars.json').write_text(json.dumps(LINE) + '\n')
    return folder


def test_a_report_of_a_run_and_of_two(tmp_path):
    first, second = work_dir(tmp_path / 'a'), work_dir(tmp_path / 'b')
    done = mmadclr('report', first)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'report: {first / "report.html"} (0.1 MB); open it')
    assert f'note: {first / "20260101_120000"} has no log file' in done.stderr
    done = mmadclr('report', first, second, '--out', tmp_path / 'new' / 'both.html')
    assert done.returncode == 0, done.stderr
    assert '2 runs side by side' in (tmp_path / 'new' / 'both.html').read_text()
    assert not (second / 'report.html').exists()


def test_bad_input_is_one_line(tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    good = work_dir(tmp_path / 'good')
    for arguments, words in (
        ([tmp_path / 'none'], f'error: {tmp_path / "none"} does not exist: name the work dir of a run'),
        ([file], f'error: {file} is a file, not the work dir of a run'),
        ([tmp_path], f'error: {tmp_path} contains no run (no folder <time> with a log): there are runs in {good}'),
        ([good, '--out', file / 'x.html'], f'error: {file / "x.html"} cannot be written'),
        ([good, '--out', tmp_path], f'error: {tmp_path} is a folder, not a file name'),
    ):
        done = mmadclr('report', *arguments)
        assert done.returncode == 1
        assert done.stdout == ''
        assert done.stderr.splitlines()[-1].startswith(words)
        assert len([line for line in done.stderr.splitlines() if not line.startswith('note: ')]) == 1
