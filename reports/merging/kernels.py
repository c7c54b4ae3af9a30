"""Merging of the filter slices that several runs show."""

from collections.abc import Iterable

from reports.model import Kernels, Slice


def merged_kernels(shown: Iterable[Kernels | None]) -> Kernels | None:
    """Join the slices of several runs, in the order of the runs.

    A slice that several runs show has the fits of all of them. A layer is shown once for each of its orders, from the
    first run that has them: runs of other seeds may have trained other filters.

    Args:
        shown: The slices of each run; None for a run without any.

    Returns:
        The slices, beginning with the first of the first run; None if no run has any.
    """
    found: list[Slice] = []
    for kernels in shown:
        for each in _slices(kernels):
            same = next((place for place, other in enumerate(found) if _is_same(each, other)), None)
            if same is not None:
                found[same] = _joined(found[same], each)
            elif all((each.layer, each.orders) != (other.layer, other.orders) for other in found):
                found.append(each)
    if not found:
        return None
    first, *others = found
    return Kernels(**first.model_dump(), further=others)


def _slices(kernels: Kernels | None) -> list[Slice]:
    parts = [] if kernels is None else [kernels, *kernels.further]
    return [Slice(**part.model_dump(exclude={"further"})) for part in parts]


def _is_same(one: Slice, other: Slice) -> bool:
    orders = {tuple(each.orders) for each in (one, other) if each.orders is not None}
    return one.layer == other.layer and one.original == other.original and len(orders) <= 1


def _joined(one: Slice, other: Slice) -> Slice:
    return one.model_copy(update={"fits": {**one.fits, **other.fits}, "orders": one.orders or other.orders})
