"""Values of the command line."""

from argparse import ArgumentTypeError

import pytest
from places import REPO

from mmadclr.cli.argument_types import duration
from mmadclr.cli.choices import ADAPT_METHODS


@pytest.mark.parametrize(
    ('text', 'seconds'), [('90', 90), ('45s', 45), ('30m', 1800), ('2h', 7200), ('1h30m', 5400), ('1h0m5s', 3605)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize('text', ['', '0', '0h', '-5m', '1.5h', 'two hours', '5d', '5m1h'])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ArgumentTypeError, match='is not a duration such as 2h, 45m, 1h30m or 90s'):
        duration(text)


def test_methods_of_adapt_are_its_configs():
    assert set(ADAPT_METHODS) == {path.stem for path in (REPO / 'configs' / 'adapt').glob('*.py')}
