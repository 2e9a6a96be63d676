"""Tables of the plan, of results and of published results."""

import torch

from mmadclr.evaluation.suite.outcomes import Outcome, mapped_score, names_of, sampled
from mmadclr.evaluation.suite.plan import Job
from mmadclr.evaluation.suite.settings import Hummingbird, Lost
from mmadclr.evaluation.suite.table import plan_table, published_rows, published_table, result_table


def job(benchmark, protocol, settings, scored, state='to run'):
    return Job(benchmark, protocol, settings, {}, scored, str(scored), state)


def record(notes=(), **metrics):
    return dict(
        metrics={name: dict(value=v, low=low, high=high) for name, (v, low, high) in metrics.items()}, units=9, notes=notes
    )


def test_tables_are_aligned_and_end_with_notes():
    records = {
        ('voc', 'hummingbird'): record(a_mIoU=(12.345, 1.0, 100.0), a_mIoU_identity=(2.0, None, None)),
        ('voc07', 'lost'): record(notes=['3 of 9 images without a box are not scored'], corloc_lost=(50.0, 0.0, 75.0)),
    }
    assert result_table(records).splitlines() == [
        'benchmark  metric           value  95 % interval  units',
        'voc        a_mIoU            12.3  1.0 to 100.0       9',
        'voc        a_mIoU_identity    2.0  -                  9',
        'voc07      corloc_lost       50.0  0.0 to 75.0        9',
        '',
        'voc07 lost: 3 of 9 images without a box are not scored',
    ]
    jobs = [job('voc', 'hummingbird', Hummingbird(), 1449, 'finished'), job('voc07', 'lost', Lost(), 5011)]
    assert plan_table(jobs).splitlines() == [
        'benchmark  protocol     input   images  state',
        'voc        hummingbird  512       1449  finished',
        'voc07      lost         native    5011  to run',
    ]


def test_published_results_are_beside_the_metric_they_belong_to():
    jobs = [job('voc', 'hummingbird', Hummingbird(), 1449), job('voc07', 'lost', Lost(), 5010)]
    records = {('voc', 'hummingbird'): record(x_mIoU=(1.0, None, None), x_mIoU_identity=(1.0, None, None))}
    rows = published_rows(jobs, 16, records)
    assert [(row['metric'], row['backbone'], row['value']) for row in rows] == [
        ('x_mIoU', 'DINO ViT-S/16', 37.2),
        ('x_mIoU', 'DINO ViT-B/16', 44.9),
        ('x_mIoU', 'DINOv2 ViT-S/14', 70.2),
        ('x_mIoU', 'DINOv2 ViT-B/14', 69.1),
    ]
    text = published_table(rows)
    assert text.splitlines()[0] == 'published by others, same settings:'
    assert text.count('README of vpariza/open-hummingbird-eval') == 4
    assert published_table([]) == ''


def test_intervals_are_in_percent_and_only_where_they_are_defined():
    confusions = torch.tensor([[[4, 0], [0, 4]], [[0, 4], [4, 0]]], dtype=torch.int32)
    score = mapped_score(confusions, torch.tensor([0, 1]))
    outcome = Outcome({'a': 100 * score(torch.arange(2)), 'b': 3.0}, {'a': score}, 2)
    found = sampled(outcome, 50).metrics
    assert (found['a']['low'], found['a']['high']) == (0.0, 100.0)
    assert abs(found['a']['value'] - 100 / 3) < 1e-6
    assert found['b'] == dict(value=3.0, low=None, high=None)
    assert sampled(outcome, 0).metrics['a']['low'] is None
    assert sampled(outcome._replace(units=1), 50).metrics['a']['low'] is None


def test_long_lists_of_classes_are_cut():
    classes = [f'c{number}' for number in range(9)]
    assert names_of([0, 2], classes) == 'c0, c2'
    assert names_of(range(9), classes) == 'c0, c1, c2, c3, c4 and 4 more'
    assert names_of([255], classes) == '255'
