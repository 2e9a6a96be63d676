"""The documents of the tree: their links, and the commands they show, split as a shell splits them."""

import re
import subprocess
from functools import cache
from pathlib import Path

from places import REPO

FENCED = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
# What stands for a name of the reader's.
PLACEHOLDERS = {'CONFIG': 'adclr/vits16_folder'}


def documents() -> list[str]:
    """README, pages of the site, and READMEs of configs, as paths below the root."""
    paths = [REPO / 'README.md', REPO / 'CONTRIBUTING.md', *REPO.glob('docs/**/*.md'), *REPO.glob('configs/*/README.md')]
    return sorted(path.relative_to(REPO).as_posix() for path in paths)


@cache
def text_of(document: str) -> str:
    return (REPO / document).read_text()


def links(document: str) -> list[str]:
    """Targets of links and pictures, without code and without other hosts."""
    prose = FENCED.sub('', text_of(document))
    return [target for target in LINK.findall(prose) if not re.match(r'[a-z]+:', target)]


def blocks(document: str, *languages: str) -> list[str]:
    return [text for language, text in FENCED.findall(text_of(document)) if language in languages]


def commands(document: str) -> list[str]:
    """Lines of its blocks of shell, continued ones joined."""
    lines = '\n'.join(blocks(document, 'bash', 'shell', 'sh', 'console')).replace('\\\n', ' ').splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith('#')]


def words(command: str) -> list[list[str]]:
    """Arguments of the commands of a line (``a && b``) after expansion, without settings of the environment before them."""
    pieces = [piece for piece in re.split(r'\s&&\s|\s\|\s', command) if piece.strip()]
    return [without_settings(expanded(piece)) for piece in pieces]


def expanded(command: str) -> list[str]:
    """Braces, patterns, quotes and comments as bash treats them in a clone; nothing of it is run."""
    assert not re.search(r'[$`<>;|&]', command.partition(' # ')[0]), f'{command}: more than words'
    done = subprocess.run(['bash', '-c', f"printf '%s\\0' {command}"], cwd=REPO, capture_output=True, text=True, check=True)
    return done.stdout.split('\0')[:-1]


def without_settings(arguments: list[str]) -> list[str]:
    while arguments and re.fullmatch(r'[A-Z_]+=.*', arguments[0]):
        arguments = arguments[1:]
    return [PLACEHOLDERS.get(argument, argument) for argument in arguments]


def anchors(document: Path) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r'^#+ +(.*)$', FENCED.sub('', document.read_text()), re.MULTILINE)
    return {re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', heading).strip().lower()) for heading in headings}
