"""Comparisons that several tests make."""

import torch


def assert_same_state(a: dict, b: dict, atol: float = 0.0) -> None:
    """State dicts agree tensor by tensor.

    With a tolerance, the key part of ``attn.qkv.bias`` is left out: its true gradient is zero (softmax does not see a
    shift of all scores), so Adam turns rounding noise into steps of full size there.
    """
    assert a.keys() == b.keys()
    for name, value in a.items():
        other = b[name]
        if atol and name.endswith('attn.qkv.bias'):
            (q, _, v), (other_q, _, other_v) = value.chunk(3), other.chunk(3)
            value, other = torch.cat((q, v)), torch.cat((other_q, other_v))
        torch.testing.assert_close(value, other, rtol=0, atol=atol, msg=lambda text, name=name: f'{name}: {text}')
