"""A step of ResNet-20 that imitates a teacher and divides by what layers see against one on labels, step by step."""

import statistics
import time

import torch
from torch.optim import SGD

from basis.preconditioning import preconditioned_gradients
from basis.swap import swap_convolutions
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.models.registry import build_model
from pipeline.options.orders import parse_config
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.randomness import RandomStream
from pipeline.training.features import FeatureHooks
from pipeline.training.loop import FEATURE_WEIGHT
from pipeline.training.step import TrainingBatch, training_step
from pipeline.training.teacher import Teacher

BATCH, STEPS, BOUND = 128, 12, 1.6


def main() -> None:
    accelerator = make_accelerator("cpu")
    original = build_model("resnet20", 10).eval().to(memory_format=torch.channels_last)
    model = build_model("resnet20", 10).to(memory_format=torch.channels_last)
    model = swap_convolutions(model, orders_of(plan_layers(model, parse_config("3,3,2,2"))), "cosine")
    prepared, optimizer = accelerator.prepare(model.train(), SGD(model.parameters(), 1e-4, momentum=0.9, nesterov=True))
    teacher, random = Teacher(original, accelerator, mirrored=True), RandomStream(0, accelerator.device)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    seconds: dict[str, list[float]] = {"plain": [], "taught": []}
    hooks = {"plain": FeatureHooks(()), "taught": FeatureHooks(teacher.points)}
    inverses = {"plain": {}, "taught": teacher.inverse_input_covariance(model, images)}
    for step in range(-2, STEPS):  # the first two warm up
        for kind, taken in seconds.items():
            with hooks[kind].on(model), preconditioned_gradients(model, inverses[kind]):
                start = time.perf_counter()
                target = None
                if kind == "taught":
                    target = teacher.output(images, data="", epoch_seed=step, batch_size=BATCH, batch=0)
                training_step(
                    prepared,
                    TrainingBatch(images, labels, target, FEATURE_WEIGHT),
                    hooks[kind],
                    optimizer,
                    accelerator,
                    random,
                )
                if step >= 0:
                    taken.append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(seconds["taught"], seconds["plain"], strict=True))
    print(
        f"teacher_speed: with a teacher / without: {ratio:.2f}, {ratio / BOUND:.2f} of the bound of {BOUND}; "
        f"plain step {statistics.median(seconds['plain']) * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
