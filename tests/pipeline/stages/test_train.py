"""Training that runs once: its cache key, reading a stored result, and rolling back harm."""

import copy
import dataclasses
import logging
import re

import pytest

from pipeline.data.sources import load_dataset
from pipeline.models.digest import state_digest
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.context import RunContext
from pipeline.stages.train import TrainingJob, held_out_losses, train_once, training_job
from pipeline.store.store import Store
from pipeline.tracking import RecordingTracker
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from pipeline.training.selection import ANY_GAIN, NO_HARM
from pipeline.training.state import TrainingLabel
from pipeline.training.teacher import Teacher
from tests.support.networks import tiny_network, write_npz

SCHEDULE = Schedule(2, lr=0.05, batch_size=8)
LABEL = TrainingLabel("tiny", "training")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz", train=32)))


@pytest.fixture
def context(data, tmp_path):
    options = Options(config="3,2,2", model="tiny_net:make", seed=0)
    services = make_accelerator("cpu"), Store(tmp_path), SilentProgress(), Interruption(), RecordingTracker()
    return RunContext(options, data, 16, *services, tiny_network())


def with_store(context, store) -> RunContext:
    return dataclasses.replace(context, store=store, tracker=RecordingTracker())


def job_of(context, start="tiny", schedule=SCHEDULE, name="fine-tuning", **changes) -> TrainingJob:
    return training_job(context, name, LABEL, start, schedule, **changes)


def trained(context):
    model = tiny_network()
    return model, train_once(context, model, job_of(context, margin=ANY_GAIN))


def test_a_second_training_reads_the_first_ones_result(context, tmp_path, monkeypatch):
    first, summary = trained(context)
    monkeypatch.setattr("pipeline.stages.train.train", None)
    later = with_store(context, Store(tmp_path))
    second, stored = trained(later)
    assert state_digest(first) == state_digest(second) != state_digest(tiny_network())
    assert stored.seconds == pytest.approx(summary.seconds, abs=1e-3)
    assert not summary.undone
    assert context.tracker.epochs == later.tracker.epochs
    assert [(label, figures.epoch) for label, figures in later.tracker.epochs] == [(LABEL, 1), (LABEL, 2)]
    assert not second.training


def test_a_training_without_mirror_images_is_one_on_data_that_allow_none(context, tmp_path):
    plain = dataclasses.replace(context.data, train=context.data.train.unmirrored())
    jobs = [(context, job_of(context, margin=ANY_GAIN, mirrored=False)), (context, job_of(context, margin=ANY_GAIN))]
    other = dataclasses.replace(context, data=plain, store=Store(tmp_path / "other"))
    jobs.append((other, job_of(other, margin=ANY_GAIN)))
    assert len({job.stage.key for _, job in jobs}) == 3
    digests = []
    for run, job in jobs:
        model = tiny_network()
        train_once(run, model, job)
        digests.append(state_digest(model))
    assert digests[0] == digests[2] != digests[1]


def test_fresh_trains_again(context, tmp_path, monkeypatch):
    trained(context)
    monkeypatch.setattr("pipeline.stages.train.train", None)
    with pytest.raises(TypeError):
        trained(with_store(context, Store(tmp_path, fresh=True)))


def test_whatever_training_depends_on_is_in_the_key(context, tmp_path):
    network = tiny_network(seed=3).eval()
    teachers = [Teacher(tiny_network(seed=4).eval(), context.accelerator)]
    teachers += [Teacher(network, context.accelerator, mirrored=mirrored) for mirrored in (False, True)]
    fewer = dataclasses.replace(context.data, train=context.data.train.head(16))
    seeded = dataclasses.replace(context, options=context.options.model_copy(update={"seed": 1}))
    jobs = [
        job_of(context),
        job_of(context, start="other"),
        job_of(context, first_epoch=1),
        job_of(context, margin=NO_HARM),
        *(job_of(context, teacher=teacher) for teacher in teachers),
        *(job_of(context, schedule=dataclasses.replace(SCHEDULE, **change)) for change in SCHEDULES),
        job_of(dataclasses.replace(context, data=fewer)),
        job_of(seeded),
        job_of(with_store(context, Store(tmp_path, {"threads": 2}))),
    ]
    keys = [job.stage.key for job in jobs]
    assert len(set(keys)) == len(keys)
    assert job_of(context, name="another name").stage.key == keys[0]


SCHEDULES = ({"epochs": 3}, {"lr": 0.1}, {"batch_size": 16}, {"weight_decay": 0.0}, {"warmup": 0.2})


def test_the_test_images_are_not_in_the_key(context):
    fewer = dataclasses.replace(context.data, test=context.data.test.head(5))
    assert job_of(context).stage == job_of(dataclasses.replace(context, data=fewer)).stage


def test_training_that_does_harm_is_rolled_back(context, tmp_path, caplog):
    good = tiny_network()
    schedule = Schedule(30, lr=0.05, batch_size=16)
    train(good, context.data.train, schedule, accelerator=context.accelerator, seed=0)
    model = copy.deepcopy(good)
    caplog.set_level(logging.INFO)
    for _ in range(2):  # trained, then read
        later = with_store(context, Store(tmp_path))
        harmful = job_of(later, start="good", schedule=Schedule(1, lr=3.0, batch_size=16))
        assert train_once(later, model, harmful).undone
        assert re.search(r"fine-tuning.*held-out", caplog.text)
        caplog.clear()
    assert state_digest(model) == state_digest(good)
    assert not model.training


def test_the_held_out_images_are_not_trained_on_and_the_losses_are_theirs(context, tmp_path):
    model, summary = trained(context)
    assert summary.loss_before == pytest.approx(float(held_out_losses(context, tiny_network()).mean()))
    assert summary.loss_after == pytest.approx(float(held_out_losses(context, model).mean()))
    assert summary.loss_after <= summary.loss_before
    images = context.data.train
    blank = images.images.clone()
    blank[images.part(len(images) - 5, len(images))._positions] = 0
    data = dataclasses.replace(context.data, train=dataclasses.replace(images, images=blank))
    other = dataclasses.replace(with_store(context, Store(tmp_path / "other")), data=data)
    _, blind = trained(other)
    losses = [[figures.loss for _, figures in each.tracker.epochs] for each in (context, other)]
    assert losses[0] == losses[1]
    assert blind.loss_before != summary.loss_before
