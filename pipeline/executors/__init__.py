"""Run the variants of a grid: in this process, or on the executor that the options name.

``pipeline.options.registry.EXECUTORS`` maps each name to a module. The module has one function,
``opened(options, interruption)``: a context manager that starts an ``Executor`` and stops all its processes at the end.
A library of an executor is imported only with its module. The executor ``local`` is in this module.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, cast

from pipeline.errors import OptionsError
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.options.registry import EXECUTORS
from pipeline.runtime.launcher import launched
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext
from pipeline.stages.variant import VariantResult, run_variant

_LOCAL = "local"


class Executor(Protocol):
    """Compute variants."""

    def __call__(self, context: RunContext, baseline: Baseline, variants: Sequence[Variant]) -> Iterator[VariantResult]:
        """Yield the result of each variant, in their order.

        Args:
            context: The run. The finished stages of every variant are added to its store and the epochs to its
                tracker, in the order of the variants.
            baseline: The uncompressed network.
            variants: The variants to compute.

        Raises:
            CompressionError: A variant cannot be computed; the first such error ends the run.
        """


class _Module(Protocol):
    def opened(self, options: Options, interruption: Interruption) -> AbstractContextManager[Executor]: ...


def executor(options: Options, interruption: Interruption) -> AbstractContextManager[Executor]:
    """Return the executor that the options name, not yet started.

    Args:
        options: The run's options.
        interruption: Pending stop request, checked while the executor starts.

    Raises:
        OptionsError: The executor starts processes itself, and a launcher started several processes too.
        ClusterError: When the context is entered, if the cluster that the options name cannot be used.
    """
    count = launched().count
    if options.executor != _LOCAL and count > 1:
        raise OptionsError(
            f"--executor: got {options.executor} in {count} processes that a launcher started; allowed: {_LOCAL}"
        )
    return cast(_Module, EXECUTORS[options.executor].load()).opened(options, interruption)


@contextmanager
def opened(options: Options, interruption: Interruption) -> Iterator[Executor]:
    """Yield the executor ``local``, which computes one variant after another in this process."""
    yield _run_variants


def _run_variants(context: RunContext, baseline: Baseline, variants: Sequence[Variant]) -> Iterator[VariantResult]:
    for variant in variants:
        yield run_variant(context, baseline, variant)
