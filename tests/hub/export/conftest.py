"""Folders that several tests look at."""

import pytest
from backbones import build_backbone, write_checkpoint

from mmadclr.hub.export import FORMATS, export_backbone


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a file of ours that holds the given backbones."""
    return lambda *models, **meta: write_checkpoint(tmp_path / 'ours.pth', *models, **meta)


@pytest.fixture(scope='session')
def dinov2_folders(tmp_path_factory):
    """A backbone with registers and layer scales in every format: its folder's parent, and comparisons by format."""
    root = tmp_path_factory.mktemp('dinov2')
    file = write_checkpoint(root / 'ours.pth', build_backbone('dinov2'))
    return root, {to: export_backbone(file, root / to, to) for to in FORMATS}
