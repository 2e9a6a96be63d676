"""Packaging: requirements live in ``requirements/``, everything else in ``pyproject.toml``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in (line.split('#')[0].strip() for line in lines) if line]


setup(
    name='mmadclr',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'mmadclr' / '__init__.py').read_text())[1],
    description='Dense self-supervised pretraining of vision transformers: ADCLR and the systems it is compared with',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['mmadclr', 'mmadclr.*']),
    install_requires=requirements('runtime'),
    extras_require={name: requirements(name) for name in ('decode', 'dense', 'evaluation', 'export', 'remote', 'tests')},
)
