"""The page: well formed, complete in itself, escaped, with the collected numbers."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from written_runs import monitor_record, train_record, write_detection, write_session

from mmadclr.report.charts import charts
from mmadclr.report.collect import collect
from mmadclr.report.markup import embedded, escaped, tag
from mmadclr.report.page import names_of, page
from mmadclr.report.pictures import BYTES, data_url, embed

VOID = {'meta', 'img'}
EVIL = '<img src=x onerror="alert(1)">&\'</script>'


class Page(HTMLParser):
    """Elements, texts, and the contents of scripts of a page; fails if an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.scripts = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        if self.open[-1:] == ['script']:
            self.scripts[self.tags[-1][1].get('id', len(self.scripts))] = text
        else:
            self.texts.append(text)

    def having(self, class_):
        return [attributes for _, attributes in self.tags if class_ in (attributes.get('class') or '').split()]


@pytest.fixture
def run(tmp_path):
    work = tmp_path / 'work <b> & "c"'
    records = [
        record
        for i in range(1, 21)
        for record in (monitor_record(i), train_record(i, loss=5 - 0.1 * i, loss_cls=float('nan')))
    ]
    validations = [{'knn20_top1': 30.0, 'step': 1}, {'knn20_top1': 35.5, 'step': 2}]
    folder = write_session(work, records=[*records, *validations], log=[(90, 'INFO', 'a line')])
    (folder / 'vis_data' / 'config.py').write_text(f'default_scope = "mmadclr"\nevil = {EVIL!r}\n')
    (folder / 'run.json').write_text(json.dumps({'command': f'mmadclr train {EVIL}', 'end': EVIL}))
    (work / 'unreadable_images.txt').write_text(f'{EVIL}: broken\n')
    (work / 'knn.json').write_text(json.dumps({EVIL: {'value': 6.4, 'low': 4.0, 'high': 9.2}}))
    return collect(work)


def test_numbers_in_the_page_are_the_collected_ones(run):
    parsed = Page(page([run]))
    data = json.loads(parsed.scripts['report-data'])
    curves = {curve['label']: curve for chart in data['charts'] for curve in chart['curves']}
    for name in ('loss', 'lr', 'loss_cls'):
        assert (curves[name]['x'], curves[name]['y']) == tuple(run.train[name])
    assert curves['loss_cls']['y'] == [None] * 20
    assert curves['knn20_top1'] == {'label': 'knn20_top1', 'x': [1, 2], 'y': [30.0, 35.5]}
    assert data['names'] == names_of([run])
    places = [int(attributes['data-chart']) for attributes in parsed.having('plot')]
    assert sorted(places) == list(range(len(data['charts'])))
    assert len(places) == len(charts([run], ['a'])) > 10


def test_names_are_escaped_everywhere(run):
    text = page([run])
    parsed = Page(text)
    assert [name for name, attributes in parsed.tags if 'onerror' in attributes] == []
    assert 'b' not in [name for name, _ in parsed.tags]
    shown = ''.join(parsed.texts)
    assert shown.count(EVIL) >= 4  # command, end, unreadable image, evaluation
    assert 'work <b> & "c"' in shown


def test_the_page_needs_no_network(run):
    text = page([run])
    parsed = Page(text)
    places = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in ('src', 'href')]
    assert all(value.startswith('data:image/') for value in places)
    assert not re.search(r'@import|url\(\s*["\']?http|fetch\(|XMLHttpRequest|<link', text)
    assert 'Copyright (c) 2022 Leon Sorokin' in text


def test_what_the_page_says(run):
    shown = ' '.join(Page(page([run])).texts)
    for words in (
        'No sign of collapse.',
        '35.5 %',
        '4 to 9.2',
        'No optimizer step was skipped.',
        '1 image could not be read',
        'mmadclr train CONFIG --work-dir',
        'no checkpoint in the work dir',
        'Where the time went',
    ):
        assert words in shown


def test_a_run_of_detection(tmp_path):
    folder = write_detection(tmp_path / 'detector')
    (folder / 'vis_data' / 'vis_image').mkdir()
    for step in range(2, 21, 2):
        Image.new('RGB', (8, 8)).save(folder / 'vis_data' / 'vis_image' / f'val_img_{step}.png')
    run = collect(tmp_path / 'detector')
    parsed = Page(page([run]))
    shown = ' '.join(parsed.texts)
    assert '"loss_rpn_cls"' in parsed.scripts['report-data']
    for words in ('MaskRCNN', 'box mAP', '0.200', 'mask mAP', '0.100', 'Predictions: val img 20'):
        assert words in shown, words
    assert [path.stem for path in run.pictures] == [f'val_img_{step}' for step in range(6, 21, 2)]  # the newest, by step
    for words in ('Collapse', 'optimizer step', 'All images could be read', 'mmadclr show', '-1.000'):
        assert words not in shown.partition('What ran')[0], words


def test_two_runs_side_by_side(tmp_path, run):
    other = tmp_path / 'other'
    folder = write_session(other, records=[train_record(1), train_record(2)])
    (folder / 'vis_data' / 'config.py').write_text('default_scope = "mmadclr"\noptimizer = dict(lr=0.5)\n')
    second = collect(other)
    parsed = Page(page([run, second]))
    data = json.loads(parsed.scripts['report-data'])
    assert data['names'] == ['work <b> & "c"', 'other']
    (loss,) = [chart for chart in data['charts'] if len(chart['curves']) == 2 and chart['curves'][1]['y'] == [1.0, 1.0]]
    assert [curve['label'] for curve in loss['curves']] == data['names']
    assert loss['curves'][0]['y'] == run.train['loss'].y
    shown = ' '.join(parsed.texts)
    assert 'optimizer.lr' in shown
    assert 'Settings that differ' in shown
    assert 'default_scope' not in shown.partition('Each run')[0]


def test_names_of_runs_differ(tmp_path):
    folders = [tmp_path / 'a' / 'work', tmp_path / 'b' / 'work', tmp_path / 'b' / 'work']
    for folder in folders[:2]:
        write_session(folder)
    assert names_of([collect(folder) for folder in folders]) == ['a/work', 'b/work', 'b/work (2)']


def test_pieces_of_html():
    assert escaped('a<b>&"') == 'a&lt;b&gt;&amp;&quot;'
    assert escaped('\udcff') == '?'
    assert tag('td', '<', class_='a"b') == '<td class="a&quot;b">&lt;</td>'
    script = embedded('x', {'a': ['</script><!--', float('inf'), 1.5]})
    assert json.loads(Page(script).scripts['x']) == {'a': ['</script><!--', None, 1.5]}


def test_pictures_are_embedded_and_large_ones_reduced(tmp_path):
    small, large, broken = (tmp_path / name for name in ('crops.png', 'large.png', 'broken.png'))
    Image.new('RGB', (8, 8), 'red').save(small)
    Image.effect_noise((2000, 1500), 90).save(large)
    broken.write_bytes(b'nothing')
    assert large.stat().st_size > BYTES
    found, (problem,) = embed([small, large, broken])
    assert [title for title, _ in found] == ['Crops of a batch, with their boxes', 'large']
    assert found[0][1] == data_url(small)
    assert found[0][1].startswith('data:image/png;base64,')
    assert found[1][1].startswith('data:image/jpeg;base64,')
    assert len(found[1][1]) < 2 * large.stat().st_size
    assert str(broken) in problem
