"""Profiles of hypothesis: a short one with the same examples every time, and ``--hypothesis-profile=long``."""

from __future__ import annotations

import importlib.util
from datetime import timedelta

if importlib.util.find_spec('hypothesis') is None:
    collect_ignore_glob = ['test_*.py']  # machines that lack what requirements/tests.txt names, as for `pytest -m gpu`
else:
    from hypothesis import HealthCheck, Phase, settings

    # The first example imports libraries; `limits` in strategies.py ends what hangs. To explain failures takes too long.
    COMMON = dict(
        deadline=timedelta(seconds=20),
        database=None,
        phases=[phase for phase in Phase if phase is not Phase.explain],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    settings.register_profile('short', max_examples=30, derandomize=True, **COMMON)
    settings.register_profile('long', max_examples=2000, print_blob=True, **COMMON)
    settings.load_profile('short')
