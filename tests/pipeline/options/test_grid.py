"""The networks of a run: series once a basis, the dense network once."""

from pipeline.options.grid import variants
from pipeline.options.options import Options


def found(**options):
    chosen = {"model": "resnet20", "basis": "cosine,chebyshev", "bits": "8,4", "epochs": 3}
    return [(v.config.text, v.bases, v.bits, v.epochs) for v in variants(Options(**(chosen | options)))]


BOTH = ("cosine", "chebyshev")


def test_each_series_is_a_network_of_its_basis():
    assert found(config="3,3,2,2") == [("3,3,2,2", (basis,), (8, 4), 3) for basis in BOTH]


def test_the_config_dense_is_the_network_as_it_is():
    assert found(config=["dense", "3,3,3,2"])[-1] == ("dense", BOTH, (8, 4), 0)


def test_dense_bits_add_a_rival_that_trains_as_long():
    assert found(config="3,3,2,2", dense_bits="3,2")[-1] == ("dense", BOTH, (3, 2), 3)


def test_the_dense_network_as_it_is_stays_untrained_beside_its_rival():
    dense = found(config=["3,3,2,2", "dense"], bits="8", dense_bits="4,3")[-2:]
    assert dense == [("dense", BOTH, (8,), 0), ("dense", BOTH, (4, 3), 3)]


def test_a_dense_width_that_is_given_twice_is_one_row_and_trained():
    dense = found(config=["3,3,2,2", "dense"], dense_bits="4,3")[-2:]
    assert dense == [("dense", BOTH, (8,), 0), ("dense", BOTH, (4, 3), 3)]
    assert found(config="dense", bits="4", dense_bits="4") == [("dense", BOTH, (4,), 3)]
