"""Stochastic depth: which samples, and by how much the kept ones grow."""

import pytest
import torch

from mmadclr.models.backbones.query_block import DropPath


@pytest.mark.parametrize('rate', [0.1, 0.3, 0.5])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_kept_samples_are_scaled_before_they_are_rounded(dtype, rate):
    """Rounding 1 / (1 - rate) first would scale every kept value of bf16 by up to 0.4 % too much or too little."""
    x = torch.randn(64, 5, 16).to(dtype)
    out = DropPath(rate).train()(x)
    assert out.dtype == dtype
    kept = out.flatten(1).any(dim=1)
    assert 0 < kept.sum() < 64
    expected = (x.float() * (1 / torch.tensor(1 - rate))).to(dtype)
    assert torch.equal(out[kept], expected[kept])
    mean = (out[kept].double().abs().mean() / x[kept].double().abs().mean()).item()
    assert mean == pytest.approx(1 / (1 - rate), rel=3e-4)


def test_evaluation_drops_nothing():
    x = torch.randn(8, 5, 16)
    assert DropPath(0.9).eval()(x) is x
