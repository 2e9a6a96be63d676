"""What the demo promises, at full size: minutes a run."""

import json

import pytest
from test_tools import tool

pytestmark = pytest.mark.slow


def summary(folder, seed, *options):
    tool('demo', '--work-dir', folder, '--seed', seed, *options, timeout=2400)
    return json.loads((folder / 'summary.json').read_text())


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_teacher_beats_both_baselines_by_ten_points(tmp_path, seed):
    result = summary(tmp_path, seed, '--parts', 'pretraining')
    assert result['knn_teacher'] >= max(result['knn_pixels'], result['knn_random']) + 10


def test_teacher_that_is_never_updated_does_not(tmp_path):
    still = 'default_hooks.schedule.momentum=(1.0,1.0)'
    result = summary(tmp_path, 0, '--parts', 'pretraining', '--cfg-options', still)
    assert result['knn_teacher'] < max(result['knn_pixels'], result['knn_random']) + 10


@pytest.mark.dense
def test_pretraining_helps_dense_tasks(tmp_path):
    result = summary(tmp_path, 0)
    assert result['probe_miou_teacher'] >= result['probe_miou_random'] + 10
    assert result['box_ap_pretrained'] > result['box_ap_random']
    assert result['miou_pretrained'] >= result['miou_random'] + 5
