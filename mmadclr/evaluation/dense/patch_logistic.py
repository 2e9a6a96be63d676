"""Segmentation by logistic regression over patches: one class per patch.

CAPI's protocol (``LogregClassifier`` in ``eval_segmentation.py`` of facebookresearch/capi). The problem is convex, so any
solver converges to its solution; for C of 100 and more predictions agree better than coefficients.

Shape legend: n training patches, q query patches, L labels in the data, J pixels of a patch, D channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from mmadclr.evaluation.dense.patch_sets import Patches, PatchResult, PatchSplit, choose_and_test, most_frequent

STRENGTHS = tuple(float(value) for value in 10 ** np.linspace(-6, 5, 8))
STEPS = 1000
TOLERANCE = 1e-12


class LogisticRegression(NamedTuple):
    """``weight``: (L, D), ``bias``: (L,), float64. ``labels``: (L,). ``converged``: whether it stopped before the last
    step.
    """

    weight: Tensor
    bias: Tensor
    labels: Tensor
    converged: bool

    def predict(self, features: Tensor) -> Tensor:
        """(q,) labels of features (q, D)."""
        scores = [part.double() @ self.weight.T + self.bias for part in features.to(self.weight.device).split(2**16)]
        return self.labels[torch.cat([part.argmax(dim=1) for part in scores])]


def fit_logistic(features: Tensor, labels: Tensor, strength: float, steps: int = STEPS) -> LogisticRegression:
    """Minimizes ``strength`` x (sum of cross-entropies) + half the squared norm of the weights; biases are not regularized.

    Args:
        features: (n, D).
        labels: (n,).
        strength: scikit-learn's C: larger values regularize less.
        steps: Maximum number of L-BFGS steps.

    Raises:
        ValueError: Fewer than two labels, or ``strength`` is not above 0.
    """
    if not strength > 0:
        raise ValueError(f'C={strength} must be above 0')
    found, targets = labels.to(features.device).unique(return_inverse=True)
    if len(found) < 2:
        raise ValueError(f'all patches have the label {found.tolist()}: there must be at least 2 labels')
    points, total = features.double(), strength * len(features)
    weight, bias = points.new_zeros(len(found), points.shape[1]), points.new_zeros(len(found))
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=steps, max_eval=50 * steps, history_size=20, tolerance_grad=TOLERANCE,
        tolerance_change=TOLERANCE**1.5, line_search_fn='strong_wolfe',
    )  # fmt: skip
    unit = min(1.0, total**0.5)  # scale of the weights, so that weights and biases have similar curvature for small C

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(points @ (unit * weight).T + bias, targets)
        loss = losses + (unit * weight).square().sum() / (2 * total)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    done = optimizer.state[weight]['n_iter']
    return LogisticRegression(unit * weight.detach(), bias.detach(), found, done < steps)


def logistic_labels(train: Patches, queries: Tensor, strengths: Sequence[float]) -> Iterator[Tensor]:
    """(q, J) labels of query patches (q, D) for each strength: all pixels of a patch have the same."""
    targets = most_frequent(train.labels)
    for strength in strengths:
        model = fit_logistic(train.features, targets, strength)
        if not model.converged:
            print_log(f'logistic regression with C={strength:g} stopped after {STEPS} steps', 'current', logging.WARNING)
        found = model.predict(queries)
        yield found[:, None].expand(-1, train.labels.shape[1])


def evaluate_patch_logistic(split: PatchSplit, strengths: Iterable[float] = STRENGTHS) -> PatchResult:
    """mIoU over seen classes and pixel accuracy of logistic regression; C is chosen on the holdout images.

    Args:
        split: See ``patch_sets.split_patches``.
        strengths: Values of C to try.

    Raises:
        ValueError: See :func:`fit_logistic` and ``patch_sets.choose_and_test``.
    """
    return choose_and_test('patch_logistic', split, strengths, logistic_labels, lambda value: {'C': value})
