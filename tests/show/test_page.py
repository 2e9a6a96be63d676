"""The page: what is stored, how exact it is, and in a browser the numbers it computes and what a tap does."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backbones_shown import backbone, picture
from browser import BROWSER, evaluated

from mmadclr.show.page import TEMPLATE, loss_of, quantized, reduced, write_page
from mmadclr.show.study import Study

NAME = '</script><b>one'  # what must not end the data
PROBE = """(() => {
  const out = {status: [], frames: []};
  out.found = data.models.map((_, model) => similarities(model, 1, 7).map(values => [...values]));
  function note() {
    render();
    out.status.push(document.getElementById('status').textContent);
    out.frames.push(views.map(view => [view.mark.style.top, view.mark.style.left]));
  }
  const stage = document.querySelectorAll('.stage')[2], box = stage.getBoundingClientRect();
  const place = {clientX: box.left + 0.55 * box.width, clientY: box.top + 0.3 * box.height};
  stage.dispatchEvent(new MouseEvent('click', place));
  note();
  stage.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown'}));
  note();
  document.querySelectorAll('#models button')[1].click();
  note();
  out.pixels = views.map(view => [view.canvas.width, view.canvas.height]);
  out.largest = views.map(view => view.largest.textContent);
  out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return out;
})()"""


def directions(study, subject):
    return F.normalize(torch.cat([grid.flatten(0, 1) for grid in study.grids(subject)]), dim=1)


@pytest.fixture
def study():
    images = [picture(*size, seed=i) for i, size in enumerate([(48, 32), (32, 48), (40, 40)])]
    return Study({NAME: backbone(), 'two': backbone(1, patch_size=16, embed_dim=96, num_heads=2)}, images, size=64)


def stored(path):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_rows_of_8_bits_are_off_by_half_a_step():
    rows = torch.randn(50, 20) * torch.logspace(-6, 6, 50)[:, None]
    packed = quantized(rows)
    assert packed.codes.dtype == torch.int8
    assert (packed.codes.abs().amax(dim=1) == 127).all()
    assert ((packed.rows() - rows).abs() <= 0.5001 * packed.scales[:, None]).all()


def test_the_projection_is_the_best_of_its_rank():
    rows = F.normalize(torch.randn(300, 40) * torch.linspace(2, 0.1, 40) + 0.3, dim=1)
    gram = (rows @ rows.T).double().numpy()
    values = np.linalg.eigvalsh(gram)[::-1]
    kept = reduced(rows, 10)
    assert kept.shape == (300, 10)
    error = np.linalg.norm((kept @ kept.T).double().numpy() - gram)
    assert error == pytest.approx(np.sqrt((values[10:] ** 2).sum()), rel=1e-3)
    assert reduced(rows, 40) is rows


def test_the_loss_is_that_of_all_cosines():
    rows = F.normalize(torch.randn(90, 70), dim=1)
    packed = quantized(reduced(rows, 16))
    gaps = (packed.rows() @ packed.rows().T - rows @ rows.T).abs()
    loss = loss_of(packed, rows)
    assert loss.mean == pytest.approx(float(gaps.mean()), rel=1e-4)
    assert loss.largest == pytest.approx(float(gaps.max()), rel=1e-4)


def test_the_file_says_how_exact_it_is_and_asks_for_nothing_else(study, tmp_path):
    said = write_page(study, tmp_path / 'deep' / 'a.html')
    text, data = (tmp_path / 'deep' / 'a.html').read_text(), stored(tmp_path / 'deep' / 'a.html')
    assert said.startswith(f'{len(text.encode()) / 1e6:.1f} MB; {NAME}: 24 of 24 dimensions, 8 bits; cosines off by ')
    assert 'two: 64 of 96 dimensions' in said
    assert [model['name'] for model in data['models']] == [NAME, 'two']
    assert {image['source'].partition(',')[0] for image in data['images']} == {'data:image/jpeg;base64'}
    assert not re.search(r'(?:src|href)=|https?:|import\(|fetch\(|XMLHttp', TEMPLATE.read_text())
    assert "default-src 'none'" in text
    numbers = re.search(r'off by ([\d.]+) on average, ([\d.]+) at most', data['models'][1]['about'])
    loss = loss_of(quantized(reduced(directions(study, 1))), directions(study, 1))
    assert [float(number) for number in numbers.groups()] == pytest.approx([loss.mean, loss.largest], abs=6e-5)


@pytest.mark.skipif(BROWSER is None, reason='needs chromium or chrome on the path')
@pytest.mark.parametrize('width', [1280, 390])
def test_the_page_in_a_browser(study, tmp_path, width):
    write_page(study, tmp_path / 'a.html')
    out = evaluated(tmp_path / 'a.html', tmp_path / 'profile', width, PROBE)
    assert out['wide'] <= 0
    for subject in range(2):
        check_similarities(study, subject, out['found'][subject])
    # 64 x 64 pixels: 8 x 8 patches of 8 pixels, 4 x 4 of 16.
    assert out['status'] == [
        f'row {row}, column {column}, image 3'
        for row, column in (('3 of 8', '5 of 8'), ('4 of 8', '5 of 8'), ('2 of 4', '3 of 4'))
    ]
    assert [frames[2] for frames in out['frames']] == [['25%', '50%'], ['37.5%', '50%'], ['25%', '50%']]
    assert out['pixels'] == [[4, 3], [3, 4], [4, 4]]
    check_best(study, out)


def check_similarities(study, subject, found):
    rows = directions(study, subject)
    packed = quantized(reduced(rows))
    sizes = [grid.shape[0] * grid.shape[1] for grid in study.grids(subject)]
    patch, got = sizes[0] + 7, torch.tensor([value for values in found for value in values])
    assert [len(values) for values in found] == sizes
    torch.testing.assert_close(got, packed.rows() @ packed.rows()[patch], rtol=0, atol=1e-5)
    torch.testing.assert_close(got, rows @ rows[patch], rtol=0, atol=loss_of(packed, rows).largest + 1e-5)


def check_best(study, out):
    """The numbers below images, and the frames in them, for patch (1, 2) of the third image and the second backbone."""
    packed = quantized(reduced(directions(study, 1))).rows()
    sizes = [grid.shape[0] * grid.shape[1] for grid in study.grids(1)]
    found = (packed @ packed[sizes[0] + sizes[1] + 4 + 2]).split(sizes)
    assert out['largest'] == [f'{found[0].max():.2f}', f'{found[1].max():.2f}', '']
    for number in (0, 1):
        rows, columns = study.grids(1)[number].shape[:2]
        row, column = divmod(int(found[number].argmax()), columns)
        top, left = (float(text.rstrip('%')) for text in out['frames'][2][number])
        assert (top, left) == pytest.approx((100 * row / rows, 100 * column / columns), abs=1e-3)
