"""Rounding to equal bytes in three domains of the filters: KL divergence and Top-1.

ResNet-20 on CIFAR-10 from `$SERIESQUANT_DATA`, 1,000 calibration images, no training. The domains are the series, the
taps of the kernel (spatial), and the eigenvectors of the covariance of a slice's inputs, which is the mean over a
layer's input channels. On 3 taps, the orthonormalized cosine and Chebyshev bases and the orthonormal DCT are the same
matrix up to signs. Bytes are those of the coded integers and their tables. The divergence is KL(uncompressed,
compressed) on 5,000 training images that are not used otherwise.
"""

import copy
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from basis.conv import SeriesConv2d
from basis.modes import evaluation_mode
from basis.swap import compressible_convolutions, swap_convolutions
from pipeline.artifact.groups import block_of
from pipeline.data.sources import load_dataset
from pipeline.models.registry import build_model
from pipeline.models.weights import load_weights
from quant import entropy
from quant.coarse_scales import with_coarse_scales
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import RatePlan
from quant.rate_rounding import RoundedNetwork, round_network

KILOBYTES = (57.5, 47.5, 37.5, 27.5)
CALIBRATION_IMAGES, JUDGED_IMAGES, COVARIANCE_IMAGES = 1000, 5000, 200


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(250)])


def divergence(model: nn.Module, wanted: Tensor, images: Tensor) -> float:
    found = logits(model, images).log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


@torch.no_grad()
def in_eigenvectors(series: nn.Module, images: Tensor) -> nn.Module:
    """Return the network of full orders with the eigenvectors of the inputs' covariance in place of the basis."""
    model = copy.deepcopy(series)
    layers = [layer for layer in model.modules() if isinstance(layer, SeriesConv2d)]
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(lambda module, x: inputs.update({module: x[0]})) for layer in layers]
    with evaluation_mode(model):
        model(images)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        assert isinstance(layer.padding, tuple)
        kernels, taps = layer.filters(), layer.kernel_size[0] * layer.kernel_size[1]
        x = nn.functional.unfold(inputs[layer], layer.kernel_size, padding=layer.padding, stride=layer.stride)
        slices = x.unflatten(1, (-1, taps)).permute(1, 2, 0, 3).flatten(2).double()
        centered = slices - slices.mean(2, keepdim=True)
        vectors = torch.linalg.eigh((centered @ centered.mT).mean(0)).eigenvectors.flip(1)
        layer.operator.copy_(vectors)
        layer.coefficients.copy_((kernels.flatten(2).double() @ vectors).view_as(kernels))
    return model


def coded_bytes(rounded: RoundedNetwork) -> float:
    _, blocks = entropy.coded_sizes([], [block_of(layer.integers) for layer in rounded.layers.values()])
    return sum(sum(block.terms) + block.offsets for block in blocks) / 8


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
    eigenvectors = in_eigenvectors(series, calibration[:COVARIANCE_IMAGES])
    for domain, given in (("series", series), ("spatial", original), ("eigenvectors", eigenvectors)):
        recorded = OriginalPass.record(given, original, calibration)
        model = with_coarse_scales(given, recorded)
        plan = RatePlan.of(model, measure_layers(model, recorded))
        for size in KILOBYTES:
            rounded = round_network(model, recorded, plan, 8000 * size)
            taken = coded_bytes(rounded)
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
