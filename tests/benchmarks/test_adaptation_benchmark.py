"""The comparison of adaptation recipes: each is the one before it with what its name says, and all are measured."""

import json
from argparse import Namespace
from itertools import pairwise

import adaptation
import numpy as np
import pytest
import tiles
import torch
from adaptation import AS_PRETRAINED, RECIPES
from PIL import Image
from places import REPO
from programs import python

from mmadclr.adaptation.plan import choose_sizes
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones.feature_vit import FeatureViT

ARCH = dict(embed_dim=64, depth=3, num_heads=1, patch_size=8)
NAMED = {  # what a recipe adds to the one above it
    '+ heads first': {'default_hooks.schedule.freeze_backbone_epochs'},
    '+ low rates': {
        'optim_wrapper.optimizer.lr',
        *(f'optim_wrapper.paramwise_cfg.{key}' for key in ('layer_decay', 'patch_embed_scale', 'head_scale')),
    },
    '+ anchor': {'model.anchor'},
    '+ frozen blocks': {'model.frozen_blocks'},
    '+ query term': set(),
    '+ ten times the rate': {'optim_wrapper.optimizer.lr'},
}


@pytest.fixture
def base(tmp_path):
    file = tmp_path / 'base.pth'
    torch.save({'teacher': FeatureViT(ARCH, img_size=16, init='xavier').state_dict()}, file)
    return file


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with masks, cut from pictures of 40 x 24 pixels, and its parts before."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind, shape in (('images', (24, 40, 3)), ('masks', (24, 40))):
            folder = tmp_path / 'whole' / kind / split
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(rng.integers(0, 256 if kind == 'images' else 2, shape, dtype=np.uint8)).save(
                    folder / f'{number}.png'
                )
        whole = tmp_path / 'whole'
        folders = [str(whole / kind / split) for kind in ('images', 'masks')]
        monkeypatch.setattr('sys.argv', ['tiles.py', *folders, str(tmp_path / 'noise'), '--split', split, '--side', '16'])
        tiles.main()
    return tmp_path / 'noise'


def test_tiles_are_the_image_without_its_edges(pictures):
    array = np.arange(5 * 7 * 3).reshape(5, 7, 3)
    parts = tiles.tiles(array, 2)
    rows = [np.concatenate(parts[start : start + 3], axis=1) for start in (0, 3)]
    np.testing.assert_array_equal(np.concatenate(rows), array[:4, :6])
    assert len(list((pictures / 'images/train').iterdir())) == 6 * 2
    whole = np.asarray(Image.open(pictures.parent / 'whole/masks/val/3.png'))
    np.testing.assert_array_equal(np.asarray(Image.open(pictures / 'masks/val/3_1.png')), whole[:16, 16:32])


def test_each_recipe_is_the_one_before_with_what_its_name_says(base):
    start = open_backbone(base)
    args = Namespace(steps=30, batch=4)
    settings = {
        name: adaptation.overrides(recipe, start, choose_sizes(8, (16, 16), None), 40, args)
        for name, recipe in RECIPES.items()
    }
    names = [name for name in RECIPES if name != 'from nothing']
    for before, name in pairwise(names):
        keys = settings[before].keys() | settings[name].keys()
        changed = {
            key for key in keys if settings[before].get(key, 'of the recipe') != settings[name].get(key, 'of the recipe')
        }
        assert changed == NAMED[name]
    assert settings['from nothing'] == settings['as in pretraining']
    assert settings['as in pretraining'].items() >= AS_PRETRAINED.items()
    assert settings['+ query term'] == settings['+ frozen blocks']
    assert [RECIPES[name].method for name in names] == ['dino'] * 5 + ['adclr'] * 2


@pytest.mark.slow
def test_all_are_trained_and_measured_once(base, pictures, image_folder, tmp_path):
    for split in ('train', 'val'):
        image_folder(count=24, size=(20, 20), name=f'photos/{split}')
    names = ['from nothing', '+ query term']
    data = ['--photographs', tmp_path / 'photos', '--folders', pictures, '--out', tmp_path / 'out']
    command = [
        REPO / 'benchmarks/adaptation.py',
        '--bases',
        base,
        '--recipes',
        *names,
        *data,
        '--steps',
        '6',
        '--batch',
        '4',
    ]
    done = python(*command, timeout=900)
    record = json.loads((tmp_path / 'out/results.json').read_text())
    rows = record['results']['noise']['0']
    assert list(rows) == ['the base', *names]
    assert all(0 <= value <= 100 for row in rows.values() for value in row.values())
    assert len({str(row) for row in rows.values()}) == 3
    assert done.stdout.count('| from nothing |') == 1
    again = python(*command, timeout=300)
    assert 'iterations' not in again.stdout
    assert json.loads((tmp_path / 'out/results.json').read_text())['results'] == record['results']
