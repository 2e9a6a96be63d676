"""One HTML file about a run, or about several side by side: complete in itself, without anything from a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from mmadclr import __version__
from mmadclr.report import sections
from mmadclr.report.charts import Chart, as_data, charts
from mmadclr.report.collapse import health
from mmadclr.report.collect import Run
from mmadclr.report.literals import leaves
from mmadclr.report.markup import Html, embedded, escaped, folded, joined, section, table, tag
from mmadclr.report.slider import features
from mmadclr.report.story import as_metric, duration, headline_metrics, last, median_speed, status, wall_seconds

LIBRARY = ('uplot-1.6.32.min.css', 'uplot-1.6.32.min.js')
LICENSE = 'uplot-LICENSE.txt'
ABSENT = '-'
OPEN_ROWS = 12  # of differing settings; more open by a click
# Settings of how a run was started, not of what it does.
STARTED = ('work_dir', 'resume', 'load_from', 'launcher', 'verbose', 'experiment_name')


def page(runs: Sequence[Run]) -> str:
    """The report on one or several runs."""
    names = names_of(runs)
    shown = charts(runs, names)
    body = of_one(runs[0], shown) if len(runs) == 1 else of_several(runs, names, shown)
    title = f'{runs[0].method}: {names[0]}' if len(runs) == 1 else f'{len(runs)} runs: {", ".join(names)}'
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag('title', title),
        Html(f'<style>{resource(LIBRARY[0])}\n{resource("page.css")}</style>'),
    ]
    foot = f'Written on {runs[0].now:%Y-%m-%d %H:%M} by mmadclr {__version__}. Charts: uPlot 1.6.32 (MIT).'
    tail = [
        embedded('report-data', data_of(names, shown)),
        *(Html(f'<script>{text}</script>') for text in scripts()),
    ]
    inside = joined([body, tag('footer', foot), *tail])
    return f'<!doctype html>\n<html lang="en">\n<head>\n{joined(head)}\n</head>\n<body>\n{inside}\n</body>\n</html>\n'


def resource(name: str) -> str:
    return files('mmadclr.report').joinpath('static', name).read_text(encoding='utf-8')


def scripts() -> tuple[str, ...]:
    """The scripts of the page; the library comes with its license, as that requires."""
    return resource('locale.js'), f'/*\n{resource(LICENSE)}*/\n{resource(LIBRARY[1])}', resource('page.js')


def data_of(names: Sequence[str], shown: Sequence[Chart]) -> dict[str, Any]:
    """What the script of the page draws."""
    return {'names': list(names), 'charts': [as_data(chart) for chart in shown]}


def names_of(runs: Sequence[Run]) -> list[str]:
    """The last parts of the folders, as many as tell them apart."""
    parts = [run.folder.absolute().parts for run in runs]
    names: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [
        f'{name} ({names[:number].count(name) + 1})' if name in names[:number] else name for number, name in enumerate(names)
    ]


def of_one(run: Run, shown: Sequence[Chart]) -> Html:
    """The body of a report on one run."""
    head = tag('header', tag('h1', run.method), tag('p', run.folder, class_='place'), sections.status_line(run))
    return joined(
        [
            head,
            sections.tiles(run),
            section('Quality and loss', grid(shown, 'Quality', 'Loss')),
            section('Collapse', sections.verdict(run), grid(shown, 'Collapse')) if run.monitor else '',
            sections.evaluations(run),
            features(run.features),
            sections.pictures(run),
            sections.next_steps(run),
            sections.sessions(run),
            sections.trouble(run),
            *curves(shown, 'Speed'),
            sections.time_table(run),
            *curves(shown, 'Schedules'),
            sections.what_ran(run),
        ]
    )


def of_several(runs: Sequence[Run], names: Sequence[str], shown: Sequence[Chart]) -> Html:
    """The body of a report on several runs."""
    head = tag('header', tag('h1', f'{len(runs)} runs side by side'), legend(names))
    return joined(
        [
            head,
            section('Runs', overview(runs, names)),
            section('Settings that differ', differences(runs, names)),
            *curves(shown, 'Quality', 'Loss', 'Collapse', 'Speed', 'Schedules'),
            section('Each run', *(alone(run, name) for run, name in zip(runs, names, strict=True))),
        ]
    )


def legend(names: Sequence[str]) -> Html:
    keys = (tag('span', tag('i', class_=f'line c{number % 8}'), name) for number, name in enumerate(names))
    return tag('p', *keys, class_='legend')


def overview(runs: Sequence[Run], names: Sequence[str]) -> Html:
    """A line for each run, with the metrics that any of them has."""
    found = [{title: (name, series) for title, name, series in headline_metrics(run)} for run in runs]
    titles = list(dict.fromkeys(title for each in found for title in each))
    rows = []
    for run, name, metrics in zip(runs, names, found, strict=True):
        cells = [metric_cell(*metrics[title]) if title in metrics else ABSENT for title in titles]
        loss, speed = last(run.train.get('loss')), median_speed(run)
        numbers = [ABSENT if loss is None else f'{loss:.3f}', ABSENT if speed is None else f'{speed:,.0f}']
        words = [health(run)[1][0] if run.monitor else ABSENT, status(run)[1]]
        rows.append([name, run.method, *cells, *numbers, duration(wall_seconds(run)), *words])
    head = ['run', 'method', *titles, 'loss', 'images/s', 'time', 'collapse', 'state']
    return table(head, rows, range(2, 5 + len(titles)))


def metric_cell(name: str, series: Any) -> str:
    value = last(series)
    return ABSENT if value is None else as_metric(name, value)


def differences(runs: Sequence[Run], names: Sequence[str]) -> Html:
    """Settings that are not the same in all runs."""
    settings = [leaves(run.config) for run in runs]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    rows = [[key, *(str(each.get(key, ABSENT)) for each in settings)] for key in keys if key not in STARTED]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return tag('p', 'None: all runs have the same config.')
    found = table(['setting', *names], rows)
    return found if len(rows) <= OPEN_ROWS else folded(f'{len(rows)} settings differ', found)


def alone(run: Run, name: str) -> Html:
    """What is not in the curves, of one run among several."""
    parts = [sections.verdict(run) if run.monitor else '', sections.evaluations(run)]
    parts += [features(run.features), sections.pictures(run)]
    rest = [sections.next_steps, sections.sessions, sections.trouble, sections.time_table, sections.what_ran]
    return folded(joined([tag('strong', name), ' ', status(run)[1]]), *parts, *(part(run) for part in rest))


def curves(shown: Sequence[Chart], *titles: str) -> Iterator[Html]:
    """Sections of charts."""
    for title in titles:
        yield section(title, grid(shown, title))


def grid(shown: Sequence[Chart], *titles: str) -> Html:
    """The charts of sections; the script of the page fills them by their number."""
    boxes = [box(number, chart) for number, chart in enumerate(shown) if chart.section in titles]
    need = tag('noscript', tag('p', 'Charts need JavaScript, which is off in this browser.', class_='note'))
    return tag('div', need, *boxes, class_='charts') if boxes else Html('')


def box(number: int, chart: Chart) -> Html:
    caption = f'{chart.caption} Dashed: limit.' if chart.limit is not None else chart.caption
    plot = tag('div', class_='plot', data_chart=str(number), role='img', aria_label=escaped(chart.title))
    return tag('div', tag('h3', chart.title), tag('p', caption, class_='note'), plot, class_='chart')
