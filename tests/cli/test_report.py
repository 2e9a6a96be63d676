"""The command: what it writes and prints, and one line for bad input."""

import json

import pytest
from program import mmadclr

from mmadclr.report import write_report

LINE = {'loss': 1.0, 'iter': 1, 'epoch': 1, 'step': 1}


def work_dir(folder):
    session = folder / '20260101_120000'
    (session / 'vis_data').mkdir(parents=True)
    (session / 'vis_data' / 'scalars.json').write_text(json.dumps(LINE) + '\n')
    return folder


@pytest.mark.long
def test_a_report_of_a_run_and_of_two(tmp_path):
    first, second = work_dir(tmp_path / 'a'), work_dir(tmp_path / 'b')
    done = mmadclr('report', first)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'report: {first / "report.html"} (0.1 MB); open it')
    assert f'note: {first / "20260101_120000"} has no log file' in done.stderr
    path, notes = write_report([first, second], tmp_path / 'new' / 'both.html')
    assert '2 runs side by side' in path.read_text()
    assert len([note for note in notes if 'has no log file' in note]) == 2
    assert not (second / 'report.html').exists()


@pytest.mark.long
def test_bad_input_is_one_line(tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    good = work_dir(tmp_path / 'good')
    for folder, out, words in (
        (tmp_path / 'none', None, f'{tmp_path / "none"} does not exist: name the work dir of a run'),
        (file, None, f'{file} is a file, not the work dir of a run'),
        (tmp_path, None, f'{tmp_path} contains no run (no folder <time> with a log): there are runs in {good}'),
        (good, file / 'x.html', f'{file / "x.html"} cannot be written'),
        (good, tmp_path, f'{tmp_path} is a folder, not a file name'),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as found:
            write_report([folder], out)
        assert str(found.value).startswith(words)
        assert '\n' not in str(found.value)
    done = mmadclr('report', tmp_path / 'none')
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith(f'error: {tmp_path / "none"} does not exist')
    assert done.stderr.count('\n') == 1
