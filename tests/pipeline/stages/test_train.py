"""Training that is done once: what decides the key, and what a hit gives."""

import copy
import dataclasses

import pytest

from pipeline.data.sources import load_dataset
from pipeline.models.digest import state_digest
from pipeline.runtime.device import make_accelerator
from pipeline.stages.train import TrainingJob, train_once
from pipeline.store.store import Store
from pipeline.training.loop import Schedule, train
from pipeline.training.teacher import Teacher
from tests.support.networks import tiny_network, write_npz


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    data = load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz", train=32)))
    return TrainingJob(data, Schedule(2, lr=0.02, batch_size=16), make_accelerator("cpu"), seed=0)


def trained(course, store, start="tiny", on_epoch=None):
    model = tiny_network()
    step = course.step(store, start, "training")
    return model, train_once(model, course, store, step, on_epoch=on_epoch)


def test_a_second_training_reads_the_first_ones_result(course, tmp_path, monkeypatch):
    curves = [], []
    first, training = trained(course, Store(tmp_path), on_epoch=curves[0].append)
    monkeypatch.setattr("pipeline.stages.train.train", None)
    second, said = trained(course, Store(tmp_path), on_epoch=curves[1].append)
    assert state_digest(first) == state_digest(second) != state_digest(tiny_network())
    assert said.seconds == pytest.approx(training.seconds, abs=1e-3)
    assert not training.undone
    assert curves[0] == curves[1]
    assert [figures.epoch for figures in curves[1]] == [1, 2]
    assert not second.training


def test_fresh_trains_again(course, tmp_path, monkeypatch):
    trained(course, Store(tmp_path))
    monkeypatch.setattr("pipeline.stages.train.train", None)
    with pytest.raises(TypeError):
        trained(course, Store(tmp_path, fresh=True))


def test_whatever_training_depends_on_is_in_the_key(course, tmp_path):
    teacher = Teacher(tiny_network(seed=3).eval(), course.accelerator)
    other_teacher = Teacher(tiny_network(seed=4).eval(), course.accelerator)
    fewer = dataclasses.replace(course.data, train=course.data.train.head(16))
    changed = [
        dataclasses.replace(course, seed=1),
        dataclasses.replace(course, first_epoch=1),
        dataclasses.replace(course, teacher=teacher),
        dataclasses.replace(course, teacher=other_teacher),
        dataclasses.replace(course, data=fewer),
        *(dataclasses.replace(course, schedule=dataclasses.replace(course.schedule, **one)) for one in SCHEDULES),
    ]
    store = Store(tmp_path)
    keys = [one.step(store, "tiny", "t").key for one in (course, *changed)]
    keys += [course.step(store, "other", "t").key, course.step(Store(tmp_path, {"threads": 2}), "tiny", "t").key]
    assert len(set(keys)) == len(keys)
    assert course.step(store, "tiny", "another name").key == keys[0]


SCHEDULES = ({"epochs": 3}, {"lr": 0.1}, {"batch_size": 8}, {"weight_decay": 0.0}, {"warmup": 0.2})


def test_the_test_images_are_not_in_the_key(course, tmp_path):
    fewer = dataclasses.replace(course.data, test=course.data.test.head(5))
    steps = [dataclasses.replace(course, data=data).step(Store(tmp_path), "x", "t") for data in (course.data, fewer)]
    assert steps[0] == steps[1]


def test_training_that_does_harm_is_undone(course, tmp_path, caplog):
    good, rate = tiny_network(), Schedule(30, lr=0.05, batch_size=16)
    train(good, course.data.train, rate, accelerator=course.accelerator, seed=0)
    harmful = dataclasses.replace(course, schedule=Schedule(1, lr=3.0, batch_size=16))
    model = copy.deepcopy(good)
    for _ in range(2):  # trained, then read
        assert train_once(model, harmful, Store(tmp_path), harmful.step(Store(tmp_path), "good", "fine-tuning")).undone
    assert state_digest(model) == state_digest(good)
    assert "fine-tuning lost" in caplog.text
    assert "points of Top-1 on training images and is undone; try another --lr" in caplog.text
    assert not model.training
