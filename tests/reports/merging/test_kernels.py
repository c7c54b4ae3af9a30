"""Filter slices of merged runs."""

from reports.merging.kernels import merged_kernels
from reports.model import Kernels

ORIGINAL = [[0.5, 0.25], [0.0, -0.5]]


def kernels(layer, orders, *bases, original=ORIGINAL, further=()):
    fits = {basis: [[float(place), 0.0], [0.0, 0.0]] for place, basis in enumerate(bases)}
    found = {"layer": layer, "original": original, "fits": fits, "orders": orders}
    return Kernels.model_validate(found | {"further": [{**each.model_dump(exclude={"further"})} for each in further]})


def shown(merged):
    return [(each.layer, each.orders, list(each.fits)) for each in (merged, *merged.further)]


def test_one_slice_has_the_fits_of_all_runs():
    series, family = kernels("stem", [2, 2], "cosine", "chebyshev"), kernels("stem", None, "fracsrf")
    assert shown(merged_kernels([series, None, family])) == [("stem", [2, 2], ["cosine", "chebyshev", "fracsrf"])]
    assert shown(merged_kernels([family, series])) == [("stem", [2, 2], ["fracsrf", "cosine", "chebyshev"])]


def test_layers_of_other_orders_are_shown_beside_it():
    first = kernels("stem", [2, 2], "cosine", further=[kernels("head", [1, 1], "cosine")])
    second = kernels("stem", [3, 3], "cosine", further=[kernels("head", [1, 1], "cosine")])
    found = merged_kernels([first, second])
    assert shown(found) == [("stem", [2, 2], ["cosine"]), ("head", [1, 1], ["cosine"]), ("stem", [3, 3], ["cosine"])]
    assert merged_kernels([found, first, second]) == found


def test_the_filter_of_another_seed_is_not_taken_for_the_same():
    other = kernels("stem", [2, 2], "cosine", "fracsrf", original=[[0.0, 0.0], [1.0, 0.0]])
    assert merged_kernels([kernels("stem", [2, 2], "cosine"), other]) == kernels("stem", [2, 2], "cosine")


def test_runs_without_slices():
    assert merged_kernels([None, None]) is None
