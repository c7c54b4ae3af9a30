"""One variant after the other, in this process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.executors import Executor
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.runtime.signals import Interruption
from pipeline.stages.context import Bench
from pipeline.stages.variant import VariantResult, run_variant


@contextmanager
def opened(options: Options, interruption: Interruption) -> Iterator[Executor]:
    """There is nothing to prepare."""
    yield _run


def _run(options: Options, bench: Bench, variants: Sequence[Variant]) -> Iterator[VariantResult]:
    for variant in variants:
        yield run_variant(options, variant, bench)
