import threading

import pytest
import torch

from pipeline.runtime.randomness import deterministic_algorithms


@pytest.fixture(autouse=True)
def _flag_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)


def flag() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_the_flag_is_put_back(before) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    with deterministic_algorithms():
        assert flag() == (True, True)
    assert flag() == before


def test_an_error_puts_it_back_too() -> None:
    with pytest.raises(KeyError), deterministic_algorithms():
        raise KeyError
    assert flag() == (False, False)


def test_the_first_run_to_end_does_not_take_it_from_the_second() -> None:
    begun, may_end, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with deterministic_algorithms():
            begun.set()
            may_end.wait(10)
            seen.append(flag())

    thread = threading.Thread(target=other)
    with deterministic_algorithms():
        thread.start()
        assert begun.wait(10)
    assert flag() == (True, True)
    may_end.set()
    thread.join(10)
    assert (seen, flag()) == ([(True, True)], (False, False))
