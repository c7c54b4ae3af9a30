"""Where a student is compared with its teacher inside the network: the outputs of its stages."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.layer_orders import stages_of

_SMALLEST_VARIANCE = 1e-6


def feature_points(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules whose outputs are compared: the network's stages.

    A network whose spatial convolutions are all in one sequence, as torchvision's ``features``, is compared at that
    sequence's members. A stage that is a bare convolution is left out where others are more: what it gives is scaled
    by the normalization behind it.
    """
    names = list(stages_of(model))
    if len(names) == 1 and isinstance(inner := model.get_submodule(names[0]), nn.Sequential):
        names = [f"{names[0]}.{name}" for name in stages_of(inner)]
    larger = [name for name in names if not isinstance(model.get_submodule(name), nn.Conv2d)]
    return tuple(larger or names)


class FeatureHooks:
    """The last outputs of some modules of a network while it is tapped."""

    def __init__(self, points: Sequence[str]) -> None:
        """Nothing has run yet."""
        self._points = points
        self._found: dict[str, Tensor] = {}

    @contextmanager
    def on(self, model: nn.Module) -> Generator[None]:
        """Keep what the modules give in every forward pass."""
        hooks = [model.get_submodule(point).register_forward_hook(self._keep(point)) for point in self._points]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._found.clear()

    def take(self) -> tuple[Tensor, ...]:
        """The outputs of the last pass, one for each module that ran and gave a tensor; they are kept no longer."""
        found = tuple(self._found[point] for point in self._points if point in self._found)
        self._found.clear()
        return found

    def _keep(self, point: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._found[point] = output

        return hook


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the outputs, each in units of the teacher's variance, averaged over the modules.

    Args:
        student: One output per module, any shapes.
        teacher: Those of the teacher, of the same shapes.

    Returns:
        A scalar; 0 without modules.

    Source:
        Romero et al. 2015, FitNets, arXiv 1412.6550, without the regressor that unequal shapes need.
    """
    shares = [
        (own.float() - wanted.float()).square().mean() / wanted.float().var().clamp_min(_SMALLEST_VARIANCE)
        for own, wanted in zip(student, teacher, strict=True)
    ]
    return torch.stack(shares).mean() if shares else torch.zeros(())
