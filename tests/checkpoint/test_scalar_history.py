"""Bounded histories against mmengine's buffers and direct computations on the same streams."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.run_state import history_of, plain_history
from mmadclr.checkpoint.scalar_history import BoundedHistories, BoundedHistory, bound_histories
from mmadclr.checkpoint.snapshots import find_placeholders
from mmadclr.engine import Runner
from mmadclr.engine.hooks import collapse_hook
from mmadclr.engine.hooks.collapse_hook import CollapseMonitorHook
from mmadclr.evaluation.verdicts import Term, judge_teacher, judge_term
from mmadclr.models.losses.self_distillation import SelfDistillationLoss

MILLION = 1_000_000


class Small(BoundedHistory):
    """16 to 18 entries and 8 stretches."""

    keep, points = 16, 8


class Long(BoundedHistory):
    """80 to 90 entries and 5 stretches, which at the end are longer than what leaves at once."""

    keep, points = 80, 5


def stream(kind: str, length: int, seed: int = 0) -> tuple[list, list[int]]:
    """Values as a run would log them, and counts."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, length).tolist()
    if kind == 'integers':
        return rng.integers(-1000, 1000, length).tolist(), counts
    values = (rng.normal(size=length) * 10.0 ** rng.integers(-6, 7, length)).tolist()
    if kind == 'mixed':
        values[: length // 2] = range(length // 2)
    if kind == 'not finite':
        values[length // 3], values[length // 2] = math.inf, math.nan
    return values, counts


def fed(kind: type[HistoryBuffer], values: list, counts: list) -> HistoryBuffer:
    """One by one, in the way of mmengine's hub, which makes a buffer of the first entry."""
    history = kind(values[:1], counts[:1])
    for value, number in zip(values[1:], counts[1:], strict=True):
        history.update(value, number)
    return history


def assert_same_number(got, want) -> None:
    assert (got.dtype, got.tobytes()) == (want.dtype, want.tobytes())


def assert_same(got: BoundedHistory, want: BoundedHistory) -> None:
    a, b = got.plain(), want.plain()
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda x, y: x == y
        assert same(value, b[name]), name


# --- statistics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['floats', 'integers', 'mixed', 'not finite'])
@pytest.mark.parametrize('cls', [Small, Long])
def test_windows_within_the_newest_entries_are_those_of_mmengine_to_the_bit(kind, cls):
    values, counts = stream(kind, 400)
    history, buffer = (fed(make, values[:1], counts[:1]) for make in (cls, HistoryBuffer))
    for number, (value, count) in enumerate(zip(values[1:], counts[1:], strict=True), start=2):
        history.update(value, count)
        buffer.update(value, count)
        assert history.number == number
        assert min(number, cls.keep) <= len(history.data[0]) <= min(number, history.max_length)
        if number % 7 == 0 or number == cls.keep:
            for window in range(1, 1 + min(number, cls.keep)):
                for name in ('mean', 'max', 'min'):
                    got = getattr(history, name)(window)
                    assert_same_number(got, getattr(buffer, name)(window))
                    assert_same_number(got, history.statistics(name, window))
            assert_same_number(history.current(), buffer.current())
            kept = len(history.data[0])
            for part, whole in zip(history.data, buffer.data, strict=True):
                np.testing.assert_array_equal(part, whole[-kept:])


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('cls', [Small, Long, BoundedHistory])
def test_windows_of_everything_are_exact(cls, seed):
    """Minimum and maximum to the bit; the mean within rounding of the correctly rounded sum."""
    length = 30_000 if cls is BoundedHistory else 1000 + 17 * seed
    values, counts = stream('floats', length, seed)
    history, buffer = cls(), HistoryBuffer(values, counts)
    history.extend(values, counts)
    scale = math.fsum(map(abs, values)) / sum(counts)
    for window in (None, 0, length, 10 * length):
        assert history.max(window) == history.statistics('max', window) == buffer.max()
        assert history.min(window) == history.statistics('min', window) == buffer.min()
        assert abs(history.mean(window) - math.fsum(values) / sum(counts)) <= 4e-16 * scale
        assert history.statistics('mean', window_size=window) == history.mean(window)
    assert abs(history.mean() - buffer.mean()) <= 1e-15 * scale


def test_what_is_not_finite_stays_in_the_statistics_of_everything():
    history = fed(Small, *stream('not finite', 200))
    assert math.isfinite(history.mean(16))
    assert all(math.isnan(getattr(history, name)()) for name in ('mean', 'max', 'min'))
    history = fed(Small, [1.0, math.inf, *map(float, range(100))], [1] * 102)
    assert (history.max(), history.min(), history.mean()) == (math.inf, 0.0, math.inf)


@pytest.mark.parametrize('cls', [Small, Long])
@pytest.mark.parametrize('length', [100, 300, 999, 1500])
def test_windows_in_between_begin_with_a_stretch(cls, length):
    values, counts = map(np.array, stream('floats', length, seed=length))
    history = fed(cls, values.tolist(), counts.tolist())
    assert length <= cls.points * history.stretch < 2 * (length + cls.points)
    kept = len(history.data[0])
    for window in range(1, length + 1):
        first = length - window
        if window > kept:
            first -= first % history.stretch
        assert 0 <= length - window - first < history.stretch
        assert history.mean(window) == pytest.approx(values[first:].sum() / counts[first:].sum(), rel=1e-9)
        assert history.max(window) == values[first:].max()
        assert history.min(window) == values[first:].min()


@pytest.mark.parametrize('cls', [Small, Long])
def test_curve_is_that_of_equal_stretches(cls):
    values, counts = map(np.array, stream('floats', 700))
    history, length = cls(), 1
    for number in range(1, 701):
        history.update(float(values[number - 1]), int(counts[number - 1]))
        length = length if number <= cls.points * length else 2 * length
        if number % 13 == 0 or number == cls.points * length:
            starts = np.arange(0, number, length)
            ends, means = history.curve()
            assert ends.tolist() == [min(start + length, number) for start in starts]
            expected = [
                values[i : min(i + length, number)].sum() / counts[i : min(i + length, number)].sum() for i in starts
            ]
            np.testing.assert_allclose(means, expected, rtol=1e-9)


def test_curve_of_nothing_is_empty():
    assert [part.tolist() for part in BoundedHistory().curve()] == [[], []]


# --- the interface of mmengine's buffer ----------------------------------------------------------------------------------


def test_data_are_copies():
    """As mmengine's, which are never written to again."""
    history = fed(Small, *stream('floats', 18))
    before = [part.copy() for part in history.data]
    held = history.data
    for _ in range(40):
        history.update(7.0)
    assert all(np.array_equal(part, then) for part, then in zip(held, before, strict=True))


def test_integers_are_printed_as_such():
    """``train/skipped`` is a count; mmengine's log prints floats with four digits."""
    history = fed(Small, list(range(100)), [1] * 100)
    for number in (history.current(), history.max(), history.max(90), history.min()):
        assert number.dtype == np.int64
    history.update(0.5)
    assert_same_number(history.current(), np.float64(0.5))
    assert_same_number(history.max(), np.float64(99))
    for values in ([2**60 + 1], [0, 2**60 + 1]):  # which no float64 is
        assert_same_number(fed(Small, values, [1] * len(values)).current(), np.float64(2**60))
    for kind in (Small, HistoryBuffer):  # made empty, mmengine's begins with floats
        history = kind()
        history.update(3)
        assert_same_number(history.current(), np.float64(3))


def test_registered_statistics_work_on_the_newest_entries(monkeypatch):
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', dict(HistoryBuffer._statistics_methods))

    @HistoryBuffer.register_statistics
    def median(self, window_size):
        return np.median(self._log_history[-window_size:])

    values, counts = stream('floats', 100)
    assert fed(Small, values, counts).statistics('median', 15) == np.median(values[-15:])
    with pytest.raises(KeyError, match='mode has not been registered'):
        Small().statistics('mode')


@pytest.mark.parametrize('again', [copy.copy, copy.deepcopy, lambda history: pickle.loads(pickle.dumps(history))])
def test_copies_and_pickles(again):
    history = fed(Small, *stream('floats', 100))
    other = again(history)
    assert_same(other, history)
    assert 'statistics_methods' not in vars(history)  # mmengine's buffer leaves it there
    assert other.statistics('mean') == history.mean()


def test_mistakes_are_explained():
    history = Small([1.0, 2.0], [1, 1])
    with pytest.raises(TypeError, match="value and count must be int or float, not <class 'str'> and <class 'int'>"):
        history.update('3')
    with pytest.raises(TypeError, match='list'):
        history.update(3.0, [1])
    with pytest.raises(ValueError, match=r'\(1,\) values and \(0,\) counts'):
        Small([1.0])
    for window in (-1, 2.5):
        with pytest.raises(ValueError, match=f'window_size={window} must be an integer'):
            history.mean(window)
    with pytest.raises(ValueError, match='empty'):
        Small().current()
    assert history.data[0].tolist() == [1.0, 2.0]


# --- bounds --------------------------------------------------------------------------------------------------------------


class Counted(BoundedHistory):
    """Counts the entries that are copied or moved to stretches."""

    def __init__(self) -> None:
        self.calls = self.moved = 0
        super().__init__()

    def _make_room(self) -> None:
        self.calls += 1
        self.moved += self._kept
        super()._make_room()


def test_work_per_update_is_constant():
    """The room doubles from 64 to 11,250 entries, 9 times; afterwards 1,250 entries leave at once."""
    history = Counted()
    for _ in range(MILLION):
        history.update(0.5)
    assert len(history._values) == len(history._counts) == history.max_length == 11_250
    leaving = math.ceil((MILLION - 11_250) / 1_250)
    assert history.calls == 9 + leaving
    assert history.moved == sum(64 * 2**n for n in range(8)) + leaving * 11_250 < 10 * MILLION
    assert history.stretch == 1024
    assert history._stretches.shape[1] <= 1024


@pytest.mark.parametrize('length', [11_250, MILLION, MILLION + 1_249, 3 * MILLION])
def test_a_checkpoint_holds_at_most_5_mb_of_history(length):
    """Of 20 scalars: 11,250 values and counts and 1,024 stretches of 4 numbers each, 4.3 MB, and names of tensors."""
    hub = MessageHub(f'size of {length}')
    history = BoundedHistory(np.arange(length) / 7, np.ones(length))
    for number in range(20):
        hub.log_scalars[f'train/scalar_{number}'] = history
        hub._resumed_keys[f'train/scalar_{number}'] = True
    file = io.BytesIO()
    torch.save(plain_history(hub.state_dict()), file)
    numbers = sum(part.numel() for part in history.plain().values() if isinstance(part, torch.Tensor))
    assert numbers <= 2 * 11_250 + 4 * 1024
    assert 20 * 8 * numbers < file.tell() <= 5e6


# --- saving and loading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['floats', 'integers', 'mixed'])
@pytest.mark.parametrize('cls', [Small, Long])
def test_many_entries_at_once_are_as_many_updates(cls, kind):
    values, counts = stream(kind, 800)
    rng = np.random.default_rng(1)
    whole = fed(cls, values, counts)
    assert_same(cls(values, counts), whole)
    for _ in range(20):
        cuts = [1, *sorted(rng.integers(1, 800, 5).tolist()), 800]
        history = cls(values[:1], counts[:1])
        for start, end in itertools.pairwise(cuts):
            history.extend(values[start:end], counts[start:end])
        assert_same(history, whole)


@pytest.mark.parametrize('kind', ['floats', 'integers', 'mixed'])
@pytest.mark.parametrize('cls', [Small, Long])
def test_going_on_from_any_entry_equals_not_stopping(cls, kind):
    values, counts = stream(kind, 500)
    whole, history = fed(cls, values, counts), cls(values[:1], counts[:1])
    for number in range(1, 500):
        if number % 3 == 0:
            history = cls.from_plain(history.plain())
        history.update(values[number], counts[number])
    assert_same(history, whole)
    for window in (None, 5, 100, 400):
        assert_same_number(history.mean(window), whole.mean(window))


def test_a_history_that_kept_more_is_read():
    """As if a later version kept less: what is too much leaves with the next update."""
    values, counts = stream('floats', 300)
    history = Small.from_plain(fed(Long, values, counts).plain())
    history.update(1.5)
    assert len(history.data[0]) == 17
    assert history.number == 301
    assert history.mean() == pytest.approx((sum(values) + 1.5) / (sum(counts) + 1), rel=1e-12)
    assert len(history.curve()[0]) <= 8


def test_what_is_written_is_plain_and_read_as_it_was(tmp_path):
    hub = MessageHub('plain')
    bound_histories(hub)
    hub.log_scalars['train/loss'] = BoundedHistory(*stream('floats', 30_000))
    hub.update_scalar('train/loss', 2.5)
    hub.update_scalar('train/skipped', 3)
    hub.update_scalar('train/not_kept', 1.0, resumed=False)
    torch.save(plain_history(hub.state_dict()), tmp_path / 'history.pth')
    content = read_checkpoint(tmp_path / 'history.pth')
    assert not list(find_placeholders(content))
    other = MessageHub('read')
    bound_histories(other)
    other.load_state_dict(history_of(content))
    assert list(other.log_scalars) == ['train/loss', 'train/skipped']
    for name, history in other.log_scalars.items():
        assert_same(history, hub.log_scalars[name])


def test_nothing_that_is_saved_changes_with_the_run():
    history = fed(Small, *stream('floats', 100))
    saved = history.plain()
    before = copy.deepcopy(saved)
    going_on = Small.from_plain(saved)
    for _ in range(50):
        history.update(1.0)
        going_on.update(2.0)
    assert_same(Small.from_plain(saved), Small.from_plain(before))


def test_old_checkpoints_are_read():
    """All values and counts as float64, once written for each scalar."""
    values, counts = stream('floats', 30_000)
    pair = [torch.tensor(values, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)]
    plain = {'log_scalars': {'train/loss': pair, 'object': 'x'}, 'runtime_info': {'iter': 3}}
    hub_state = history_of(plain | {'resumed_keys': {'train/loss': True, 'object': True, 'iter': True}})
    assert hub_state['resumed_keys'] == {'train/loss': True, 'iter': True}
    assert list(hub_state['log_scalars']) == ['train/loss']
    assert_same(hub_state['log_scalars']['train/loss'], fed(BoundedHistory, values, counts))


# --- the message hub -----------------------------------------------------------------------------------------------------


def test_a_hub_bounds_whatever_it_is_given():
    hub, buffer = MessageHub('bounds', {'before': HistoryBuffer([1, 2], [1, 3])}), HistoryBuffer([0.5], [1])
    bound_histories(hub)
    held = hub.log_scalars
    bound_histories(hub)
    assert hub.log_scalars is held
    hub.update_scalar('new', torch.tensor(0.25))
    hub.update_scalars({'more': {'value': 2, 'count': 4}})
    hub.load_state_dict({'log_scalars': {'loaded': buffer}, 'runtime_info': {}, 'resumed_keys': {}})
    hub.log_scalars.setdefault('default', buffer)
    hub.log_scalars.update(updated=buffer)
    assert list(hub.log_scalars) == ['before', 'new', 'more', 'loaded', 'default', 'updated']
    assert all(type(history) is BoundedHistory for history in hub.log_scalars.values())
    assert type(copy.deepcopy(hub.log_scalars)['new']) is BoundedHistory
    assert hub.get_scalar('before').mean() == 3 / 4
    assert hub.get_scalar('more').mean() == 2 / 4
    assert hub.get_scalar('before').current().dtype == np.int64


def test_a_hub_keeps_buffers_of_other_kinds():
    class Own(HistoryBuffer):
        pass

    own = Own([1.0], [1])
    histories = BoundedHistories(own=own)
    assert histories['own'] is own
    state = plain_history({'log_scalars': histories, 'runtime_info': {}, 'resumed_keys': {}})
    assert state['log_scalars']['own']['values'].tolist() == [1.0]


def test_every_scalar_of_a_run_is_bounded(small_config):
    runner = Runner.from_cfg(small_config({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1}))
    runner.train()
    kinds = {name: type(history) for name, history in runner.message_hub.log_scalars.items()}
    assert {'train/loss', 'train/time', 'train/lr', 'monitor/cls_kl', 'val/knn5_T0.07_top1'} <= kinds.keys()
    assert set(kinds.values()) == {BoundedHistory}


# --- the collapse monitor ------------------------------------------------------------------------------------------------


TERM = ('entropy', 'kl', 'top_share', 'spread', 'rank', 'iteration')
GOOD, BAD = (0.2, 0.5, 0.3, 0.6, 9.0), (0.2, 0.5, 0.9, 0.6, 9.0)  # the latter is one-hot
JUDGED_FROM = 1000


def observed(cls, rows: list[tuple]) -> dict[str, HistoryBuffer]:
    columns = zip(*((*row, 50 * number) for number, row in enumerate(rows, start=1)), strict=True)
    return {f'monitor/cls_{key}': cls(column, [1] * len(rows)) for key, column in zip(TERM, columns, strict=True)}


@pytest.fixture
def monitor():
    hook = CollapseMonitorHook(patience=5)
    hook.judged_from, hook.losses = JUDGED_FROM, {'cls': SelfDistillationLoss(out_dim=8)}
    return hook


def hub_of(scalars: dict) -> SimpleNamespace:
    return SimpleNamespace(message_hub=SimpleNamespace(get_scalar=scalars.__getitem__))


@pytest.mark.parametrize('bad', [0, 4, 5, 30, 60])
def test_verdicts_are_those_of_all_observations(monitor, bad):
    """Of 60 observations, the first 20 are not judged; those that are begin with the twenty-first, iteration 1,050."""
    rows = [GOOD] * (60 - bad) + [BAD] * bad
    loss = monitor.losses['cls']
    term = Term(len(loss.center), loss.teacher_temp, loss.center_momentum)
    columns = {key: [float(v) for v in column] for key, column in zip(TERM, zip(*rows, strict=True), strict=False)}
    columns = {key: column[20:] for key, column in columns.items()} | {'iteration': list(range(1050, 3001, 50))}
    got = monitor.judge(hub_of(observed(BoundedHistory, rows)), 'cls', TERM)
    assert got == judge_term(columns, 'cls', term, 5)
    assert len(got) == (bad >= 5)
    assert not got or f'since iteration {max(1050, 50 * (61 - bad))}:' in got[0].text


def test_verdicts_of_a_run_longer_than_the_history(monitor, monkeypatch):
    """400 of 1,000 observations are bad: of these, the newest are there. Without a verdict, 5 are looked at."""
    lengths = []

    def counted(columns, *args):
        lengths.append(len(columns['iteration']))
        return judge_term(columns, *args)

    monkeypatch.setattr(collapse_hook, 'judge_term', counted)
    runner = hub_of(observed(Small, [GOOD] * 600 + [BAD] * 400))
    oldest = int(runner.message_hub.get_scalar('monitor/cls_iteration').data[0][0])
    (verdict,) = monitor.judge(runner, 'cls', TERM)
    assert verdict[:2] == ('one-hot', 'cls')
    assert f'since iteration {oldest}:' in verdict.text
    assert lengths == [5, (50_000 - oldest) // 50 + 1]
    lengths.clear()
    assert monitor.judge(hub_of(observed(Small, [GOOD] * 600 + [BAD] * 4)), 'cls', TERM) == []
    assert lengths == [5]


@pytest.mark.parametrize('norms', ['still', 'moving', 'still at the end', 'too few'])
def test_verdicts_on_the_teacher_are_those_of_all_observations(monitor, norms):
    number = 24 if norms == 'too few' else 60
    moving = {'still': 0, 'too few': 0, 'moving': 60, 'still at the end': 40}[norms]
    columns = {
        'distance': [0.5] * number,
        'norm': [float(min(n, moving)) for n in range(number)],
        'momentum': [1.0] * number,
        'iteration': [50 * n for n in range(1, number + 1)],
    }
    scalars = {f'monitor/teacher_{key}': BoundedHistory(column, [1] * number) for key, column in columns.items()}
    got = monitor.judge(hub_of(scalars), 'teacher', columns)
    assert got == judge_teacher({key: column[20:] for key, column in columns.items()}, 5)
    assert [verdict.kind for verdict in got] == (['teacher-still'] if norms == 'still' else [])
