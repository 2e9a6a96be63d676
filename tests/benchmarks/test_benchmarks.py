"""The forms the benchmarks compare are one method, and their counts are right."""

import json
from argparse import Namespace

import common
import loss_memory
import pytest
import resolutions
import run
import step
import torch
from limits import StepCost

SMALL = dict(arch='mini', batch=2, queries=3, locals=2, prototypes=300, device='cpu', precision='fp32', logits_mib=1)


def test_reference_step_is_the_same_method():
    """Losses and teachers of two steps; the exact difference is checked by the benchmark itself, before it measures."""
    args = Namespace(**SMALL)
    models = [step.build(args) for _ in range(2)]
    reference = step.reference_step(models[1], 'fp32')
    assert 'agree' in step.agree(step.OurStep(models[0], 'fp32'), reference, models, step.draw_views(args))


def test_forms_that_disagree_end_the_benchmark():
    args = Namespace(**SMALL)
    models = [step.build(args) for _ in range(2)]
    reference = step.reference_step(models[1], 'fp32')
    reference.loss_cls.student_temp = 0.2
    with pytest.raises(SystemExit, match='the two forms disagree'):
        step.agree(step.OurStep(models[0], 'fp32'), reference, models, step.draw_views(args))


def test_reference_loss_is_the_same_function():
    assert 'agrees' in loss_memory.check(Namespace(**SMALL))


def test_counted_memory_is_that_of_the_logits():
    """The loop over pairs keeps at least one log-softmax a pair: 2 x 3 of [CLS] and 2 of three queries each."""
    args = Namespace(**SMALL | dict(prototypes=4096))
    gib = loss_memory.peak(loss_memory.reference, 64, args)
    assert gib * 2**30 > (2 * 3 + 2 * 3) * 64 * 4096 * 4
    assert loss_memory.peak(loss_memory.ours, 64, args) < gib / 2


def test_joint_resolutions_give_the_same_tokens():
    block, groups = resolutions.build(Namespace(**SMALL | dict(arch=step.MINI)))
    for a, b in zip(resolutions.joint(block, groups), resolutions.separate(block, groups), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('queries', [0, 3])
def test_analytical_flops_are_those_counted(queries):
    args = Namespace(**SMALL | dict(queries=queries))
    model, views = step.build(args), step.draw_views(args)
    counted = common.count_flops(lambda: sum(model.loss(**views).values()).backward()) / args.batch
    cost = StepCost.of(step.MINI, num_local=2, num_query=queries, prototypes=300)
    assert counted == pytest.approx(cost.flops(), rel=0.02)


def test_every_benchmark_exists():
    """``run.py`` finds all of them, and leaves none out that writes figures."""
    here = run.HERE
    assert all((here / f'{name}.py').is_file() for name in run.NAMES)
    assert {path.stem for path in here.glob('*.py') if 'report(' in path.read_text()} - {'common'} == set(run.NAMES)


def test_table_is_written_between_the_markers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, 'OUT', tmp_path)
    monkeypatch.setattr(run, 'OUT', tmp_path)
    monkeypatch.setattr(run, 'PAGE', tmp_path / 'page.md')
    (tmp_path / 'page.md').write_text(f'before\n{run.START}\nold\n{run.END}\nafter\n')
    rows = [common.counted_row('bytes', 'MiB', 2, 9, target='<= 3'), common.counted_row('waits', '', 0, 5)]
    common.report('step', rows, Namespace(device='cpu', batch=2, images='', compile=False))
    assert 'bytes, MiB  2     9          4.5    <= 3' in capsys.readouterr().out
    run.write_page()
    text = (tmp_path / 'page.md').read_text()
    assert text.startswith('before\n<!--')
    assert text.endswith('-->\nafter\n')
    assert '| bytes, MiB | 2 | 9 | 4.5 | <= 3 |  |' in text
    assert '| waits | 0 | 5 |  |  |  |' in text
    assert 'device cpu, batch 2.' in text
    assert 'old' not in text
    assert json.loads((tmp_path / 'step.json').read_text())['rows'][0]['ratio'] == 4.5
