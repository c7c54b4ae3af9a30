"""Stages that run once: hits, misses, --fresh, damage, folders that cannot be written, and other processes."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from pipeline.errors import BusyError
from pipeline.runtime.locks import locked
from pipeline.store.entry import Entry
from pipeline.store.housekeeping import store_folder
from pipeline.store.store import StageKey, StageRecord, Store, store_key


class Maker:
    """Counts its calls."""

    def __init__(self, value=1.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return Entry({"x": torch.tensor([self.value])}, {"calls": self.calls})


STEP = StageKey("a stage", "0" * 32)


def test_a_stage_runs_once(tmp_path):
    make = Maker()
    first, second = Store(tmp_path), Store(tmp_path)
    entries, cached = zip(*[store.once(STEP, make) for store in (first, first, second)], strict=True)
    assert cached == (False, True, True)
    assert make.calls == 1
    assert [float(entry.tensors["x"]) for entry in entries] == [1.0] * 3
    assert [stage.cached for stage in first.stages + second.stages] == [False, True], "each once in a run"
    assert second.stages == [StageRecord("a stage", STEP.key, True, entries[0].seconds, entries[0].peak_memory_mb)]


def test_fresh_makes_it_anew_once_and_replaces_it(tmp_path):
    Store(tmp_path).once(STEP, Maker(1.0))
    make, fresh = Maker(2.0), Store(tmp_path, fresh=True)
    assert [float(fresh.once(STEP, make)[0].tensors["x"]) for _ in range(2)] == [2.0, 2.0]
    assert make.calls == 1
    assert float(Store(tmp_path).once(STEP, Maker(3.0))[0].tensors["x"]) == 2.0


def test_fresh_ignores_a_checkpoint(tmp_path):
    Store(tmp_path).checkpoint(STEP).save(Entry(metadata={"at": 1}))
    assert Store(tmp_path).checkpoint(STEP).read().metadata == {"at": 1}
    fresh = Store(tmp_path, fresh=True)
    fresh.once(STEP, lambda: Entry(metadata={"seen": fresh.checkpoint(STEP).read() is not None}))
    assert fresh.find(STEP.key).metadata == {"seen": False}


def test_a_checkpoint_goes_when_the_result_is_there(tmp_path):
    store = Store(tmp_path)

    def make():
        store.checkpoint(STEP).save(Entry(metadata={"at": 1}))
        assert store.state(STEP) == "begun"
        return Entry()

    assert store.state(STEP) == "to do"
    store.once(STEP, make)
    assert store.state(STEP) == "stored"
    assert Store(tmp_path, fresh=True).state(STEP) == "to do"
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".lock"}


def test_a_failed_stage_leaves_its_checkpoint_and_no_result(tmp_path):
    store = Store(tmp_path)

    def make():
        store.checkpoint(STEP).save(Entry(metadata={"at": 1}))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.once(STEP, make)
    assert store.state(STEP) == "begun"
    assert store.once(STEP, Maker())[0].metadata == {"calls": 1}


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_result_is_made_again(tmp_path, caplog, content):
    Store(tmp_path).once(STEP, Maker())
    path = tmp_path / f"{STEP.key}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] if content is None else content)
    assert Store(tmp_path).once(STEP, Maker())[0].metadata == {"calls": 1}
    assert "cannot be read" in caplog.text
    assert path.read_bytes()[:8] == whole[:8]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    part = tmp_path / f".{STEP.key}.safetensors.1-2.seriesquant-part"
    other = tmp_path / f".{'1' * 32}.safetensors.1-2.seriesquant-part"
    for path in (part, other):
        path.write_bytes(b"half")
    Store(tmp_path).once(STEP, Maker())
    assert not part.exists()
    assert other.exists()  # its writer may be at work


@pytest.mark.parametrize("name", ["file/store", "n" * 300])
def test_a_store_that_cannot_be_written_only_warns(tmp_path, caplog, name):
    """The long name is refused like a folder that may not be searched, such as another user's home folder."""
    (tmp_path / "file").write_text("")
    store = Store(store_folder(tmp_path / name))
    assert store.state(STEP) == "to do"
    assert store.once(STEP, Maker())[0].metadata == {"calls": 1}
    store.checkpoint(STEP).save(Entry())
    assert "cannot be used" in caplog.text
    assert caplog.text.count("is not stored") == 1, "of the result and the checkpoint of one stage"


def test_a_full_disk_only_warns_and_leaves_the_rest(tmp_path, caplog, monkeypatch):
    store = Store(tmp_path)
    store.once(StageKey("before", "2" * 32), Maker())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.store.store.write_atomically", full)
    assert store.once(STEP, Maker())[0].metadata == {"calls": 1}
    assert "No space left" in caplog.text
    assert store.find("2" * 32) is not None


def test_keys_follow_every_input_and_the_conditions(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path, {"device": "cuda"})
    keys = [store.key("a", x=1), store.key("a", x=2), store.key("b", x=1), store.key("a", y=1), other.key("a", x=1)]
    assert len(set(keys)) == 5
    assert store.key("a", x=1) == keys[0]
    assert store_key(x=1, y=2) == store_key(y=2, x=1)
    assert all(len(key) == 32 for key in keys)


def _make_slowly(folder, marks):
    def make():
        (Path(marks) / str(os.getpid())).touch()
        time.sleep(0.3)
        return Entry({"x": torch.zeros(1000)})

    Store(Path(folder)).once(STEP, make)


def test_processes_make_a_result_once(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_make_slowly, args=(tmp_path / "store", marks)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(list(marks.iterdir())) == 1


def _hold(path, ready, free):
    with locked(Path(path), "it", 1):
        ready.set()
        free.wait(60)


def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, free = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "l", ready, free))
    holder.start()
    assert ready.wait(60)
    words = rf"the folder .*\b{holder.pid}\b.* 0\.3 s.*--lock-timeout"
    with pytest.raises(BusyError, match=words), locked(tmp_path / "l", "the folder", 0.3):
        pass
    holder.kill()
    holder.join(60)
    with locked(tmp_path / "l", "the folder", 5):
        assert str(os.getpid()) in (tmp_path / "l").read_text()


def test_a_lock_is_held_on_a_full_disk(tmp_path, monkeypatch):
    """A run without its output folder's lock would have ended with an error that names no file."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    held = locked(tmp_path / "l", "it", 1)
    with held, pytest.raises(BusyError, match="another process"), locked(tmp_path / "l", "it", 0):
        pass


def test_a_checkpoint_that_a_killed_process_left_beside_its_result_goes(tmp_path):
    store = Store(tmp_path)
    store.once(STEP, Maker())
    store.checkpoint(STEP).save(Entry(metadata={"at": 1}))
    Store(tmp_path).once(STEP, Maker())
    assert not list(tmp_path.glob("*.checkpoint"))
