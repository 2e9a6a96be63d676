"""A browser without a window, to see what a page does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
WATCH = '<script>var told = []; addEventListener("error", function (e) { told.push(String(e.message)); });'
WATCH += 'var error = console.error; console.error = function (text) { told.push(String(text)); error(text); };</script>'
TELL = """<script>
addEventListener('load', function () { setTimeout(function () {
  var inked = Array.from(document.querySelectorAll('.plot canvas')).map(function (canvas) {
    var data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    var colors = new Set();
    for (var i = 0; i < data.length; i += 4) if (data[i + 3] > 200) colors.add(String(data.slice(i, i + 3)));
    return colors.size;
  });
  var legends = Array.from(document.querySelectorAll('.plot .legend')).map(function (line) { return line.textContent; });
  var width = document.documentElement.scrollWidth;
  var seen = { told: told, inked: inked, legends: legends, width: width, inner: innerWidth, found: found };
  var place = document.createElement('pre');
  place.id = 'seen';
  place.textContent = JSON.stringify(seen);
  document.body.append(place);
}, 300); });
</script>"""


def chromium() -> str:
    """The program; skips the test if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f'needs a browser, one of {", ".join(NAMES)}, on the PATH')
    return found


def call(folder: Path, width: int, *options: str, place: Path) -> str:
    command = [chromium(), '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={folder / "profile"}']
    command += ['--hide-scrollbars', f'--window-size={width},900', '--virtual-time-budget=4000', *options, place.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


def visit(path: Path, folder: Path, width: int, *options: str, script: str = '') -> dict:
    """What a page shows and reports: errors, colors in each canvas, legends, its width.

    A ``script`` runs when the page is loaded; what it puts into ``found`` is part of the result.
    """
    text = path.read_text().replace('<head>', f'<head>{WATCH}', 1)
    head, end, tail = text.rpartition('</body>')
    watched = folder / 'watched.html'
    own = f'<script>var found = {{}}; addEventListener("load", function () {{ {script} }});</script>'
    watched.write_text(f'{head}{own}{TELL}{end}{tail}')
    dom = call(folder, width, '--dump-dom', *options, place=watched)
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(found.replace('&lt;', '<').replace('&gt;', '>').replace('&amp;', '&'))


def screenshot(path: Path, folder: Path, width: int, *options: str) -> Path:
    out = folder / f'shot_{width}.png'
    call(folder, width, f'--screenshot={out}', *options, place=path)
    return out
