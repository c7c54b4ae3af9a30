"""Training that is done once: what decides the key, what a hit gives, and what a damaged store costs."""

import copy
import dataclasses

import pytest
import torch

from pipeline.acceleration import make_accelerator
from pipeline.data.sources import load_dataset
from pipeline.progress import SilentProgress
from pipeline.store.folder import store_folder
from pipeline.store.keys import state_digest
from pipeline.stored_training import Course, train_once
from pipeline.teacher import Teacher
from pipeline.training import Schedule
from tests.pipeline.networks import tiny_network, write_npz


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("SERIESQUANT_CACHE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    data = load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz", train=32)))
    return Course(data, Schedule(1, lr=0.02, batch_size=16), make_accelerator("cpu"), seed=0)


def trained(course, model=None, fresh=False, structure="tiny"):
    model = model or tiny_network()
    seconds = train_once(model, course, structure=structure, fresh=fresh, progress=SilentProgress(), title="t")
    return model, seconds


def stored_files():
    return sorted(store_folder().glob("*"))


def test_a_second_training_reads_the_first_ones_result(course, monkeypatch):
    first, seconds = trained(course)
    monkeypatch.setattr("pipeline.stored_training.train", None)
    second, said = trained(course)
    assert state_digest(first) == state_digest(second) != state_digest(tiny_network())
    assert said == pytest.approx(seconds, abs=0.06)
    assert len(stored_files()) == 1
    assert not second.training


def test_fresh_trains_again(course, monkeypatch):
    trained(course)
    monkeypatch.setattr("pipeline.stored_training.train", None)
    with pytest.raises(TypeError):
        trained(course, fresh=True)


def test_whatever_training_depends_on_is_in_the_key(course):
    start = tiny_network()
    teacher = Teacher(tiny_network(seed=3).eval(), course.accelerator)
    other_teacher = Teacher(tiny_network(seed=4).eval(), course.accelerator)
    changed = [
        dataclasses.replace(course, seed=1),
        dataclasses.replace(course, first_epoch=1),
        dataclasses.replace(course, teacher=teacher),
        dataclasses.replace(course, teacher=other_teacher),
        *(dataclasses.replace(course, schedule=dataclasses.replace(course.schedule, **one)) for one in SCHEDULES),
    ]
    keys = [one.key(start, "tiny") for one in (course, *changed)]
    keys += [course.key(start, "other"), course.key(tiny_network(seed=1), "tiny")]
    assert len(set(keys)) == len(keys)
    assert course.key(copy.deepcopy(start), "tiny") == keys[0]


SCHEDULES = ({"epochs": 2}, {"lr": 0.1}, {"batch_size": 8}, {"weight_decay": 0.0}, {"warmup": 0.2})


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_a_damaged_file_is_trained_again(course, damage, caplog):
    first, _ = trained(course)
    (file,) = stored_files()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    again, _ = trained(course)
    assert state_digest(again) == state_digest(first)
    assert "made again" in caplog.text
    assert len(file.read_bytes()) == len(content)


def test_another_networks_state_is_not_taken(course):
    trained(course)
    (file,) = stored_files()
    key = file.stem
    other = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    file.rename(file.with_name(f"{course.key(other, 'tiny')}.safetensors"))
    trained(course, other)
    assert key not in {path.stem for path in stored_files()}


def test_a_store_that_cannot_be_written_only_warns(course, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SERIESQUANT_CACHE", str(tmp_path / "file" / "store"))
    trained(course)
    assert "not stored" in caplog.text


def test_no_epochs_leave_the_network_and_the_store_alone(course):
    model, seconds = trained(dataclasses.replace(course, schedule=Schedule(0, lr=1.0)))
    assert seconds == 0
    assert state_digest(model) == state_digest(tiny_network())
    assert not store_folder().exists()
