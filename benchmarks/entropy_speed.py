"""Entropy coder: seconds to size, encode and decode 11 million integers of ResNet-18, and bytes over the entropy."""

from collections.abc import Sequence

import numpy as np
from artifact_speed import median_seconds

from quant.entropy import coded_sizes, decode, encode

# Input channels, output channels, order and number of the convolutions of ResNet-18 at 6,3,3,2,2.
RESNET18 = [(3, 64, 6, 1), (64, 64, 3, 4), (64, 128, 3, 1), (128, 128, 3, 3), (128, 256, 2, 1), (256, 256, 2, 3)]
RESNET18 += [(256, 512, 2, 1), (512, 512, 2, 3)]
# The same for ResNet-20 at 3,3,2,2.
RESNET20 = [(3, 16, 3, 1), (16, 16, 3, 6), (16, 32, 3, 1), (32, 32, 2, 5), (32, 64, 2, 1), (64, 64, 2, 5)]
ENCODE_BOUND, DECODE_BOUND = 3.0, 0.7  # seconds


def integers(layers: Sequence[tuple[int, int, int, int]]) -> list[np.ndarray]:
    """Return integers of 4 bits, a group per term, and scales, a group per layer."""
    generator = np.random.default_rng(0)
    groups = []
    for inputs, outputs, order, count in layers:
        for _ in range(count):
            for term in range(order**2):
                values = generator.laplace(0, 2.4 / (1 + 0.2 * term), inputs * outputs)
                groups.append(np.clip(values.round(), -8, 7).astype(np.int32))
            groups.append(generator.normal(-60, 8, outputs).round().astype(np.int32))
    return groups


def entropy(groups: list[np.ndarray]) -> float:
    """Return the bytes of the groups by the frequencies of each."""
    counts = [np.unique(group, return_counts=True)[1] for group in groups]
    return float(sum(-(count * np.log2(count / count.sum())).sum() for count in counts)) / 8


def main() -> None:
    small, large = integers(RESNET20), integers(RESNET18) * 2
    data, counts = encode(large), [group.size for group in large]
    size, write = median_seconds(lambda: coded_sizes(small)), median_seconds(lambda: encode(large))
    read = median_seconds(lambda: decode(data, counts))
    over = [len(encode(groups)) / entropy(groups) - 1 for groups in (small, large[: len(large) // 2])]
    print(
        f"entropy_speed: {sum(counts) / 1e6:.1f} million integers: encode {write:.2f} s ({write / ENCODE_BOUND:.2f} "
        f"of the bound), decode {read:.2f} s ({read / DECODE_BOUND:.2f}); sizes of ResNet-20 {1e3 * size:.0f} ms; "
        f"over the entropy: ResNet-20 {over[0]:.2%}, ResNet-18 {over[1]:.2%}"
    )


if __name__ == "__main__":
    main()
