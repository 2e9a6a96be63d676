"""Runs whose evaluations return what was written beforehand."""

from mmadclr.engine import Runner
from mmadclr.registry import METRICS


@METRICS.register_module()
class ScriptedScores:
    """Returns ``scores[i]`` as ``score`` at its i-th call, and each time the same original and error unless None.

    With ``ranks``, which fall from 10, also those.
    """

    def __init__(self, scores, original=None, error=None, ranks=None):
        self.scores, self.ranks = iter(scores), None if ranks is None else iter(ranks)
        self.beside = {'original/score': original, 'error/score': error}

    def of_model(self, model):
        beside = {name: value for name, value in self.beside.items() if value is not None}
        ranks = {} if self.ranks is None else {'rank': next(self.ranks), 'original/rank': 10.0}
        return {'score': next(self.scores), **beside, **ranks}


def run_scripted(
    small_config,
    scores,
    resume=False,
    epochs=None,
    original=None,
    error=None,
    ranks=None,
    checkpoint_interval=1,
    **hooks,
):
    """A small run that is evaluated at the end of every epoch of 3 iterations; ``hooks`` by key."""
    settings = {
        'train_cfg.max_epochs': epochs or len(scores),
        'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.interval': checkpoint_interval,
        **{f'default_hooks.{name}': hook for name, hook in hooks.items()},
    }
    cfg = small_config(settings)
    cfg.val_evaluator = dict(type='ScriptedScores', scores=scores, original=original, error=error, ranks=ranks)
    cfg.resume = resume
    run_scripted.count += 1
    cfg.experiment_name += f'_{run_scripted.count}'  # a fresh visualizer for every run
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


run_scripted.count = 0
