import logging
import os
import sys
import threading

import pytest
from mmengine.logging import MMLogger
from speakers import speak
from terminals import Terminal

from mmadclr.console.screen import fit, open_console

FIELDS = ['  3%', 'epoch 1/50', 'loss 5.312', '0:01:02 left', '1,250 images/s']


@pytest.fixture
def terminal():
    terminal = Terminal(40)
    yield terminal
    if not terminal.stream.closed:
        terminal.close()


@pytest.fixture
def logger(terminal, monkeypatch, tmp_path):
    monkeypatch.setattr('sys.stdout', terminal.stream)
    monkeypatch.delenv('TERM', raising=False)
    logger = MMLogger(str(tmp_path), log_file=str(tmp_path / 'run.log'))
    logger.file = (tmp_path / 'run.log').read_text
    open_console(logger)
    return logger


@pytest.fixture
def console(logger):
    return logger.handlers[0]


@pytest.mark.parametrize(
    ('width', 'expected'),
    [
        (3, '  3'),
        (4, '  3%'),
        (15, '  3%'),
        (16, '  3%  epoch 1/50'),
        (27, '  3%  epoch 1/50'),
        (28, '  3%  epoch 1/50  loss 5.312'),
        (100, '  3%  epoch 1/50  loss 5.312  0:01:02 left  1,250 images/s'),
    ],
)
def test_fields_that_have_no_room_are_left_out_whole(width, expected):
    assert fit(FIELDS, width) == expected


def test_a_field_that_has_room_is_shown_after_one_that_has_not():
    assert fit(['50%', 'long ' * 9, 'k-NN 30.0 %'], 20) == '50%  k-NN 30.0 %'


def test_the_line_is_rewritten_below_messages(console, logger, terminal):
    console.show(FIELDS, 0.03)
    logger.warning('an image is broken')
    console.show(['  4%', *FIELDS[1:]], 0.04)
    logger.info('drawn')
    console.end_line()
    logger.info('done')
    terminal.close()
    assert terminal.rows() == ['warning: an image is broken', 'drawn', 'done', '']


def test_the_line_stays_until_the_end_and_fits(console, terminal):
    console.show(FIELDS, 0.5)
    console.show([' 99%', 'epoch 50/50', 'loss 1.0'], 1.0)
    terminal.stream.flush()
    terminal.close()
    (row,) = terminal.rows()
    assert row.startswith(' 99%  epoch 50/50  loss 1.0  ')
    assert set(row.removeprefix(' 99%  epoch 50/50  loss 1.0  ')) == {'█'}  # the bar, full, in what is left of the row
    assert len(row) == 39


def test_what_programs_print_goes_above_the_line(console, logger, terminal, monkeypatch):
    monkeypatch.setattr('sys.stdout', terminal.stream)
    with console.listening(logger):
        console.show(FIELDS, 0.1)
        speak('mine', "print('of', 'mine')")
        speak('pycocotools.coco', "print('Done', end=' '); print('(t=0.1s)')")
        console.show(FIELDS, 0.2)
    terminal.close()
    assert terminal.rows() == ['of mine', '']
    assert logger.file().count('Done (t=0.1s)') == 1


def test_half_a_line_is_not_written_over(console, logger, terminal, monkeypatch):
    monkeypatch.setattr('sys.stdout', terminal.stream)
    with console.listening(logger):
        speak('mine', "print('half', end='')")
        console.show(FIELDS, 0.1)
        speak('mine', "print(' and half')")
    terminal.close()
    assert terminal.rows() == ['half and half', '']


def test_errors_go_above_the_line_as_well(console, logger, terminal, monkeypatch):
    monkeypatch.setattr('sys.stderr', terminal.stream)
    with console.listening(logger):
        console.show(FIELDS, 0.1)
        speak('mmdet.models', "print('of a library', file=sys.stderr)", sys=sys)
    terminal.close()
    assert terminal.rows() == ['of a library', '']
    assert 'of a library' not in logger.file()


def test_a_worker_tells_its_message_and_leaves_the_line_to_the_main_process(console, logger, terminal):
    console.show(FIELDS, 0.1)
    if (child := os.fork()) == 0:
        logger.warning('of a worker')
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    console.show(FIELDS, 0.2)
    console.end_line()
    terminal.close()
    assert terminal.rows() == ['warning: of a worker', '']


def test_threads_do_not_mix_their_lines(console, logger, terminal):
    def tell(number):
        for _ in range(50):
            logger.info(str(number) * 30)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for share in range(100):
        console.show(FIELDS, share / 100)
    for thread in threads:
        thread.join()
    console.end_line()
    terminal.close()
    assert sorted(terminal.rows()) == sorted([''] + [str(number) * 30 for number in range(3)] * 50)


def test_there_are_no_colors_and_no_escape_sequences(console, logger, terminal):
    console.show(FIELDS, 0.5)
    logger.error('an error')
    console.end_line()
    terminal.close()
    assert '\x1b' not in terminal.text


@pytest.mark.parametrize('term', ['dumb', 'xterm'])
def test_a_terminal_that_cannot_rewrite_gets_lines(terminal, monkeypatch, term):
    monkeypatch.setattr('sys.stdout', terminal.stream)
    monkeypatch.setenv('TERM', term)
    assert open_console(MMLogger(term)).is_terminal == (term != 'dumb')


def redirect(stream, path):
    file = os.open(path, os.O_WRONLY)
    os.dup2(file, stream.fileno())
    os.close(file)


def test_a_terminal_that_was_closed_ends_nothing(console, terminal):
    console.show(FIELDS, 0.1)
    real = os.dup(terminal.stream.fileno())
    redirect(terminal.stream, '/dev/full')  # every write fails from here on
    console.show(FIELDS, 0.2)
    console.end_line()
    os.dup2(real, terminal.stream.fileno())
    os.close(real)


def test_a_reader_that_goes_away_ends_nothing(monkeypatch, capfd):
    reading, writing = os.pipe()
    stream = os.fdopen(writing, 'w')
    monkeypatch.setattr('sys.stdout', stream)
    logger = MMLogger('pipe')
    console = open_console(logger)
    logger.info('first')
    assert os.read(reading, 100) == b'first\n'
    os.close(reading)
    with console.listening(logger):
        for _ in range(3):
            logger.info('lost')
            speak('mine', "print('lost, too')")
    stream.close()  # as at the end of a program: what could not be written is no error any more
    assert capfd.readouterr().err == ''


def test_other_errors_of_the_stream_are_told(monkeypatch, capfd):
    stream = open('/dev/full', 'w')
    monkeypatch.setattr('sys.stdout', stream)
    logger = MMLogger('full')
    open_console(logger)
    logger.info('lost')
    assert 'No space left on device' in capfd.readouterr().err
    redirect(stream, os.devnull)


def test_levels_of_the_config_hold(capsys):
    logger = MMLogger('level', log_level='ERROR')
    console = open_console(logger)
    logger.log(logging.WARNING, 'a warning')
    assert capsys.readouterr().out == ''
    assert console.is_quiet
