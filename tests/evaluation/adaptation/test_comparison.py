"""Verdicts on models that are better, worse, equal, mixed or collapsed, and their tables."""

import json

import numpy as np
import pytest
import torch

from mmadclr.evaluation.adaptation import as_json, as_markdown, as_text, compare
from mmadclr.evaluation.adaptation.comparison import holm, overall
from mmadclr.evaluation.adaptation.measuring import Measured
from mmadclr.evaluation.adaptation.outputs import Outputs
from mmadclr.evaluation.adaptation.scores import dense_scores, scores_of


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(noise=1.0, patch_noise=1.0, count=600, labels=False, seed=0, counts=None, scale=1.0):
    """Features in which views differ by noise, and classes of one center each by half of it."""
    classes = torch.arange(count) % 5
    base = randn(count, 16, seed=50) + 2 * randn(5, 16, seed=51)[classes]
    whole = base + 0.5 * noise * randn(count, 16, seed=seed)
    crop = base + noise * randn(count, 16, seed=seed + 1)
    patches = randn(count, 4, 8, seed=52)
    mirrored = patches + patch_noise * randn(count, 4, 8, seed=seed + 2)
    outputs = Outputs(scale * whole, crop, patches, mirrored, np.arange(count), classes if labels else None)
    return Measured(outputs, scores_of(outputs) | dense_scores(counts or {}))


def verdicts(comparison):
    return {row.name: row.verdict for row in comparison.rows if row.decides}


def test_better_worse_and_mixed_by_label_free_measures():
    good, bad = model(0.6, 0.6, seed=10), model(1.4, 1.4, seed=20)
    better = compare(bad, good, draws=300)
    assert (better.verdict, verdicts(better)) == ('better', dict(retrieval='better', patch_agreement='better'))
    assert better.summary.startswith('The adapted model is better than the original on these images (by label-free measures')
    worse = compare(good, bad, draws=300)
    assert (worse.verdict, verdicts(worse)) == ('worse', dict(retrieval='worse', patch_agreement='worse'))
    assert 'keep the original' in worse.summary
    mixed = compare(model(0.6, 1.4, seed=30), model(1.4, 0.6, seed=40), draws=300)
    assert (mixed.verdict, verdicts(mixed)) == ('mixed', dict(retrieval='worse', patch_agreement='better'))
    assert 'choose by the measure of your task' in mixed.summary


def test_equal_models_and_models_that_differ_by_chance_are_the_same():
    one, other = model(seed=10), model(seed=20)
    for adapted in (one, other):
        found = compare(one, adapted, draws=300)
        assert found.verdict == 'same'
        assert found.summary.startswith('No difference between the adapted and the original model can be shown')
    drift = compare(one, one, draws=50).drift['adapted']
    assert drift == pytest.approx(dict.fromkeys(drift, 1.0))


def test_models_that_are_equal_are_rarely_called_different():
    pairs = [(model(seed=100 * i, count=60), model(seed=100 * i + 50, count=60)) for i in range(20)]
    called = [compare(*pair, draws=60).verdict for pair in pairs]
    assert sum(verdict != 'same' for verdict in called) <= 4  # 5 % expected


def test_labels_decide_where_there_are_some():
    original, adapted = model(3.0, 0.6, labels=True, seed=10), model(1.0, 1.4, labels=True, seed=20)
    found = compare(original, adapted, draws=300)
    assert (found.verdict, verdicts(found)) == ('better', dict(knn='better'))
    assert 'by measures with labels' in found.summary
    agreement = next(row for row in found.rows if row.name == 'patch_agreement')
    assert (agreement.verdict, agreement.decides) == ('worse', False)
    assert {row.verdict for row in found.rows if not row.kind.decides} <= {'higher', 'lower', 'same'}
    table = as_text(found)
    assert 'worse (does not decide)' in table
    assert 'lower (only describes)' in table


def test_masks_decide_with_their_own_number_of_images():
    def counts(correct):
        annotated = torch.full((80, 3), 100)
        right = (correct + 8 * randn(80, 3, seed=correct)).round().clamp(0, 100).long()
        return {'patch_linear_miou': torch.stack((right, annotated, annotated), dim=1)}

    found = compare(model(seed=10, counts=counts(70)), model(seed=10, counts=counts(80)), draws=200)
    assert verdicts(found) == dict(patch_linear_miou='better')
    row = found.rows[-1]
    assert row.units == 80
    assert row.values['original'].value == pytest.approx(100 * 70 / 130, abs=3)
    assert any(note.startswith('only 80 images: intervals are wide') for note in found.notes)


def test_few_images_are_said_and_hide_what_many_show():
    few = compare(model(1.2, 1.2, count=50, seed=10), model(0.9, 1.2, count=50, seed=20), draws=300)
    assert few.verdict == 'same'
    assert compare(model(1.2, 1.2, count=600, seed=10), model(0.9, 1.2, count=600, seed=20), draws=300).verdict == 'better'
    note = next(note for note in few.notes if note.startswith('only 50 images'))
    row = few.rows[0]
    half = (row.change.interval.high - row.change.interval.low) / 2
    assert f'{half:.2g} of retrieval' in note
    assert half > 5


def test_a_collapsed_model_is_named():
    constant = model(seed=10)
    outputs = constant.outputs._replace(whole=torch.ones(600, 16), crop=torch.ones(600, 16), patches=torch.ones(600, 4, 8))
    outputs = outputs._replace(mirrored=outputs.patches)
    found = compare(constant, Measured(outputs, scores_of(outputs)), draws=100)
    assert found.verdict == 'worse'
    assert any(
        'adapted model has nearly the same features for all images (rank 1.0): it has collapsed' in n for n in found.notes
    )
    assert any('drift_cls_cka, drift_patch_cka of the adapted model cannot be computed' in note for note in found.notes)
    assert json.loads(as_json(found))['drift']['adapted']['drift_cls_cka'] is None


def test_a_loss_of_rank_is_told():
    original = model(seed=10)
    whole = original.outputs.whole @ torch.diag(torch.logspace(0, -3, 16))
    outputs = original.outputs._replace(whole=whole)
    assert any(
        'the rank of the features fell' in note
        for note in compare(original, Measured(outputs, scores_of(outputs)), draws=50).notes
    )
    assert not any('rank of the features fell' in note for note in compare(original, original, draws=50).notes)


def test_the_floor_and_the_ceiling_are_told():
    perfect, noise = model(0.001, 0.001, seed=10), model(30.0, 30.0, seed=20)
    assert any('retrieval is at its maximum for both' in note for note in compare(perfect, perfect, noise, draws=50).notes)
    found = compare(perfect, noise, model(30.0, 30.0, seed=30), draws=50)
    assert any('retrieval of the adapted model is not clearly above that of random weights' in note for note in found.notes)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert [overall(found) for found in (['same'], ['better', 'same'], ['worse'], ['better', 'worse'], [])] == [
        'same', 'better', 'worse', 'mixed', 'same',
    ]  # fmt: skip


def test_tables_hold_every_number():
    found = compare(model(1.4, seed=10), model(0.6, seed=20), model(30.0, seed=30), draws=100)
    content = json.loads(as_json(found))
    for row in found.rows:
        measure = content['measures'][row.name]
        assert measure['original']['value'] == row.values['original'].value
        assert measure['change']['low'] == row.change.interval.low
    assert content['verdict'] == found.verdict == 'better'
    text, markdown = as_text(found), as_markdown(found)
    header = text.splitlines()[0].split()
    assert header == ['measure', 'original', 'adapted', 'random', 'change', 'p', 'verdict']
    assert markdown.startswith(
        '| measure | original | adapted | random | change | p | verdict |\n|---|---|---|---|---|---|---|\n'
    )
    value = found.rows[0].values['random']
    for table in (text, markdown):
        assert f'{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]' in table
        assert found.summary in table
        assert 'no difference shown' in table or 'better' in table
    assert as_json(compare(model(1.4, seed=10), model(0.6, seed=20), model(30.0, seed=30), draws=100)) == as_json(found)


def test_models_measured_otherwise_are_refused():
    with pytest.raises(ValueError, match=r'measured on different images \(600 and 500\)'):
        compare(model(), model(count=500))
    with pytest.raises(ValueError, match='the models were measured differently'):
        compare(model(labels=True), model())
