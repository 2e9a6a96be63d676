"""Precisions by name: what autocast makes of a product under each."""

import pytest
import torch

from mmadclr.precision import PRECISIONS, autocast_to, resolve_precision


@pytest.mark.parametrize(('precision', 'dtype'), [('fp32', torch.float32), ('bf16', torch.bfloat16)])
def test_products_are_in_the_precision_named(precision, dtype):
    with autocast_to(precision, 'cpu'):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert PRECISIONS[precision] in (dtype, None)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="precision='fp8': choose 'auto', 'fp32', 'bf16'"):
        resolve_precision('fp8')
