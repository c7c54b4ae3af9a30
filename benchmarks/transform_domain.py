"""Rounding to equal bytes in the domain of the series and in the spatial domain: KL divergence and Top-1.

ResNet-20 on CIFAR-10 from `$SERIESQUANT_DATA`, 1,000 calibration images, no training. On 3 taps, the orthonormalized
cosine and Chebyshev bases and the orthonormal DCT are the same matrix up to signs. Bytes are the predicted bytes of the
integers. The divergence is KL(uncompressed, compressed) on 5,000 training images that are not used otherwise.
"""

import copy
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from basis.swap import compressible_convolutions, swap_convolutions
from pipeline.data.sources import load_dataset
from pipeline.models.registry import build_model
from pipeline.models.weights import load_weights
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import RatePlan, entropy_bits
from quant.rate_rounding import round_network

KILOBYTES = (57.5, 47.5, 37.5, 27.5)
CALIBRATION_IMAGES, JUDGED_IMAGES = 1000, 5000


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(250)])


def divergence(model: nn.Module, wanted: Tensor, images: Tensor) -> float:
    found = logits(model, images).log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


def main() -> None:
    folder = os.environ.get("SERIESQUANT_DATA")
    if folder is None:
        sys.exit(
            "transform_domain: SERIESQUANT_DATA is not set; allowed: the folder with cifar10.npz and the checkpoint"
        )
    data = load_dataset(str(Path(folder) / "cifar10.npz"))
    original = build_model("resnet20", data.classes)
    load_weights(original, Path(folder) / "resnet20-12fca82f.th")
    original.eval()
    drawn = data.train.sample(CALIBRATION_IMAGES + JUDGED_IMAGES, seed=0, device=torch.device("cpu"))
    calibration, judged = drawn[:CALIBRATION_IMAGES], drawn[CALIBRATION_IMAGES:]
    wanted = logits(original, judged).log_softmax(1)
    orders = {name: conv.kernel_size for name, conv in compressible_convolutions(original).items()}
    series = swap_convolutions(copy.deepcopy(original), orders, "cosine").eval()  # type: ignore[arg-type]
    for domain, model in (("series", series), ("spatial", copy.deepcopy(original))):
        recorded = OriginalPass.record(model, original, calibration)
        plan = RatePlan.of(model, measure_layers(model, recorded))
        for size in KILOBYTES:
            rounded = round_network(model, recorded, plan, 8000 * size)
            taken = sum(entropy_bits(tensor) for tensor in rounded.layers.values()) / 8
            correct = sum(
                int((logits(rounded.model, x).argmax(1) == labels).sum())
                for x, labels in data.test.batches(250, device=torch.device("cpu"))
            )
            print(
                f"transform_domain: {domain}, {taken:,.0f} bytes of integers: KL "
                f"{divergence(rounded.model, wanted, judged):.4f}, Top-1 {100 * correct / len(data.test):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
