"""One rectangular attention call against the masked square one it replaces: ``python benchmarks/attention.py``.

Both give every image and query row the image tokens as keys. Printed: their largest difference, exact FLOPs (torch's own
counter), and the ratio of times with the two variants interleaved in one process.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmadclr.models.backbones.query_vit import QueryAttention, TokenLayout


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--queries', type=int, default=10)
    parser.add_argument('--heads', type=int, default=6)
    parser.add_argument('--rounds', type=int, default=21)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def seconds(function, device: str) -> float:
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_ratio(function, reference, rounds: int, device: str) -> str:
    """Median and range of the ratio of times, the two functions taking turns."""
    ratios = []
    for _ in range(rounds):
        base = seconds(reference, device)
        ratios.append(seconds(function, device) / base)
    return f'median {statistics.median(ratios):.2f}, range {min(ratios):.2f} to {max(ratios):.2f}'


def count_flops(function) -> int:
    """Exact FLOPs by torch's counter, which sees attention only in its unfused form."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops()


def main() -> None:
    args = parse_args()
    num_image, total = 197, 197 + args.queries
    q, k, v = (torch.randn(args.batch, args.heads, total, 64, device=args.device) for _ in range(3))
    layout = TokenLayout(num_image)
    mask = layout.mask(total, args.device)
    variants = {
        'rectangular': lambda: QueryAttention.attend(q, k, v, layout),
        'masked': lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    }
    print(f'{args.device}: {args.batch} images x {args.heads} heads, {num_image} image and {args.queries} query tokens')
    print(f'largest difference {(variants["rectangular"]() - variants["masked"]()).abs().max():.1e}')
    for name, function in variants.items():
        print(f'{name:<12} {count_flops(function) / 1e6:.1f} MFLOP')
    print(f'masked / rectangular, time: {time_ratio(variants["masked"], variants["rectangular"], args.rounds, args.device)}')


if __name__ == '__main__':
    main()
