"""Puts the configs into the wheel, where OpenMMLab's packages have theirs; all else is in ``pyproject.toml``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies ``configs/`` and the model index to ``mmadclr/.mim``; an editable install finds them in the clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'mmadclr', '.mim')
        shutil.rmtree(target, ignore_errors=True)  # of a build before, which may hold configs that are gone
        shutil.copytree(ROOT / 'configs', target / 'configs', ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy2(ROOT / 'model-index.yml', target)


setup(cmdclass={'build_py': BuildWithConfigs})
