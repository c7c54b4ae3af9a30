"""The closed-form fit of a whole network against 600 steps of Adam on the same tensors."""

import statistics
import time

import torch
import torchvision
from torch import Tensor

from basis import basis_matrix, fit, reconstruct
from basis.swap import compressible_convolutions

BASIS = "cosine"
ORDERS = {"conv1": 6, "layer1": 3, "layer2": 3, "layer3": 2, "layer4": 2}
ADAM_STEPS = 600
LEARNING_RATE = 1e-2

Layers = list[tuple[Tensor, int]]


def resnet18_layers() -> Layers:
    """Return the weight and the order of each spatial convolution; the time does not depend on the random values."""
    torch.manual_seed(0)
    convolutions = compressible_convolutions(torchvision.models.resnet18())
    return [(conv.weight.detach(), ORDERS[name.split(".")[0]]) for name, conv in convolutions.items()]


def fit_by_adam(weight: Tensor, order: int) -> Tensor:
    """Fit like the authors: by gradient steps on the squared error, with a cosine decay of the learning rate."""
    matrix = basis_matrix(BASIS, weight.shape[-1], order).to(weight)
    coefficients = torch.zeros(*weight.shape[:2], order, order, requires_grad=True)
    optimizer = torch.optim.Adam([coefficients], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ADAM_STEPS)
    for _ in range(ADAM_STEPS):
        optimizer.zero_grad()
        (matrix @ coefficients @ matrix.T - weight).square().sum().backward()
        optimizer.step()
        schedule.step()
    return coefficients.detach()


def relative_error(layers: Layers, fitted: list[Tensor]) -> float:
    """||W - B A B^T|| / ||W|| over all layers together."""
    error = norm = 0.0
    for (weight, _), coefficients in zip(layers, fitted, strict=True):
        kernels = reconstruct(coefficients.double(), BASIS, (weight.shape[2], weight.shape[3]))
        error += float((kernels - weight).square().sum())
        norm += float(weight.double().square().sum())
    return (error / norm) ** 0.5


def timed_closed_form(layers: Layers) -> tuple[list[Tensor], float]:
    start = time.perf_counter()
    fitted = [fit(weight, BASIS, (order, order)) for weight, order in layers]
    return fitted, time.perf_counter() - start


def main() -> None:
    layers = resnet18_layers()
    first = timed_closed_form(layers)[1]
    before = [timed_closed_form(layers)[1] for _ in range(7)]
    start = time.perf_counter()
    by_adam = [fit_by_adam(weight, order) for weight, order in layers]
    adam_seconds = time.perf_counter() - start
    after = [timed_closed_form(layers)[1] for _ in range(8)]
    seconds = statistics.median([*before, *after])
    ours, theirs = relative_error(layers, timed_closed_form(layers)[0]), relative_error(layers, by_adam)
    print(
        f"fit_speed: closed form {seconds:.3f} s (first call {first:.3f} s), {ADAM_STEPS} Adam steps "
        f"{adam_seconds:.1f} s, ratio {adam_seconds / seconds:.0f}, relative error {ours:.8f} and {theirs:.8f}"
    )


if __name__ == "__main__":
    main()
