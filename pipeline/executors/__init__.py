"""Executors compute the variants of a grid; ``pipeline.options.registry.EXECUTORS`` names their modules.

An executor's module has one function, ``opened(options, interruption)``: a context that makes an ``Executor`` ready
and at the end leaves nothing running. It loads nothing heavy before that.
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

_ALONE = "local"


class Executor(Protocol):
    """Computes variants."""

    def __call__(self, context: RunContext, baseline: Baseline, variants: Sequence[Variant]) -> Iterator[VariantResult]:
        """Give the result of each variant, in their order.

        Args:
            context: The run; its store gets the finished stages of every variant, and its tracker their epochs, in
                the order of the variants.
            baseline: The uncompressed network.
            variants: The networks to compute.

        Raises:
            CompressionError: A variant cannot be computed; the first that is found ends the run.
        """


class _Module(Protocol):
    def opened(self, options: Options, interruption: Interruption) -> AbstractContextManager[Executor]: ...


def executor(options: Options, interruption: Interruption) -> AbstractContextManager[Executor]:
    """The executor that the options name.

    Args:
        options: The run's options.
        interruption: Asked whether to end while the executor is made ready.

    Raises:
        OptionsError: The executor has processes of its own, and a launcher started several.
        CompressionError: On entering: the cluster that the options name cannot be used.
    """
    count = launched().count
    if options.executor != _ALONE and count > 1:
        raise OptionsError(
            f"--executor: got {options.executor} in {count} processes that a launcher started; allowed: {_ALONE}"
        )
    return cast(_Module, EXECUTORS[options.executor].load()).opened(options, interruption)


@contextmanager
def opened(options: Options, interruption: Interruption) -> Iterator[Executor]:
    """There is nothing to prepare."""
    yield _run


def _run(context: RunContext, baseline: Baseline, variants: Sequence[Variant]) -> Iterator[VariantResult]:
    for variant in variants:
        yield run_variant(context, baseline, variant)
