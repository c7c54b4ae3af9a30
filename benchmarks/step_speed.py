"""A training step of a series ResNet-20 against the dense network's, alternating in one run."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from basis import swap_convolutions
from basis.swap import compressible_convolutions
from pipeline.models.registry import build_model

BATCH = 128
ROUNDS = 6
CONFIGS = {"3,3,2,2": (3, 3, 2, 2), "3,3,3,2": (3, 3, 3, 2)}

Step = Callable[[bool], None]


def resnet20(orders: tuple[int, ...] | None) -> nn.Module:
    """ResNet-20 for CIFAR-10, dense or with one order per stage."""
    torch.manual_seed(0)
    model = build_model("resnet20", 10).to(memory_format=torch.channels_last)
    if orders is None:
        return model
    stages = dict(zip(("conv1", "layer1", "layer2", "layer3"), orders, strict=True))
    plan = {name: (stages[name.split(".")[0]],) * 2 for name in compressible_convolutions(model)}
    return swap_convolutions(model, plan, "cosine")


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Forward, backward and SGD, with or without bf16 autocast."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def timed(step: Step, bf16: bool) -> float:
    start = time.perf_counter()
    step(bf16)
    return time.perf_counter() - start


def main() -> None:
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    configs: dict[str, tuple[int, ...] | None] = {"dense": None, **CONFIGS}
    steps = {name: training_step(resnet20(orders).train(), images, labels) for name, orders in configs.items()}
    seconds: dict[tuple[str, bool], list[float]] = {(name, bf16): [] for name in steps for bf16 in (False, True)}
    for round_ in range(ROUNDS + 1):
        for name, bf16 in seconds:
            elapsed = timed(steps[name], bf16)
            if round_ > 0:  # the first warms up
                seconds[name, bf16].append(elapsed)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    dense = {bf16: median["dense", bf16] for bf16 in (False, True)}
    # A ratio within each round cancels what other processes take from the machine meanwhile.
    ratios = ", ".join(
        f"{name} {'bf16' if bf16 else 'float32'} "
        f"{statistics.median(a / b for a, b in zip(values, seconds['dense', bf16], strict=True)):.3f}"
        for (name, bf16), values in seconds.items()
        if name != "dense"
    )
    print(
        f"step_speed: series / dense: {ratios}; dense step {dense[False] * 1e3:.0f} ms in float32, "
        f"{dense[True] * 1e3:.0f} ms in bf16 autocast, float32 / bf16 {dense[False] / dense[True]:.2f}"
    )


if __name__ == "__main__":
    main()
