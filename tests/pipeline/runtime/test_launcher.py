"""The environment of launchers: reading it, refusing an incomplete one, and hiding it from other processes."""

import pytest

from pipeline.errors import OptionsError
from pipeline.runtime.launcher import Launch, launched, rank_prefix, without_launch

SECOND_OF_FOUR = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}


def test_without_a_launcher_there_is_one_process():
    assert launched({"HOME": "/"}) == launched(SECOND_OF_FOUR | {"WORLD_SIZE": "1", "RANK": "0"}) == Launch(0, 1, 0)
    assert Launch().is_main


def test_the_place_of_a_process_is_read():
    assert launched(SECOND_OF_FOUR) == Launch(rank=1, count=4, local_rank=0)
    assert not launched(SECOND_OF_FOUR).is_main


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_incomplete_environment_is_refused(name):
    given = {k: value for k, value in SECOND_OF_FOUR.items() if k != name}
    with pytest.raises(OptionsError, match=f"WORLD_SIZE.* 4.* {name} .*allowed"):
        launched(given)


@pytest.mark.parametrize("changes", [{"RANK": "4"}, {"LOCAL_RANK": "2"}])
def test_numbers_that_contradict_one_another_are_refused(changes):
    with pytest.raises(OptionsError, match=r"allowed: LOCAL_RANK.* RANK.* WORLD_SIZE"):
        launched(SECOND_OF_FOUR | changes)


@pytest.mark.parametrize("text", ["-1", "one", "1.5"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(OptionsError, match=f"RANK.* '{text}'.*allowed"):
        launched(SECOND_OF_FOUR | {"RANK": text})


def test_all_but_the_main_process_say_who_they_are():
    assert rank_prefix(SECOND_OF_FOUR) == "process 1 of 4: "
    assert rank_prefix(SECOND_OF_FOUR | {"RANK": "0"}) == rank_prefix({}) == rank_prefix({"WORLD_SIZE": "2"}) == ""


def test_a_process_of_its_own_gets_none_of_it():
    assert without_launch(SECOND_OF_FOUR | {"HOME": "/", "AWS_ROLE_ARN": "x"}) == {"HOME": "/", "AWS_ROLE_ARN": "x"}
