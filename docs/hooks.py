"""Pages of the site that are written from other files, and links that lead out of it.

* ``configs.md`` is the docstrings of ``configs/``, ``methods/NAME.md`` is ``configs/NAME/README.md``.
* A link of a page to a file of the repository that is no page is shown as that file's path.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / 'docs'
GROUPS = {
    'adclr': 'ADCLR',
    'adclr/ablations': 'Ablations of ADCLR',
    'dino': 'DINO',
    'ibot': 'iBOT',
    'selfpatch': 'SelfPatch',
    'pqcl': 'PQCL',
    'adapt': 'Continuing from public weights',
    'demo': 'Demo: generated images, minutes on two CPU cores',
    'demo/ablations': 'Ablations of the demo',
    'mmpretrain': 'Methods of mmpretrain',
    'benchmarks/classification': 'Classification',
    'benchmarks/coco': 'Detection: COCO',
    'benchmarks/ade20k': 'Segmentation: ADE20K',
    'benchmarks/small': 'Small real sets',
    'benchmarks/demo': 'Dense tasks of the demo',
}
INTRODUCTION = """# Configs

All configs of mmadclr with their docstrings; `mmadclr list-configs` prints the first lines.
Use the names in commands: `mmadclr train adclr/vits16_folder`. `mmadclr print-config NAME` shows every value
with the file and line that sets it. Base configs (`configs/_base_`) are not listed.
"""
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)')
ROLE = re.compile(r':(?:attr|class|func|meth|mod):(?=<code>)')
CELL = re.compile(r'<td[^>]*>.*?</td>', re.DOTALL)
CODE = re.compile(r'(?<=<code>)[^<]+')
LIST_AFTER_TEXT = re.compile(r'^(?![*|#>\s]|\d+\.)(.*\S)\n(?=\* |1\. )', re.MULTILINE)
FENCED = re.compile(r'(^```.*?^```$)', re.MULTILINE | re.DOTALL)


# --- configs ---------------------------------------------------------------------------------------------------------------


def configs_page() -> str:
    """All configs, a section for each folder."""
    folders: dict[str, list[Path]] = {}
    for path in sorted((REPO / 'configs').rglob('*.py')):
        folders.setdefault(path.parent.relative_to(REPO / 'configs').as_posix(), []).append(path)
    shown = [folder for folder in folders if not folder.startswith('_base_')]
    ordered = sorted(shown, key=lambda folder: (list(GROUPS).index(folder) if folder in GROUPS else len(GROUPS), folder))
    return '\n'.join([INTRODUCTION, *(section(folder, folders[folder]) for folder in ordered)])


def section(folder: str, paths: list[Path]) -> str:
    """A table of first lines, then the docstrings that have more."""
    texts = {f'{folder}/{path.stem}': ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '' for path in paths}
    rows = [f'| `{name}` | {text.splitlines()[0] if text else ""} |' for name, text in texts.items()]
    longer = [f'### {name}\n\n{text}\n' for name, text in texts.items() if '\n' in text]
    table = '\n'.join(['| config | what it is |', '| --- | --- |', *rows])
    return f'## {GROUPS.get(folder, folder)}\n\n{table}\n\n' + '\n'.join(longer)


# --- files and links -------------------------------------------------------------------------------------------------------


def method_pages() -> dict[str, Path]:
    """Sources of the pages that are READMEs of folders of configs."""
    return {f'methods/{path.parent.name}.md': path for path in sorted((REPO / 'configs').glob('*/README.md'))}


def on_files(files, config):
    """Adds the pages that are written from other files."""
    from mkdocs.structure.files import File  # the rest works without it

    files.append(File.generated(config, 'configs.md', content=configs_page()))
    for page, path in method_pages().items():
        files.append(File.generated(config, page, content=path.read_text(encoding='utf-8')))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links and lists as the site has them."""
    source = method_pages().get(page.file.src_uri, DOCS / page.file.src_uri)
    parts = FENCED.split(markdown)  # code is at odd places
    texts = [LIST_AFTER_TEXT.sub(r'\1\n\n', text) for text in parts[::2]]  # GitHub does without the empty line
    parts[::2] = [LINK.sub(lambda link: site_link(link, source, page.file.src_uri), text) for text in texts]
    return ''.join(parts)


def on_page_content(html, page, config, files):
    """Roles of Sphinx in docstrings (``:func:`name```) are names alone here; paths in tables may be broken after a part."""
    return CELL.sub(lambda cell: CODE.sub(with_breaks, cell[0]), ROLE.sub('', html))


def with_breaks(code: re.Match) -> str:
    """Code of a table cell that is broken between the parts of a name, if it has to be."""
    return re.sub(r'(?<=[/_,])(?=[\w{])', '<wbr>', code[0])


def site_link(link: re.Match, source: Path, page: str) -> str:
    """A link of the file ``source``, as it has to be on the page of the site."""
    picture, text, target = link.groups()
    place, _, anchor = target.partition('#')
    if not place or re.match(r'[a-z]+:', place):
        return link[0]
    path = Path(os.path.normpath(source.parent / place))
    name = page_of(path)
    if name is None:
        return as_path(text, path.relative_to(REPO).as_posix())
    relative = os.path.relpath(name, os.path.dirname(page) or '.').replace(os.sep, '/')
    return f'{picture}[{text}]({relative}{"#" + anchor if anchor else ""})'


def page_of(path: Path) -> str | None:
    """The page, picture or other file of the site that a path of the repository is; None if it is not part of it."""
    made = {source: name for name, source in method_pages().items()}
    made |= {REPO / 'README.md': 'index.md', REPO / 'configs': 'configs.md'}
    return made.get(path) or (path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) and path.is_file() else None)


def as_path(text: str, path: str) -> str:
    """What stands for a link to a file that is no page: its path, after the text if that says something else."""
    return f'`{path}`' if path.endswith(text.strip('`/')) else f'{text} (`{path}`)'
