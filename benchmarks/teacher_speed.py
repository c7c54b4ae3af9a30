"""A fine-tuning epoch of ResNet-20 with a teacher against one without, step by step in one run.

The first network of a run asks the teacher about every batch, the later ones find its answers.
"""

import statistics
import time

import torch
from torch.optim import SGD

from basis.preconditioning import filter_space_gradients
from basis.swap import swap_convolutions
from pipeline.acceleration import make_accelerator
from pipeline.config import parse_config
from pipeline.models.registry import build_model
from pipeline.plan import orders_of, plan_layers
from pipeline.randomness import RandomStream
from pipeline.teacher import Teacher
from pipeline.training import Lesson, training_step

BATCH, STEPS, BOUND = 128, 12, 1.6


def main() -> None:
    accelerator = make_accelerator("cpu")
    original = build_model("resnet20", 10).eval().to(memory_format=torch.channels_last)
    model = build_model("resnet20", 10).to(memory_format=torch.channels_last)
    model = swap_convolutions(model, orders_of(plan_layers(model, parse_config("3,3,2,2"))), "cosine")
    prepared, optimizer = accelerator.prepare(model.train(), SGD(model.parameters(), 1e-4, momentum=0.9, nesterov=True))
    teacher, random = Teacher(original, accelerator), RandomStream(0, accelerator.device)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    seconds: dict[str, list[float]] = {"plain": [], "asked": [], "kept": []}
    with filter_space_gradients(model):
        for step in range(-2, STEPS):  # the first two warm up
            for kind, taken in seconds.items():
                start = time.perf_counter()
                answer = None if kind == "plain" else teacher.logits(images, epoch_seed=0, batch_size=BATCH, batch=step)
                training_step(prepared, Lesson(images, labels, answer), optimizer, accelerator, random)
                if step >= 0:
                    taken.append(time.perf_counter() - start)
    plain = statistics.median(seconds["plain"])
    asked, kept = (
        statistics.median(a / b for a, b in zip(seconds[kind], seconds["plain"], strict=True))
        for kind in ("asked", "kept")
    )
    print(
        f"teacher_speed: with a teacher / without: {asked:.2f} where it is asked, {kept:.2f} where its answers are "
        f"kept, {asked / BOUND:.2f} of the bound of {BOUND}; plain step {plain * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
