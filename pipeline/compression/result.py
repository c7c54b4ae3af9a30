"""The result of a compression in memory: the network, its figures and its file."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from basis.copying import copy_network
from basis.least_squares import Size2d
from pipeline.artifact.record import NetworkRecord
from pipeline.artifact.summary import LayerBits
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import LayerPlan
from pipeline.options.paths import expanded, parse_output_path
from pipeline.stages.layers import kept_part
from pipeline.stages.quantize import kept_terms
from reports.files import write_atomically

logger = logging.getLogger(__name__)

Metric: TypeAlias = Callable[[nn.Module], Any]
"""A function of a network that returns a number."""


@dataclass(frozen=True)
class LayerFigures:
    """The figures of a convolution or linear layer.

    Attributes:
        name: As in ``named_modules`` of the network.
        kernel: Taps (kh, kw); None for a linear layer.
        order: Terms kept (nh, nw); None for a layer without a series. With a target, the smallest order that holds
            every coefficient other than zero.
        status: ``compressed``, ``full`` (as many terms as taps) or ``kept``.
        reason: Explanation of the status.
        fit_error: Relative output error ``||Y - Y'|| / ||Y||`` of the fit; None for layers without a fit.
        rounding_error: Relative output error of the rounding; None without rounding. With a target it includes the
            fit.
        size: Bytes of the layer's coded values in the file, without its bias; None without rounding.
    """

    name: str
    kernel: Size2d | None
    order: Size2d | None
    status: str
    reason: str
    fit_error: float | None
    rounding_error: float | None
    size: float | None


@dataclass(frozen=True, eq=False)
class CompressionResult:
    """A compressed network, its figures and its file.

    Attributes:
        network: The compressed network, in evaluation mode, on the device of the original. With ``bits`` or
            ``target_mb`` it has ordinary convolutions. Otherwise it has ``basis.SeriesConv2d`` with float coefficients,
            which can be trained further.
        layers: The figures of every convolution and linear layer, in the order of the network.
        size: Size of the file that ``save`` writes, in bytes. A file without rounding holds plain filters.
        baseline_size: Size of the same file of the original network in float32, in bytes.
        metric: The caller's metric of the compressed network; None without a metric, or if it failed.
        baseline_metric: The caller's metric of the original network; None without a metric.
        training_undone: True if training was rolled back. The loss on held-out images did not fall enough; or, with a
            target, the file missed its size or lost too much on these images.
        target_met: False if no rounding was found whose file has 97 % to 100 % of ``target_mb``; the nearest is used.
        content: The bytes of the file; ``docs/artifact.md`` specifies them.
    """

    network: nn.Module = field(repr=False)
    layers: tuple[LayerFigures, ...] = field(repr=False)
    size: int
    baseline_size: int
    metric: float | None
    baseline_metric: float | None
    training_undone: bool
    target_met: bool
    content: bytes = field(repr=False)

    @property
    def size_mb(self) -> float:
        """Size of the file in MB (10^6 bytes)."""
        return self.size / 1e6

    def save(self, path: Path | str) -> Path:
        """Write the file atomically. ``pipeline.load(path, network=...)`` reads it into the caller's own class.

        Returns:
            The path; ``~`` at its beginning is replaced by the home folder.

        Raises:
            OptionsError: ``path`` is no path, or an address.
            OSError: The file cannot be written; an earlier file of that name is left unchanged.
        """
        return write_atomically(expanded(parse_output_path("save", path)), self.content)


def layer_figures(
    plan: Sequence[LayerPlan],
    record: NetworkRecord,
    sizes: Mapping[str, LayerBits],
    fit_errors: Mapping[str, float],
    rounding_errors: Mapping[str, float],
    *,
    target: bool,
) -> tuple[LayerFigures, ...]:
    """Join the figures of all layers.

    Args:
        plan: The plan of every layer.
        record: The compressed network.
        sizes: Layer name -> its bits in the artifact.
        fit_errors: Layer name -> relative output error of the fit.
        rounding_errors: Layer name -> relative output error of the rounding.
        target: True if the layers were rounded to a target, which decides the kept terms.
    """
    terms = {layer.name: kept_terms(layer) for layer in record.layers if layer.order is not None}
    found = []
    for layer in plan:
        bits = sizes.get(layer.name)
        part = kept_part(layer, terms.get(layer.name)) if target else None
        order = layer.order if part is None else part.order
        status, reason = (layer.status, layer.reason) if part is None else (part.status, part.reason)
        found.append(
            LayerFigures(
                layer.name,
                layer.kernel,
                order,
                status,
                reason,
                fit_errors.get(layer.name),
                rounding_errors.get(layer.name),
                None if bits is None else (bits.integers + bits.scales) / 8,
            )
        )
    return tuple(found)


def measured(metric: Metric | None, network: nn.Module) -> float | None:
    """Return the metric of a copy of a network, so that the metric can change nothing.

    Raises:
        OptionsError: The metric is no number.
    """
    if metric is None:
        return None
    value: Any = metric(copy_network(network))
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last for a tensor of several values
        raise OptionsError(f"metric: returned a {type(value).__name__}; allowed: one number") from None


def measured_or_none(metric: Metric | None, network: nn.Module) -> float | None:
    """Return the metric of a compressed network; None, with a warning, if it fails, so that no work is lost."""
    try:
        return measured(metric, network)
    except Exception as error:  # code of users raises anything
        logger.warning("metric: failed for the compressed network: %s: %s", type(error).__name__, error)
        return None
