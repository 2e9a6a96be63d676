import logging
import warnings

import pytest
from mmengine.logging import MMLogger
from speakers import speak

from mmadclr.console.libraries import FILE_ONLY, hushed, ignore_noise
from mmadclr.console.screen import open_console

DEPRECATED = '"FileClient" will be deprecated in future. Please use io functions in https://...'


def open_log(tmp_path):
    """A logger of mmengine with a console for a person, and a log file; ``log.file()`` is what that holds."""
    logger = MMLogger(str(tmp_path), log_file=str(tmp_path / 'run.log'))
    open_console(logger)
    logger.file = (tmp_path / 'run.log').read_text
    return logger


@pytest.mark.parametrize(
    ('module', 'statement', 'shown'),
    [
        ('mmengine.runner.runner', "log.info('the text')", ''),
        ('mmdet.evaluation', "print_log('the text', log)", ''),
        ('mmengineer', "log.info('the text')", 'the text\n'),
        ('mmadclr.datasets.shapes', "print_log('the text', log)", 'the text\n'),
        ('__main__', "log.info('the text')", 'the text\n'),
        ('mmadclr.engine', "log.info('the text', extra=FILE_ONLY)", ''),
        ('mmadclr.engine', "log.warning('the text', extra=FILE_ONLY)", 'warning: the text\n'),
        ('mmengine.runner', "log.warning('the text')", 'warning: the text\n'),
        ('mmseg.models', "log.error('the text')", 'error: the text\n'),
        ('mmengine.fileio', 'log.warning(DEPRECATED)', ''),
        ('mmadclr.engine', 'log.warning(DEPRECATED)', f'warning: {DEPRECATED}\n'),
    ],
)
def test_the_console_has_what_we_say_and_warnings_and_the_file_has_all(tmp_path, capsys, module, statement, shown):
    log = open_log(tmp_path)
    speak(module, statement, log=log, FILE_ONLY=FILE_ONLY, DEPRECATED=DEPRECATED)
    assert capsys.readouterr().out == shown
    assert log.file().count(DEPRECATED if 'DEPRECATED' in statement else 'the text') == 1


def test_the_same_warning_comes_once(tmp_path, capsys):
    log = open_log(tmp_path)
    for _ in range(3):
        log.warning('again')
    assert capsys.readouterr().out == 'warning: again\n'


def test_processes_but_the_first_tell_errors_alone(capsys):
    logger = MMLogger('other rank')
    logger.handlers[0].setLevel(logging.ERROR)  # as mmengine does there
    console = open_console(logger)
    logger.warning('a warning')
    logger.error('an error')
    assert capsys.readouterr().out == 'error: an error\n'
    assert console.is_quiet


def test_a_logger_keeps_its_console(tmp_path):
    log = open_log(tmp_path)
    before = list(log.handlers)
    assert open_console(log) is before[0]
    assert log.handlers == before


def test_what_libraries_print_as_they_are_imported_is_dropped(capsys):
    with hushed():
        speak('mmdet.datasets', "print('could not import'); print('a', end=' '); print('b')")
        speak('mydata', "print('mine', flush=True)")
    speak('mmdet.datasets', "print('later')")
    assert capsys.readouterr().out == 'mine\nlater\n'


def test_without_a_standard_output_nothing_is_hushed(monkeypatch):
    monkeypatch.setattr('sys.stdout', None)
    with hushed():
        speak('mmdet.datasets', "print('lost')")


@pytest.mark.parametrize(
    ('module', 'text', 'is_told'),
    [
        ('mmseg.engine.hooks', 'The draw is False, it means that the hook for visualization will not take effect.', False),
        ('mmseg.engine.hooks', 'The draw is wrong', True),
        ('mine', 'The draw is False, it means that the hook for visualization will not take effect.', True),
        ('mmdet.evaluation.metrics', 'faster_coco_eval is not installed, metrics will not be computed.', False),
        ('torch.utils.data', "'pin_memory' argument is set as true but no accelerator is found, then", False),
        ('torch.utils.data', "'pin_memory' argument is wrong", True),
    ],
)
def test_warnings_that_are_noise_are_those_of_libraries(module, text, is_told):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        ignore_noise()
        speak(module, 'warnings.warn(text)', warnings=warnings, text=text)
    assert [str(warning.message) for warning in told] == [text] * is_told
