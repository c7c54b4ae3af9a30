"""Compute variants from a payload, in this process."""

import dataclasses
import json
import logging
import pickle
import sys

import pytest
import torch

from pipeline.errors import DataError, OptionsError
from pipeline.executors import worker
from pipeline.executors.worker import compute, make_payload
from pipeline.models.registry import build_model
from pipeline.options.grid import variants
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.packages import PACKAGES
from pipeline.runtime.products import product_precisions, set_product_precisions
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import make_baseline
from pipeline.stages.context import make_context
from pipeline.stages.variant import run_variant
from tests.support.networks import write_module, write_npz


@pytest.fixture(autouse=True)
def _process_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(worker, "_contexts", {})
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    threads, products = torch.get_num_threads(), product_precisions()
    yield
    torch.set_num_threads(threads)
    set_product_precisions(products)
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)
    sys.modules.pop("tiny_net", None)


@pytest.fixture
def order(tmp_path, monkeypatch):
    """A run's context and baseline, and the payload of its workers, with an empty store."""
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "colours.npz")
    given = {
        "model": write_module(tmp_path),
        "data": "colours.npz",
        "epochs": 2,
        "workers": 0,
        "qat_epochs": 1,
        "track": "tensorboard",
    }
    options = Options(config="3,2,2", bits=(8, 4), cache_dir=tmp_path / "store", **given)
    context = make_context(options, make_accelerator("cpu"), SilentProgress(), Interruption())
    baseline = make_baseline(context, build_model(options.model, context.data.classes), "random", 25.0)
    payload = dataclasses.replace(
        make_payload(context, baseline, torch.get_num_threads()), store=tmp_path / "elsewhere"
    )
    return context, baseline, pickle.loads(pickle.dumps(payload))


def test_a_worker_gives_what_the_driver_would_compute(order):
    context, baseline, payload = order
    (variant,) = variants(context.options)
    lines = []
    found = pickle.loads(pickle.dumps(compute(payload, variant, lines.append)))
    context.store.stages.clear()
    expected = run_variant(context, baseline, variant)
    assert _without_seconds(found.result.network) == _without_seconds(expected.network)
    assert list(found.result.quantized) == [8, 4]
    for bits, quantized in expected.quantized.items():
        other = found.result.quantized[bits]
        assert (other.artifact, other.portable) == (quantized.artifact, quantized.portable)
        assert torch.equal(other.logits, quantized.logits)
        assert (other.top1, other.rounding_errors, other.onnx) == (
            quantized.top1,
            quantized.rounding_errors,
            quantized.onnx,
        )
    assert [stage.key for stage in found.stages] == [stage.key for stage in context.store.stages]
    assert not any(stage.cached for stage in found.stages)
    assert [figures.epoch for _, figures in found.epochs] == [1, 2, 1, 1]
    assert json.dumps({"stage": "cosine 3,2,2: approximate"}) in lines


def _without_seconds(network):
    return dataclasses.replace(network, training=dataclasses.replace(network.training, seconds=0.0))


def test_a_worker_computes_products_in_the_precision_of_the_driver(order):
    context, _, payload = order
    products = {**payload.products, "float32_matmul_precision": "high"}
    compute(dataclasses.replace(payload, products=products), variants(context.options)[0], print)
    assert torch.get_float32_matmul_precision() == "high"
    assert payload.products["float32_matmul_precision"] == "highest"


def test_data_are_read_once_for_several_variants(order, monkeypatch):
    context, _, payload = order
    (variant,) = variants(context.options)
    compute(payload, variant, print)
    monkeypatch.setattr(worker, "make_context", None)
    again = compute(payload, variant, print)
    assert all(stage.cached for stage in again.stages)
    assert [(label.stage, figures.epoch) for label, figures in again.epochs] == [
        ("finetune", 1),
        ("finetune", 2),
        ("qat", 1),
        ("qat", 1),
    ]


def test_the_log_of_every_package_reaches_the_driver(order):
    context, _, payload = order
    lines = []
    compute(payload, variants(context.options)[0], lines.append)
    for name in ("basis", "pipeline", "quant", "reports"):
        logging.getLogger(f"{name}.module").warning("from %s", name)
        assert f"from {name}" in lines[-1]


def test_data_that_this_machine_lacks(order, tmp_path):
    context, _, payload = order
    (tmp_path / "colours.npz").unlink()
    with pytest.raises(DataError, match=r"the data colours.npz does not exist"):
        compute(payload, variants(context.options)[0], print)


def test_another_kind_of_device_is_refused(order):
    context, _, payload = order
    with pytest.raises(OptionsError, match=r"--executor.* cpu.* cuda.*allowed"):
        compute(dataclasses.replace(payload, device="cuda"), variants(context.options)[0], print)
