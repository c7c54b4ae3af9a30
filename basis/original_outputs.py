"""Record the original network's outputs at sampled positions, and the other operands of its residual additions."""

import weakref
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from basis.additions import Addition, Additions
from basis.chunks import in_chunks
from basis.layers import as_maps, geometry
from basis.modes import evaluation_mode, unobserved
from basis.parts import SampledRuns
from basis.patches import Sample, samples
from basis.readers import OtherReaders
from basis.routing import on_all_ranks, routed_layers, warn_of_routing
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard


class OriginalOutputs(NamedTuple):
    """Rows of the original network at the sampled positions, (groups, rows, O / groups).

    Attributes:
        outputs: Layer name -> outputs of its first run, or of all runs if each gets a part of the images; see
            ``basis.parts``. Layers that run on some of the images alone are left out; see ``basis.routing``.
        shortcuts: Layer name -> the other operand of the addition that reads the layer's output, directly or after the
            normalization in ``norms``. Only layers that run once; empty if additions are not recorded.
        norms: Layer name -> name of the batch normalization with running statistics that alone reads the layer's
            output, as the layer has left it. Only layers with outputs, and layers and normalizations that run once.
    """

    outputs: dict[str, Tensor]
    shortcuts: dict[str, Tensor]
    norms: dict[str, str]


def original_outputs(
    original: nn.Module,
    seeds: Mapping[str, int],
    images: Tensor,
    shard: CalibrationShard,
    sampling: SamplingConfig,
    *,
    additions: bool,
) -> OriginalOutputs:
    """Run the original network, in eval mode and in chunks of images, and record its outputs.

    Args:
        original: The network before the swap.
        seeds: Layer name -> seed of its sampled positions.
        images: Training images, (N, C, H, W).
        shard: Calibration shard of this rank.
        sampling: Sizes of samples and chunks.
        additions: Record shortcuts, too.
    """
    norms: dict[str, str] = {}
    lengths: dict[str, list[int]] = {}
    count = 0

    def compute(chunk: Tensor, part: CalibrationShard) -> dict[tuple[str, str], Tensor]:
        nonlocal norms, lengths, count
        recorder = _Recorder(original, seeds, part, sampling)
        recorder.run(chunk, additions=additions)
        recorded = recorder.recorded()
        norms = recorded.norms
        lengths, count = recorder.sampled.lengths, len(chunk)
        kinds = ("output", recorded.outputs), ("shortcut", recorded.shortcuts)
        return {(kind, name): rows for kind, kept in kinds for name, rows in kept.items()}

    rows = in_chunks(images, shard, compute, sampling)
    outputs, shortcuts = (
        {name: some for (kind, name), some in rows.items() if kind == wanted} for wanted in ("output", "shortcut")
    )
    routed = routed_layers(original, lengths, images, count)
    kept = on_all_ranks(seeds, outputs.keys() - routed, shard)
    for name in sorted(lengths.keys() - set(kept)):
        warn_of_routing(name)
    norms = {name: norm for name, norm in norms.items() if name in kept}
    return OriginalOutputs({name: outputs[name] for name in outputs if name in kept}, shortcuts, norms)


class _LastOutput(NamedTuple):
    output: Tensor
    chosen: list[Sample]
    groups: int


class _Recorder:
    """Hooks of one forward pass of the original network.

    Attributes:
        sampled: The outputs.
    """

    def __init__(
        self, original: nn.Module, seeds: Mapping[str, int], shard: CalibrationShard, sampling: SamplingConfig
    ) -> None:
        self._original, self._seeds, self._shard, self._sampling = original, seeds, shard, sampling
        self.sampled = SampledRuns(shard)
        self._shortcuts: dict[str, tuple[bool, Tensor]] = {}
        self._last: dict[str, _LastOutput] = {}  # at most one layer
        self._runs: Counter[str] = Counter()
        self._norms_of: dict[str, list[str]] = {}
        self._readers = OtherReaders()
        # A reference to this object would keep the maps of the pass until the garbage collector runs.
        self._additions = Additions(partial(_Recorder.on_addition, weakref.proxy(self)))

    def run(self, images: Tensor, *, additions: bool) -> None:
        modules = dict(self._original.named_modules())
        with ExitStack() as hooks:
            for name in self._seeds:
                hooks.callback(modules[name].register_forward_hook(partial(self.on_output, name)).remove)
            for name, module in modules.items():
                if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.running_mean is not None:
                    hooks.callback(module.register_forward_pre_hook(partial(self.on_norm_input, name)).remove)
                    hooks.callback(module.register_forward_hook(self.on_norm_output).remove)
            hooks.enter_context(self._readers)
            if additions:
                hooks.enter_context(self._additions)
            hooks.enter_context(evaluation_mode(self._original))
            # Before the hooks of the caller, of which one may select some of the outputs.
            hooks.callback(self._original.register_forward_hook(self.on_end, prepend=True).remove)
            self._readers.returned(self._original(images))

    @torch.no_grad()  # a forward may enable gradients
    def on_output(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        conv, maps = geometry(module), as_maps(module, inputs[0])
        choose = partial(samples, conv, maps, seed=self._seeds[name], sampling=self._sampling)
        outputs = as_maps(module, output)
        with unobserved():
            self.sampled.add(name, len(maps), lambda shard: _sampled(outputs, choose(shard=shard), conv.groups))
        if not len(maps):
            return
        self._runs[name] += 1
        self._last.clear()
        if isinstance(module, nn.Conv2d):
            with unobserved():
                self._last[name] = _LastOutput(output, choose(shard=self._shard), module.groups)
            self._additions.watch(name, output)
            self._readers.watch(name, output)

    def on_norm_input(self, norm: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._readers.paused = True
        self._runs[norm] += 1
        name = self._readers.layer_of(inputs[0])
        if name is not None:
            self._norms_of.setdefault(name, []).append(norm)

    def on_norm_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._readers.paused = False

    def on_end(self, module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        self._readers.returned(outputs)

    @torch.no_grad()  # a forward may enable gradients
    def on_addition(self, addition: Addition) -> None:
        last = self._last[addition.name]
        with unobserved():
            self._shortcuts[addition.name] = addition.normalized, _sampled(addition.other, last.chosen, last.groups)

    def recorded(self) -> OriginalOutputs:
        runs = self._runs
        alone = {name: found[0] for name, found in self._norms_of.items() if len(found) == 1}
        once = {name: norm for name, norm in alone.items() if runs[name] == runs[norm] == 1}
        norms = {name: norm for name, norm in once.items() if name not in self._readers.names}
        shortcuts = {
            name: rows
            for name, (normalized, rows) in self._shortcuts.items()
            if runs[name] == 1 and normalized == (name in norms)
        }
        return OriginalOutputs(self.sampled.rows(), shortcuts, norms)


def _sampled(outputs: Tensor, chosen: list[Sample], groups: int) -> Tensor:
    return torch.cat([sample.of(outputs.float(), groups) for sample in chosen], dim=1)
