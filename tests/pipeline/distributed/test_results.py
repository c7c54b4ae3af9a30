"""Two and three real processes find what one does, and all of them the same."""

import pytest
import torch

from tests.pipeline.distributed.process import write
from tests.pipeline.distributed.scenario import results
from tests.support.launching import fork_several


@pytest.fixture(scope="module")
def alone():
    return results()


@pytest.fixture(scope="module", params=[2, 3])
def found(request, tmp_path_factory):
    """Return the results of each process."""
    folder = tmp_path_factory.mktemp("found")
    codes = fork_several(request.param, write, folder)
    errors = "".join((folder / f"{rank}.stderr").read_text() for rank in range(request.param))
    assert codes == [0] * request.param, errors
    assert "Warning" not in errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def close(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerance, msg=lambda words, name=name: f"{name}: {words}")


def test_the_processes_met(found):
    assert [each["processes"] for each in found] == [len(found)] * len(found)


@pytest.mark.parametrize("count", [501, 260, 5], ids=["3 batches", "2 batches", "1 batch"])
def test_no_image_is_lost_or_counted_twice(found, alone, count):
    assert sum(each[f"seen {count}"] for each in found) == count
    for top1, logits in (each[f"evaluation {count}"] for each in found):
        assert top1 == alone[f"evaluation {count}"][0]
        assert torch.equal(logits, alone[f"evaluation {count}"][1]), "batches are those of one process"


def test_the_fit_is_that_of_one_process(found, alone):
    for each in found:
        assert each["fit errors"] == pytest.approx(alone["fit errors"], rel=1e-4)
        # Directions that the images barely contain are determined by the ridge and by float32 sums in another order.
        close(each["fit"], alone["fit"], rtol=1e-4, atol=1e-3)
        close(each["fit"], found[0]["fit"], rtol=0, atol=0)


def test_rounding_is_as_good_as_that_of_one_process(found, alone):
    for each in found:
        # Where sums differ in the last bit, a row may take another of two scales that are equally good.
        assert each["rounding errors"] == pytest.approx(alone["rounding errors"], rel=0.25)
        close(each["rounded"], found[0]["rounded"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["plain", "odd batches", "few"])
def test_shared_batches_train_as_whole_ones(found, alone, name):
    for each in found:
        close(each[f"trained {name}"], found[0][f"trained {name}"], rtol=0, atol=0)
        close(each[f"trained {name}"], alone[f"trained {name}"], rtol=1e-3, atol=1e-4)


def test_a_teacher_is_followed_by_all_alike(found, alone):
    """Each process measures its features by the variance of its own share, so they are nearly those of one process."""
    for each in found:
        close(each["trained taught"], found[0]["trained taught"], rtol=0, atol=0)
        close(each["trained taught"], alone["trained taught"], rtol=0.1, atol=0.02)


def test_training_with_normalization_ends_alike_everywhere_and_learns_as_much(found, alone):
    """Each process normalizes by its own share, so the weights are not those of one process; all end with the same."""
    assert alone["learnt"] >= 75
    for each in found:
        close(each["trained normalized"], found[0]["trained normalized"], rtol=0, atol=0)
        assert each["learnt"] == found[0]["learnt"]
        assert each["learnt"] == pytest.approx(alone["learnt"], abs=8)


def test_divergence_ends_all_processes_with_one_sentence(found):
    assert {each["diverged"] for each in found} == {"train: the loss became NaN or infinite; try a smaller --lr"}


def test_what_one_process_raises_all_do_and_one_tells(found):
    last = len(found) - 1
    place = f"process {last} of {len(found)}: "
    own = ["DataError('no data')", "OSError(28, 'No space left')", "ZeroDivisionError('by 0')"]
    others = [f"DataError('{place}no data')", f"OSError(28, '{place}No space left')"]
    others.append(f"RuntimeError('{place}ZeroDivisionError: by 0')")
    for rank, each in enumerate(found):
        *raised, (of_main, tells) = each["errors"]
        assert [words for words, _ in raised] == (own if rank == last else others)
        assert [told for _, told in raised] == [rank in (0, last)] * 3
        assert "ValueError" in of_main
        assert "process 0 of" in of_main or rank == 0
        assert tells == (rank == 0)


def test_rows_are_gathered_and_the_main_processs_word_counts(found):
    for each in found:
        assert torch.equal(each["gathered"], torch.full((2, 3), 7.0))
        assert each["main's"] == (0, 0)


def test_when_one_process_is_asked_to_end_all_end_after_the_same_step(found):
    ends = [each["interrupted"] for each in found]
    assert ends[-1][0] == "KeyboardInterrupt"
    assert {name for name, _, _ in ends[:-1]} == {"Terminated"}
    assert len({(epoch, batch) for _, epoch, batch in ends}) == 1
    assert ends[0][1] == 0, "in the first epoch"
