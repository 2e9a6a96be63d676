"""The site: pages written from other files, links out of it, and a strict build where mkdocs is installed."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
from places import REPO

from mmadclr.shipped import shipped_configs

spec = importlib.util.spec_from_file_location('site_hooks', REPO / 'docs' / 'hooks.py')
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)


def linked(text, page='data.md', folder='docs'):
    """The text of a page after its links have been treated."""
    source = REPO / folder / page.rpartition('/')[2]
    return hooks.LINK.sub(lambda link: hooks.site_link(link, source, page), text)


def test_page_of_configs_has_every_config_and_all_that_its_docstring_says():
    page = hooks.configs_page()
    assert set(re.findall(r'^\| `(.+?)` \| .+ \|$', page, re.MULTILINE)) == set(shipped_configs())
    headings = re.findall(r'^## (.*)$', page, re.MULTILINE)
    assert headings == list(hooks.GROUPS.values())
    for name, path in shipped_configs().items():
        first, _, rest = ast.get_docstring(ast.parse(path.read_text())).partition('\n')
        assert f'| `{name}` | {first} |' in page
        assert not rest or f'### {name}\n\n{first}\n{rest}\n' in page


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('[Data](data.md#shards)', '[Data](data.md#shards)'),
        ('[x](https://a.org/b.md)', '[x](https://a.org/b.md)'),
        ('[here](#part)', '[here](#part)'),
        ('![a](images/demo_crops.png)', '![a](images/demo_crops.png)'),
        ('[ops.py](../mmadclr/ops.py)', '`mmadclr/ops.py`'),
        ('[`mmadclr/ops.py`](../mmadclr/ops.py)', '`mmadclr/ops.py`'),
        ('[the index](../model-index.yml)', 'the index (`model-index.yml`)'),
        ('[comparison/](comparison)', '`docs/comparison`'),
        ('[README](../README.md)', '[README](index.md)'),
        ('[Configs](../configs)', '[Configs](configs.md)'),
        ('[ADCLR](../configs/adclr/README.md#configs)', '[ADCLR](methods/adclr.md#configs)'),
    ],
)
def test_links_of_pages(text, expected):
    assert linked(text) == expected


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('[PQCL](../pqcl/README.md)', '[PQCL](pqcl.md)'),
        ('[ours](../../docs/comparison.md)', '[ours](../comparison.md)'),
        ('![A](../../docs/images/methods/adclr.svg)', '![A](../images/methods/adclr.svg)'),
    ],
)
def test_links_of_readmes_of_methods(text, expected):
    source = REPO / 'configs/adclr/README.md'
    assert hooks.LINK.sub(lambda link: hooks.site_link(link, source, 'methods/adclr.md'), text) == expected


def test_lists_after_text_become_lists():
    assert hooks.LIST_AFTER_TEXT.sub(r'\1\n\n', 'a:\n* b\n  c\n* d\n') == 'a:\n\n* b\n  c\n* d\n'


def test_roles_go_and_names_in_tables_may_be_broken():
    html = '<p>see :func:<code>a_b</code></p><td>a_b <code>adclr/vits16_small</code></td>'
    expected = '<p>see <code>a_b</code></p><td>a_b <code>adclr/<wbr>vits16_<wbr>small</code></td>'
    assert hooks.on_page_content(html, None, None, None) == expected


def test_strict_build_has_all_pages_and_fetches_nothing(tmp_path):
    pytest.importorskip('mkdocs')
    pytest.importorskip('material')
    pytest.importorskip('mkdocstrings')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.rglob('*.html'))
    assert {'configs.html', 'faq.html', 'adclr.html', 'backbones.html'} <= {page.name for page in pages}
    for page in pages:
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?:[^" >]+)', page.read_text())
        assert fetched == [], page.name
    assert 'The frozen backbone of a checkpoint' in (tmp_path / 'api/backbones.html').read_text()
    assert ':func:' not in (tmp_path / 'api/backbones.html').read_text()
