"""What the hardware allows: FLOPs and bytes of a pretraining step per image, from sizes alone.

    python benchmarks/limits.py --arch vit_small_patch16_224 --locals 10 --queries 10

Counted: student forward and backward, teacher forward, attention, patch embedding, head and prototypes; of the last block
what [CLS] and query tokens need. The bytes are those
of the block activations if every norm, activation and residual is one kernel and attention is fused (37 transfers of D bf16
numbers per token and layer forward, three times that with the backward pass). No training reaches the limits; they say what
share was reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import common
from common import Row

from mmadclr.models.backbones.query_vit import resolve_arch

# Dense bf16 FLOP/s and memory bytes/s that large kernels reach, below the data sheets' peaks.
DEVICES = {'NVIDIA H200': (790e12, 4.3e12), 'NVIDIA H100': (700e12, 2.9e12), 'NVIDIA A100': (260e12, 1.7e12)}
TRANSFERS = 37


@dataclass(frozen=True)
class StepCost:
    """Of one image in a multi-crop step."""

    embed_dim: int
    depth: int
    patch_size: int
    mlp_ratio: float = 4.0
    num_local: int = 10
    num_query: int = 10
    global_size: int = 224
    local_size: int = 96
    prototypes: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256

    @classmethod
    def of(cls, arch: str | dict, **kwargs) -> StepCost:
        sizes = resolve_arch(arch)
        return cls(
            **{name: sizes[name] for name in ('embed_dim', 'depth', 'patch_size', 'mlp_ratio') if name in sizes}, **kwargs
        )

    def tokens(self) -> tuple[int, int]:
        """Image tokens of a global and of a local view, [CLS] included."""
        return tuple(1 + (size // self.patch_size) ** 2 for size in (self.global_size, self.local_size))

    def blocks(self, rows: int, keys: int, outputs: int) -> float:
        """FLOPs of all blocks, forward, for ``rows`` tokens that attend to ``keys``; the last makes ``outputs`` alone."""
        square = self.embed_dim**2
        full = rows * square * (8 + 4 * self.mlp_ratio) + 4 * rows * keys * self.embed_dim
        last = 4 * rows * square + outputs * square * (4 + 4 * self.mlp_ratio) + 4 * outputs * keys * self.embed_dim
        return (self.depth - 1) * full + last

    def patches(self, rows: int) -> float:
        return 2 * rows * 3 * self.patch_size**2 * self.embed_dim

    def head(self, rows: int) -> float:
        mlp = self.embed_dim * self.hidden_dim + self.hidden_dim**2 + self.hidden_dim * self.bottleneck_dim
        return 2 * rows * (mlp + self.bottleneck_dim * self.prototypes)

    def flops(self) -> float:
        """Per image: three times the student's forward pass (less the gradient of pixels), once the teacher's."""
        in_global, in_local = self.tokens()
        globals_ = 2 * self.blocks(in_global + self.num_query, in_global, 1 + self.num_query)
        locals_ = self.num_local * self.blocks(in_local, in_local, 1)
        global_patches = self.patches(2 * (in_global - 1 + self.num_query))
        local_patches = self.patches(self.num_local * (in_local - 1))
        rows = 2 + 2 * self.num_query
        student = 3 * (globals_ + locals_ + self.head(rows + self.num_local)) + 2 * (global_patches + local_patches)
        return student + globals_ + global_patches + self.head(rows)

    def traffic(self) -> float:
        """Bytes of activations per image."""
        in_global, in_local = self.tokens()
        globals_, locals_ = 2 * (in_global + self.num_query), self.num_local * in_local
        return TRANSFERS * 2 * self.embed_dim * self.depth * (4 * globals_ + 3 * locals_)

    def images_per_second(self, device: str) -> float | None:
        """Without overlap of computing and memory; None for a device that is not listed."""
        known = next((limits for name, limits in DEVICES.items() if device.startswith(name)), None)
        return None if known is None else self.images_per_second_at(*known)

    def images_per_second_at(self, flops: float, bandwidth: float) -> float:
        """At these FLOP/s and bytes/s."""
        return 1 / (self.flops() / flops + self.traffic() / bandwidth)


def main() -> None:
    parser = common.parser(__doc__, arch='vit_small_patch16_224', locals=10, queries=10, prototypes=65536)
    args = parser.parse_args()
    cost = StepCost.of(args.arch, num_local=args.locals, num_query=args.queries, prototypes=args.prototypes)
    plain = StepCost.of(args.arch, num_local=args.locals, num_query=0, prototypes=args.prototypes)
    rows = [
        Row('computing without queries (DINO)', 'GFLOP/image', plain.flops() / 1e9),
        Row('computing', 'GFLOP/image', cost.flops() / 1e9),
        Row('activations moved', 'GB/image', cost.traffic() / 1e9),
        *(Row(f'limit of {name}', 'images/s', cost.images_per_second(name)) for name in DEVICES),
    ]
    common.report('limits', rows, args)


if __name__ == '__main__':
    main()
