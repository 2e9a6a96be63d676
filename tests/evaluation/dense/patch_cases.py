"""Splits of patches that tests of several classifiers share."""

import numpy as np
import torch

from mmadclr.evaluation.dense.patch_sets import split_patches


def of(arrays, key):
    return torch.from_numpy(np.asarray(arrays[key]))


def published_split(arrays):
    """That of the golden file."""
    config, grid = arrays.config, (arrays.config['grid'],) * 2
    sets = [(of(arrays, f'{part}_features'), of(arrays, f'{part}_masks')) for part in ('train', 'test')]
    assert [len(x) for x, _ in sets] == [config['num_train_images'], config['num_test_images']]
    assert sets[0][0].shape[2] == config['dim']
    assert sets[0][1].shape[1] == grid[0] * config['patch_size']
    ignore = arrays['config/ignore_labels'].tolist()
    assert max(set(sets[0][1].unique().tolist()) - set(ignore)) < config['num_classes']
    return split_patches(*sets, grid, of(arrays, 'permutation'), ignore)


def random_split(images=12, grid=(2, 3), side=(4, 6), classes=3, **options):
    """Noise whose mean is the class of a patch, on a grid that is not square."""
    generator = torch.Generator().manual_seed(0)
    sets = []
    for number in (images, 4):
        labels = torch.randint(0, classes, (number, *grid), generator=generator)
        features = torch.randn(number, grid[0] * grid[1], 5, generator=generator)
        features[..., :classes] += 4 * torch.nn.functional.one_hot(labels.flatten(1), classes)
        masks = labels.repeat_interleave(side[0] // grid[0], dim=1).repeat_interleave(side[1] // grid[1], dim=2)
        sets.append((features, masks))
    return split_patches(*sets, grid, **options)
