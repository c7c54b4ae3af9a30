"""The store's list, and clearing it out."""

import os
import time

import pytest
import torch

from pipeline.cli import main
from pipeline.runtime.locks import locked
from pipeline.store.entry import Entry
from pipeline.store.housekeeping import list_store, prune_store
from pipeline.store.store import StageKey, Store

DAY = 86_400


@pytest.fixture
def folder(tmp_path):
    """Three results of 10, 5 and 1 days, a checkpoint, what a killed writer left, and a file that is not ours."""
    store = Store(tmp_path)
    for key, days in (("a", 10), ("b", 5), ("c", 1)):
        store.once(StageKey(f"stage {key}", key * 32), lambda: Entry({"x": torch.zeros(25_000)}))
        _age(tmp_path / f"{key * 32}.safetensors", days)
    store.checkpoint(StageKey("training", "d" * 32)).save(Entry())
    (tmp_path / f".{'e' * 32}.safetensors.7-8.seriesquant-part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def _age(path, days):
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def names(folder):
    return {each.name for each in list_store(folder)}


def test_every_file_is_described(folder):
    found = list_store(folder)
    assert [(each.name, each.kind) for each in found[:3]] == [(f"stage {key}", "result") for key in "abc"]
    assert {(each.name, each.kind) for each in found[3:]} == {
        ("training", "checkpoint"),
        ("unreadable", "half written"),
    }
    assert all(each.size == each.path.stat().st_size for each in found)


@pytest.mark.parametrize("action", ["ls", "prune"])
def test_a_chosen_folder_must_exist(tmp_path, capsys, action):
    """A mistyped folder looked like an empty store."""
    assert list_store(tmp_path / "none") == []
    assert main(["cache", action, "--cache-dir", str(tmp_path / "none")]) == 2
    assert "--cache-dir: the folder" in (error := capsys.readouterr().err)
    assert "none does not exist" in error
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("mine")
    assert main(["cache", action, "--cache-dir", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_the_default_folder_may_be_missing_before_the_first_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SERIESQUANT_CACHE", str(tmp_path / "none"))
    assert main(["cache", "ls"]) == main(["cache", "prune"]) == 0
    listed, pruned = capsys.readouterr().out.splitlines()
    assert listed == f"0 files, 0.000 MB, in {tmp_path / 'none'}, which no run has made yet"
    assert pruned == f"removed 0 files, 0.000 MB, from {tmp_path / 'none'}, which no run has made yet"
    assert not (tmp_path / "none").exists()


def test_files_of_a_users_own_are_neither_listed_nor_removed(tmp_path, capsys):
    """--cache-dir may name the folder of a run's artifacts, whose files have the store's suffix."""
    for name in ("cosine-3,3,2,2-4.safetensors", "last.checkpoint"):
        (tmp_path / name).write_bytes(b"mine")
    assert main(["cache", "prune", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("removed 0 files")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_in_use_stays(folder):
    with locked(folder / f"{'a' * 32}.lock", "it", 1):
        removed, used = prune_store(list_store(folder))
    assert [each.name for each in used] == ["stage a"]
    assert len(removed) == 4
    assert names(folder) == {"stage a"}


def test_prune_leaves_only_what_is_not_the_stores_and_the_locks(folder, capsys):
    assert main(["cache", "prune", "--cache-dir", str(folder)]) == 0
    assert "removed 5 files, 0.30" in capsys.readouterr().out
    left = {path.name for path in folder.iterdir()}
    assert {name for name in left if not name.endswith(".lock")} == {"notes.txt"}
    assert {f"{key * 32}.lock" for key in "abc"} <= left


def test_a_process_that_waits_for_a_lock_is_never_split_from_the_next_one_by_prune(folder):
    """A removed lock file would let two processes hold the same lock: one the old file, one a new one."""
    lock = folder / f"{'a' * 32}.lock"
    before = lock.stat().st_ino
    prune_store(list_store(folder))
    assert lock.stat().st_ino == before


def test_prune_by_age(folder, capsys):
    assert main(["cache", "prune", "--cache-dir", str(folder), "--older-than-days", "4"]) == 0
    assert "removed 2 files" in capsys.readouterr().out
    assert {"stage c", "training"} <= names(folder)


def test_prune_to_a_size(folder):
    assert main(["cache", "prune", "--cache-dir", str(folder), "--keep-mb", "0.21"]) == 0
    assert {"stage b", "stage c"} <= names(folder)
    assert "stage a" not in names(folder)


def test_ls_shows_the_environments_folder(folder, monkeypatch, capsys):
    monkeypatch.setenv("SERIESQUANT_CACHE", str(folder))
    assert main(["cache", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:6] == ["stage", "a", "result", "0.100", "10.0", "d"]
    assert lines[-1] == f"5 files, 0.301 MB, in {folder}"


@pytest.mark.parametrize("words", [["cache", "ls"], ["cache", "ls", "--cache-dir=~/store"]])
def test_a_tilde_is_the_home_folder(tmp_path, words, monkeypatch, capsys):
    """Shells leave it in `--cache-dir=~/store`, and an environment file in a variable."""
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SERIESQUANT_CACHE", "~/store")
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" in {tmp_path / 'store'}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rm"], "allowed: ls, prune"),
        (["ls", "--keep-mb", "1"], "--keep-mb"),
        (["prune", "--keep-mb", "-1"], "--keep-mb"),
        ([], "missing argument"),
    ],
)
def test_wrong_words_exit_2(words, sentence, capsys):
    assert main(["cache", *words]) == 2
    assert sentence in capsys.readouterr().err
