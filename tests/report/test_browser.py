"""The report in a browser: no error, every chart drawn, no sideways scrolling on a phone, light and dark."""

import numpy as np
import pytest
from browsers import screenshot, visit
from PIL import Image
from test_features import moment, write_features
from written_runs import monitor_record, train_record, write_session

from mmadclr.report import write_report
from mmadclr.report.charts import charts
from mmadclr.report.collect import collect

DARK = '--blink-settings=preferredColorScheme=0'


def work_dir(folder, **values):
    records = [r for i in range(1, 31) for r in (monitor_record(i), train_record(i, loss=5 - 0.1 * i, **values))]
    write_session(folder, records=records, log=[(60, 'INFO', 'done     30 iterations in 0:01:00')])
    return folder


@pytest.mark.parametrize('width', [500, 1280])  # 500: the narrowest window of some versions
@pytest.mark.parametrize('number', [1, 3])
def test_a_report_is_drawn(tmp_path, width, number):
    folders = [work_dir(tmp_path / f'<run {i}>', weight_decay=0.04, flat=0.0) for i in range(number)]
    path, _ = write_report(folders, tmp_path / 'report.html')
    seen = visit(path, tmp_path, width)
    runs = [collect(folder) for folder in folders]
    expected = charts(runs, [f'<run {i}>' for i in range(number)])
    assert seen['told'] == []
    assert len(seen['inked']) == len(expected)
    assert min(seen['inked']) > 3  # grid, text in many shades, and a line
    assert seen['width'] <= seen['inner']
    for chart, legend in zip(sorted(expected, key=str), sorted(seen['legends']), strict=True):
        assert len(legend) > len(chart.axis)
    assert sum('loss' in text and '2' in text for text in seen['legends']) == (number == 1)
    assert all('<run 0>' in text for text in seen['legends'] if number > 1)


def test_light_and_dark(tmp_path):
    path, _ = write_report([work_dir(tmp_path / 'work')])
    shades = {}
    for name, options in (('light', ()), ('dark', (DARK,))):
        (tmp_path / name).mkdir()
        shot = screenshot(path, tmp_path / name, 1280, *options)
        shades[name] = np.asarray(Image.open(shot).convert('L'))
    assert np.median(shades['light']) > 240
    assert np.median(shades['dark']) < 50
    assert all(shade.std() > 5 for shade in shades.values())


SLIDE = """
var box = document.querySelector('.features'), slider = box.querySelector('input');
function state() {
  var pictures = Array.from(box.querySelectorAll('img'));
  return { label: box.querySelector('output').textContent, sources: pictures.map(function (p) { return p.src; }),
    loaded: pictures.every(function (p) { return p.complete && p.naturalWidth > 0; }),
    wide: pictures.map(function (p) { return p.getBoundingClientRect().width; }) };
}
found.before = state();
slider.value = 0;
slider.dispatchEvent(new Event('input', { bubbles: true }));
found.start = state();
slider.focus();
slider.value = 1;
slider.dispatchEvent(new Event('input', { bubbles: true }));
found.middle = state();
"""


@pytest.mark.parametrize('width', [500, 1280])
def test_the_slider_changes_the_pictures(tmp_path, width):
    folder = work_dir(tmp_path / 'work')
    (session,) = folder.glob('*_*')
    write_features(session, *(moment(i) for i in (0, 10, 30)))
    path, _ = write_report([folder])
    seen = visit(path, tmp_path, width, script=SLIDE)
    assert seen['told'] == []
    assert seen['width'] <= seen['inner']
    before, start, middle = (seen['found'][name] for name in ('before', 'start', 'middle'))
    assert [state['label'] for state in (before, start, middle)] == [
        'epoch 3, iteration 30',
        'the start',
        'epoch 1, iteration 10',
    ]
    images = range(0, 6, 3)
    for i in range(6):
        shown = {state['sources'][i] for state in (before, start, middle)}
        assert len(shown) == (1 if i in images else 3)
        assert all(source.startswith('data:image/') for source in shown)
    assert before['loaded']
    assert min(before['wide']) > 60
    assert max(before['wide']) - min(before['wide']) < 2  # image, components and attention side by side
