"""Features of a network: the outputs of its stages, in which a student is compared with its teacher."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.layer_orders import stages_of

_SMALLEST_VARIANCE = 1e-6


def feature_points(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules whose outputs are the features: the network's stages.

    If all spatial convolutions are in one sequence, like torchvision's ``features``, the points are the members of that
    sequence. A stage that is a bare convolution is left out if there are other stages, because the scale of its output
    is arbitrary before the normalization behind it.
    """
    names = list(stages_of(model))
    if len(names) == 1 and isinstance(inner := model.get_submodule(names[0]), nn.Sequential):
        names = [f"{names[0]}.{name}" for name in stages_of(inner)]
    larger = [name for name in names if not isinstance(model.get_submodule(name), nn.Conv2d)]
    return tuple(larger or names)


class FeatureHooks:
    """Forward hooks that store the last outputs of some modules by name, except outputs inside ``torch.vmap``."""

    def __init__(self, points: Sequence[str]) -> None:
        """Store the names of the modules."""
        self._points = points
        self._found: dict[str, Tensor] = {}

    @contextmanager
    def on(self, model: nn.Module) -> Generator[None]:
        """Store the modules' outputs in every forward pass inside the block."""
        hooks = [model.get_submodule(point).register_forward_hook(self._keep(point)) for point in self._points]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._found.clear()

    def take(self) -> dict[str, Tensor]:
        """Return the outputs of the last pass and forget them: module name -> tensor, for those that returned one."""
        found = {point: self._found[point] for point in self._points if point in self._found}
        self._found.clear()
        return found

    def _keep(self, point: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and _has_memory(output):
                self._found[point] = output

        return hook


def _has_memory(output: Tensor) -> bool:
    """Return False for a batch of ``torch.vmap``, which nothing can read behind it."""
    try:
        output.data_ptr()
    except RuntimeError:
        return False
    return True


def feature_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Average over modules the mean squared difference of their outputs, divided by the variance of the teacher's.

    Modules are left out whose outputs are missing in one network, differ in shape, or have no values. The student
    trains and the teacher evaluates, so stochastic depth or a crop in training may cause the first two.

    Args:
        student: Module name -> the student's output, of any shape.
        teacher: The same of the teacher.

    Returns:
        A scalar; 0 without modules.

    Source:
        Romero et al. 2015, FitNets, arXiv 1412.6550, without the regressor that unequal shapes need.
    """
    shares = [
        (own.float() - wanted.float()).square().mean() / _scale(wanted.float()).clamp_min(_SMALLEST_VARIANCE)
        for name, wanted in teacher.items()
        if (own := student.get(name)) is not None and own.shape == wanted.shape and wanted.numel()
    ]
    return torch.stack(shares).mean() if shares else torch.zeros(())


def _scale(wanted: Tensor) -> Tensor:
    """Return the variance of outputs; for a single value, which has none, its square."""
    return wanted.var() if wanted.numel() > 1 else wanted.square().mean()
