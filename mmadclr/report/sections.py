"""The parts of a report about one run, as HTML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from mmadclr.report.collapse import health
from mmadclr.report.collect import Run
from mmadclr.report.evaluations import Evaluation, Result
from mmadclr.report.literals import leaves
from mmadclr.report.markup import Html, folded, joined, pairs, section, short, table, tag
from mmadclr.report.pictures import embed
from mmadclr.report.sessions import Session
from mmadclr.report.story import (
    duration,
    fixed,
    key_figures,
    measured,
    next_commands,
    plural,
    status,
    time_shares,
    wall_seconds,
)

SHOWN = 30  # lines of a list before the rest is counted
PARTS = ('compute', 'images', 'checkpoints', 'rest')  # classes of the parts of the time bar
DESCRIBED = ('backbone', 'data', 'batch', 'length', 'rate', 'start')


def status_line(run: Run) -> Html:
    kind, text = status(run)
    return tag('p', tag('span', class_=f'dot {kind}'), text, class_='status')


def tiles(run: Run) -> Html:
    """The key figures."""
    each = (
        tag('div', tag('span', title, class_='name'), tag('strong', value), tag('span', remark, class_='remark'))
        for title, value, remark in key_figures(run)
    )
    return tag('div', *each, class_='tiles')


def verdict(run: Run) -> Html:
    """The verdict on collapse."""
    kind, (first, *others) = health(run)
    rest = tag('ul', *(tag('li', text) for text in others)) if others else ''
    return tag('div', tag('p', tag('span', class_=f'dot {kind}'), tag('strong', first)), rest, class_=f'card {kind}')


def next_steps(run: Run) -> Html:
    """Commands to run next."""
    items = (tag('div', tag('p', title), tag('pre', tag('code', line)), class_='step') for title, line in next_commands(run))
    return section('What to do next', *items)


def evaluations(run: Run) -> Html:
    """Results in files, and the last numbers of the validations."""
    rows = []
    for name, found in run.validation.items():
        values = [(y, x) for x, y in zip(found.x, measured(name, found).y, strict=True) if y is not None]
        if values:
            best = max(values)
            rows.append((name, fixed(name, values[-1][0]), fixed(name, best[0]), f'{run.validation_axis} {best[1]:g}'))
    last = table(('validation', 'last', 'highest', 'at'), rows, (1, 2))
    return section('Evaluations', last, *(evaluation(each) for each in run.evaluations))


def evaluation(found: Evaluation) -> Html:
    words = (tag('p', text) for text in found.words)
    rows = [(result.name, short(result.value), spread_of(result)) for result in found.results]
    more = [tag('p', f'{plural(found.left_out, "number")} more in the file', class_='note')] if found.left_out else []
    has_intervals = any(interval for _, _, interval in rows)
    numbers = (
        table(('', 'value', 'interval'), rows, (1, 2))
        if has_intervals
        else table(('', 'value'), [row[:2] for row in rows], (1,))
    )
    return joined([tag('h3', found.file), *words, numbers, *more])


def spread_of(result: Result) -> str:
    """An interval as ``4.01 to 9.23``, a standard deviation as ``± 0.3``."""
    if result.low is not None and result.high is not None:
        return f'{short(result.low)} to {short(result.high)}'
    return '' if result.std is None else f'± {short(result.std)}'


def time_table(run: Run) -> Html:
    """Where the time went."""
    shares = [(name, seconds, css) for (name, seconds), css in zip(time_shares(run), PARTS, strict=False)]
    whole = sum(seconds for _, seconds, _ in shares)
    if not whole:
        return Html('')
    bar = (tag('span', class_=css, style=f'width:{100 * seconds / whole:.2f}%') for _, seconds, css in shares)
    rows = [
        (joined([tag('span', class_=f'key {css}'), name]), duration(seconds), f'{100 * seconds / whole:.1f} %')
        for name, seconds, css in shares
    ]
    caption = f'{duration(wall_seconds(run))} over all sessions. Times of iterations are means over the window of the log.'
    lines = table(('', 'time', 'share'), rows, (1, 2))
    return section('Where the time went', tag('p', caption, class_='note'), tag('div', *bar, class_='bar'), lines)


def sessions(run: Run) -> Html:
    """Starts, stops and resumptions."""
    rows = [session_row(number, session, run.now) for number, session in enumerate(run.sessions, start=1)]
    others = [f'{session.folder.name}: {other_session(session)}' for session in run.others]
    folder = folded(plural(len(others), 'other session') + ' in this folder', listed(others))
    head = ('', 'started', 'iterations', 'time', 'start', 'end')
    return section('Starts, stops and resumptions', table(head, rows, (0, 2, 3)), folder)


def session_row(number: int, session: Session, now: datetime) -> tuple[str, ...]:
    log = session.log
    began = f'{log.began:%Y-%m-%d %H:%M:%S}' if log.began else session.folder.name
    first, last = session.start, session.last_iteration
    reached = f'{first or 0:,} to {last:,}' if last is not None else 'none'
    start = log.facts.get('start', 'not in the log')
    return str(number), began, reached, duration(session.seconds), start, session.end(now)


def other_session(session: Session) -> str:
    if session.trained:
        return f'an earlier run, up to iteration {session.last_iteration:,}'
    if session.is_training:
        return 'ended before its first line in the log'
    return f'an evaluation of {session.log.facts["weights"]}' if 'weights' in session.log.facts else 'did not start training'


def trouble(run: Run) -> Html:
    """Skipped steps, unreadable images, warnings, and what is missing."""
    return section(
        'What went wrong', skipped_steps(run), unreadable(run), warnings(run), folded_or_open('What is missing', run.notes)
    )


def skipped_steps(run: Run) -> Html:
    if not run.skips:  # only pretraining skips steps
        return tag('p', 'No optimizer step was skipped.') if run.kind == 'pretraining' else Html('')
    rows = [(f'{s.iteration:,}', s.epoch, ', '.join(s.losses) or 'gradients', listing(s.images, 3)) for s in run.skipped]
    head = ('iteration', 'epoch', 'not finite', 'images')
    title = f'{plural(run.skips, "optimizer step")} skipped, because losses or gradients were not finite'
    more = f'The first {len(run.skipped)} are shown; all are in skipped_steps.jsonl.' if run.skips > len(run.skipped) else ''
    return joined([tag('h3', title), table(head, rows, (0, 1)), tag('p', more, class_='note') if more else ''])


def listing(names: list[str], most: int) -> str:
    """The last parts of a few names."""
    shown = ', '.join('/'.join(Path(name).parts[-2:]) for name in names[:most])
    return shown + (f' and {len(names) - most} more' if len(names) > most else '')


def unreadable(run: Run) -> Html:
    if not run.unreadable:
        return tag('p', 'All images could be read.') if run.kind == 'pretraining' else Html('')
    return folded_or_open(f'{plural(len(run.unreadable), "image")} could not be read', run.unreadable)


def warnings(run: Run) -> Html:
    """Warnings of the log, each text once."""
    counts = Counter(message.text for session in run.sessions for message in session.log.warnings)
    lines = [text if count == 1 else f'{text} ({count} times)' for text, count in counts.items()]
    return folded_or_open(plural(len(lines), 'warning') + ' in the log', lines)


def folded_or_open(title: str, lines: list[str]) -> Html:
    """A list under a heading; a long one opens by a click."""
    if not lines:
        return Html('')
    return joined([tag('h3', title), listed(lines)]) if len(lines) <= 5 else folded(title, listed(lines))


def listed(lines: list[str]) -> Html:
    shown = [tag('li', line) for line in lines[:SHOWN]]
    more = [tag('li', f'and {len(lines) - SHOWN} more')] if len(lines) > SHOWN else []
    return tag('ul', *shown, *more, class_='lines') if lines else Html('')


def pictures(run: Run) -> Html:
    found, problems = embed(run.pictures)
    figures = (tag('figure', Html(f'<img alt="{tag_text(t)}" src="{url}">'), tag('figcaption', t)) for t, url in found)
    return section('Pictures', *figures, listed(problems))


def tag_text(text: str) -> Html:
    return Html(tag('i', text)[3:-4])


def what_ran(run: Run) -> Html:
    """Method, data, machine, versions, command and the config."""
    rows: list[tuple[str, object]] = [('method', run.method), ('kind', run.kind)]
    rows += [(name, run.facts[name]) for name in DESCRIBED if name in run.facts]
    rows += [('work dir', str(run.folder)), *machine(run)]
    lines = [(name, json.dumps(value)) for name, value in leaves(run.config).items()]
    config = folded(f'The complete config ({len(lines)} settings)', table(('setting', 'value'), lines))
    return section('What ran', pairs(rows), config)


def machine(run: Run) -> Iterator[tuple[str, object]]:
    """Where it ran, with which versions, and how it was started."""
    record = {key: value for session in run.sessions for key, value in session.record.items()}
    devices = {key: value for session in run.sessions for key, value in session.log.machine.items()}
    gpus = [f'{key}: {value}' for key, value in devices.items() if key.startswith('GPU ') and key != 'GPU number']
    yield 'device', ', '.join(filter(None, [run.facts.get('device', ''), *gpus])) or 'unknown'
    if 'machine' in record:
        yield 'machine', record['machine']
    names = ('Python', 'PyTorch', 'TorchVision', 'OpenCV', 'MMEngine')
    own = record.get('version') or run.meta.get('mmadclr_version')
    found = [f'mmadclr {own}'] if own else []
    yield 'versions', ', '.join([*found, *(f'{name} {devices[name]}' for name in names if name in devices)]) or 'unknown'
    yield 'commit', record.get('commit') or 'not recorded'
    yield 'command', tag('code', record['command']) if 'command' in record else 'not recorded'
    yield 'seed', run.meta.get('seed', 'not recorded')
