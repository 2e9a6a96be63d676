"""The report that a run writes at its end, however it ends, and that never fails a run."""

import json
import logging
import subprocess

import pytest
from mmengine.hooks import Hook
from places import REPO

from mmadclr.engine import Runner
from mmadclr.engine.hooks import report_hook
from mmadclr.engine.hooks.report_hook import how_it_ends, start_record
from mmadclr.report.collect import collect
from mmadclr.report.story import status

pytestmark = pytest.mark.all_hooks


def record_of(work):
    (file,) = work.glob('*/run.json')
    return json.loads(file.read_text())


def test_a_completed_run_has_a_report(train, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['/somewhere/bin/mmadclr', 'train', 'a config.py'])
    train()
    work = tmp_path / 'work'
    text = (work / 'report.html').read_text()
    assert 'Completed: 6 of 6 iterations' in text
    assert 'mmadclr train &#x27;a config.py&#x27;' in text
    record = record_of(work)
    assert record['command'] == "mmadclr train 'a config.py'"
    assert record['end'] == 'completed'
    assert record['began'] <= record['ended']


def test_a_run_that_fails_has_a_report_that_says_why(small_config, tmp_path):
    runner = Runner.from_cfg(small_config())

    class Fails(Hook):
        def before_train_epoch(self, runner):
            raise FloatingPointError('weights are\nnot finite')

    runner.register_hook(Fails())
    with pytest.raises(FloatingPointError):
        runner.train()
    assert record_of(tmp_path / 'work')['end'] == 'FloatingPointError: weights are not finite'
    kind, text = status(collect(tmp_path / 'work'))
    assert kind == 'bad'
    assert text.endswith('FloatingPointError: weights are not finite.')
    assert 'weights are not finite' in (tmp_path / 'work' / 'report.html').read_text()


def test_a_report_that_cannot_be_written_is_one_warning(small_config, tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError('no\nspace')

    monkeypatch.setattr('mmadclr.report.write_report', refuse)
    runner = Runner.from_cfg(small_config())
    with caplog.at_level(logging.WARNING, runner.logger.name):
        runner.logger.addHandler(caplog.handler)
        runner.train()
    told = [record.getMessage() for record in caplog.records if 'report' in record.getMessage()]
    assert told == [f'no report written (OSError: no space); mmadclr report {tmp_path / "work"}'] * len(set(told))
    assert len(set(told)) == 1
    assert runner.iter == 6
    assert not (tmp_path / 'work' / 'report.html').exists()


def test_none_removes_it(train, tmp_path):
    train({'default_hooks.report': None})
    assert not (tmp_path / 'work' / 'report.html').exists()
    assert list(tmp_path.glob('work/*/run.json')) == []


def test_what_is_recorded_at_the_start(monkeypatch):
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'a\udcff.py'])
    record = start_record()
    assert record['command'] == "tools/train.py 'a\\udcff.py'"
    head = subprocess.run(['git', '-C', str(REPO), 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert record['commit'].startswith(head.stdout.strip())
    monkeypatch.setattr(report_hook, 'clone', lambda: None)
    assert 'commit' not in start_record()


def test_a_repository_without_git_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(report_hook, 'clone', lambda: tmp_path)
    assert report_hook.commit() is None
    monkeypatch.setenv('PATH', str(tmp_path))
    assert report_hook.commit() is None


def test_ends_in_words():
    assert how_it_ends(None) == 'completed'
    assert how_it_ends(KeyboardInterrupt()) == 'KeyboardInterrupt'
    assert how_it_ends(ValueError('a\n b')) == 'ValueError: a b'
