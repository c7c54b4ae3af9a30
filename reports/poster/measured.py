"""Figures of runs that belong beside the poster's: one measurement per row and settings."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from reports.fields import Settings
from reports.merging.reading import Source
from reports.merging.rows import differing
from reports.model import DENSE, Row
from reports.poster.figures import POSTER_BASELINES, is_posters_data, orders_of
from reports.poster.printed import CONVNEXT_COMPRESSIBLE, TITLES, Figure, Printed
from reports.poster.settings import baseline_words, fit_words, quantization_words, training_words
from reports.poster.tables import has_posters_baseline
from reports.text import model_name, points

_DIGITS = 6
_COUNTS: Final[tuple[Figure, ...]] = ("params", "percent")


class PosterError(ValueError):
    """Two runs with equal settings differ in a figure of the poster's tables."""


@dataclass(frozen=True)
class Measurement:
    """Figures of one row of a run, or of the uncompressed network.

    Attributes:
        model: Network.
        basis: Basis; ``dense`` for the uncompressed network.
        config: Orders, ``dense`` or ``all``.
        bits: Bits, for the quantization table; None for the tables of Top-1.
        fit: Fit of the row; None without a series.
        seed: Seed of the run.
        fitted: Settings that affect the fit.
        trained: Further settings that affect the other figures.
        figures: The figures that were measured, in the printed units.
        run: Folder of the run.
        tuned: True if the row was fine-tuned.
        counts: True for numbers of parameters alone, of a run whose baseline is not the poster's.
    """

    model: str
    basis: str
    config: str
    bits: int | None
    fit: str | None
    seed: int | None
    fitted: str
    trained: str
    figures: dict[Figure, float] = field(hash=False)
    run: str = field(compare=False)
    tuned: bool = False
    counts: bool = False

    @property
    def settings(self) -> str:
        """Settings in words."""
        return ", ".join(part for part in (self.fitted, self.trained) if part)

    def fills(self, model: str, printed: Printed) -> bool:
        """Return True if the measurement belongs to a printed row of a network, and has one of its figures."""
        if (self.model, self.bits) != (model, printed.bits) or not self.figures.keys() & printed.figures.keys():
            return False
        return self.basis in (printed.bases or (DENSE,)) and _same_config(self.config, printed.config)


def unused_reason(source: Source) -> str | None:
    """Return the reason why no row of a run belongs beside the poster's, in words; None if a row may."""
    run, data = source.run, source.run.dataset
    if run.model is not None and data is not None and is_posters_data(run.model, data.name, data.classes):
        return None
    where = f" on {data.name} of {data.classes:,} classes" if data else ""
    return f"the poster has no table of {model_name(run.model)}{where}"


def reason_for_counts_alone(source: Source) -> str | None:
    """Return the reason why only the numbers of parameters of a run belong beside the poster's; None if all figures do.

    Args:
        source: A run for which ``unused_reason`` is None.
    """
    run = source.run
    if has_posters_baseline(run, source.baseline):
        return None
    printed = points(POSTER_BASELINES[run.model or ""])
    return f"its baseline has {points(source.baseline.top1)}, and the poster's {printed}"


def measurements(sources: Sequence[Source]) -> list[Measurement]:
    """Return the measurements of runs, each settings and row once.

    A run without fine-tuning is left out where a fine-tuned one has the same fit and the same figures after it. Numbers
    of parameters alone are left out where another run has further figures.

    Args:
        sources: Runs for which ``unused_reason`` is None.

    Raises:
        PosterError: Two runs with equal settings differ in a figure.
    """
    counted = [source for source in sources if reason_for_counts_alone(source)]
    full = [source for source in sources if not reason_for_counts_alone(source)]
    every = [
        each for source, settings in zip(full, _differing(full), strict=True) for each in _of_run(source, settings)
    ]
    every += [_counts_of(each) for source in counted for each in _of_run(source, {})]
    found: dict[tuple[object, ...], Measurement] = {}
    for each in every:
        known = found.setdefault((each.model, each.basis, each.config, each.bits, each.settings), each)
        _check_equal(known, each)
    return [each for each in found.values() if not _is_repeated(each, list(found.values()))]


def _differing(sources: Sequence[Source]) -> list[Settings]:
    """Return for each run the settings in which the runs of its network differ, and the origin of the weights."""
    groups: defaultdict[str | None, list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        groups[source.run.model].append(place)
    found: list[Settings] = [{} for _ in sources]
    for places in groups.values():
        runs = [sources[place].run for place in places]
        origins = {run.weights for run in runs}
        for place, settings in zip(places, differing(runs), strict=True):
            found[place] = settings | ({"weights": sources[place].run.weights} if len(origins) > 1 else {})
    return found


def _of_run(source: Source, settings: Settings) -> Iterator[Measurement]:
    run, model = source.run, source.run.model or ""
    words = baseline_words(source, settings)
    top1 = {"post": source.baseline.top1, "delta": 0.0, "params": _million(model, source.baseline.params)}
    yield Measurement(
        model, DENSE, DENSE, None, None, run.seed, words, "", _known(top1 | {"percent": 100.0}), str(source.path)
    )
    for row in source.rows:
        if row.bits is None:  # the poster has no rows of a target
            continue
        basis = DENSE if row.is_dense else row.basis
        common = (row.fit, run.seed, fit_words(source, row, settings))
        training, tuned = training_words(source, row, settings), row.epochs > 0
        if not row.is_dense:
            figures = _top1_figures(model, row)
            yield Measurement(model, basis, row.config, None, *common, training, figures, str(source.path), tuned)
        if model == "resnet18":
            more = f"{training}, {quantization_words(row, settings)}"
            figures = _quantized_figures(source, row)
            yield Measurement(model, basis, row.config, row.bits, *common, more, figures, str(source.path), tuned)


def _counts_of(each: Measurement) -> Measurement:
    figures = {name: each.figures[name] for name in _COUNTS if name in each.figures}
    return replace(each, fit=None, seed=None, fitted="parameters alone", trained="", figures=figures, counts=True)


def _top1_figures(model: str, row: Row) -> dict[Figure, float]:
    """Return the figures of a row in a table of Top-1; without fine-tuning nothing is known of Post."""
    tuned = {"post": row.top1_post, "delta": row.delta_post} if row.epochs else {}
    if model == "convnext_tiny":
        kept = row.compressible_params
        percent = None if kept is None else 100 * kept / CONVNEXT_COMPRESSIBLE
        params = None if kept is None else kept / 1e6
    else:
        params, percent = row.params / 1e6, row.params_percent
    return _known({"pre": row.top1_pre, **tuned, "params": params, "percent": percent})


def _quantized_figures(source: Source, row: Row) -> dict[Figure, float]:
    before = source.baseline.top1 if row.is_dense and not row.epochs else row.top1_post
    change = None if before is None or row.top1_quant is None else row.top1_quant - before
    top1 = {"float": before, "quantized": row.top1_quant, "quantized_delta": change}
    return _known({**top1, "params": row.params / 1e6, "size": row.size_mb})


def _million(model: str, params: int) -> float:
    return (CONVNEXT_COMPRESSIBLE if model == "convnext_tiny" else params) / 1e6


def _known(figures: dict[str, float | None]) -> dict[Figure, float]:
    return {name: round(value, _DIGITS) for name in TITLES if (value := figures.get(name)) is not None}


def _same_config(measured: str, printed: str) -> bool:
    return measured == printed or (orders_of(measured) is not None and orders_of(measured) == orders_of(printed))


def _check_equal(known: Measurement, other: Measurement) -> None:
    for name, value in other.figures.items():
        if known.figures.get(name, value) != value:
            what = f"{TITLES[name]} of {model_name(other.model)} {other.basis} {other.config} ({other.settings})"
            raise PosterError(
                f"poster: {other.run} and {known.run} differ in {what}: {value:.6g} and {known.figures[name]:.6g}; "
                "allowed: one of the two, or runs with other settings"
            )


def _is_repeated(each: Measurement, every: Sequence[Measurement]) -> bool:
    if each.counts:
        row = (each.model, each.basis, each.config, each.bits)
        return any(not other.counts and (other.model, other.basis, other.config, other.bits) == row for other in every)
    if each.tuned or each.bits is not None or each.basis == DENSE:
        return False
    return any(
        other.tuned
        and (other.model, other.basis, other.config, other.bits) == (each.model, each.basis, each.config, None)
        and other.fitted == each.fitted
        and other.figures.get("pre") == each.figures.get("pre")
        for other in every
    )
