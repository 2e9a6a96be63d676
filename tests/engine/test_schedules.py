"""Schedules against DINO's published tables."""

import numpy as np
import pytest

from mmadclr.schedules import cosine_schedule, linear_warmup


def test_equal_published_tables(golden):
    arrays = golden('dino_schedules')
    c = arrays.config
    total, warmup = c['epochs'] * c['iters_per_epoch'], c['warmup_epochs'] * c['iters_per_epoch']
    peak = c['lr'] * c['batch_size_total'] / 256
    tables = {
        'lr': cosine_schedule(peak, c['min_lr'], total, warmup),
        'lr_without_warmup': cosine_schedule(peak, c['min_lr'], total),
        'lr_start_value': cosine_schedule(peak, c['min_lr'], total, warmup, c['start_warmup_value']),
        'weight_decay': cosine_schedule(c['weight_decay'], c['weight_decay_end'], total),
        'momentum': cosine_schedule(c['momentum_teacher'], 1.0, total),
    }
    for name, table in tables.items():
        np.testing.assert_allclose(table, arrays[name], rtol=0, atol=1e-12, err_msg=name)


def test_linear_warmup():
    assert linear_warmup(1, 3, 6, 3).tolist() == [1, 2, 3, 3, 3, 3]
    assert linear_warmup(1, 3, 2, 0).tolist() == [3, 3]
    assert linear_warmup(1, 3, 2, 5).tolist() == [1, 1.5]


def test_warmup_longer_than_the_run_is_explained():
    with pytest.raises(ValueError, match='warm-up of 20 steps is longer than the schedule of 10'):
        cosine_schedule(1, 0, 10, 20)
