"""Checks before any work: precision, batches of one image, and downloads of a dry run."""

import re

import numpy as np
import pytest
import torch

from pipeline.options.options import Options
from pipeline.stages.dry_run import plan_text
from tests.support.networks import write_module, write_npz
from tests.support.program import call_program

NETS = """
import torch
from torch import nn


class NoBf16(nn.Sequential):
    def forward(self, x):
        x = super().forward(x)
        if x.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return x


def make(num_classes=4):
    body = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
    return NoBf16(*body, nn.Linear(4, num_classes))
"""
SMALL = ("--model", "checked_nets:make", "--data", "colours.npz", "--config", "2", "--bits", "4")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checked_nets.py").write_text(NETS)
    write_npz(tmp_path / "colours.npz", train=33, test=20)
    return tmp_path


def test_auto_is_float32_where_bf16_fails(folder, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    done = call_program(folder, *SMALL, "--epochs", "1", "--batch-size", "32", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "BFloat16" in done.stderr
    again = call_program(folder, *SMALL, "--epochs", "1", "--batch-size", "32", "--precision", "fp32", "--out", "out")
    assert re.search(r"all \d+ stages were read", again.stderr), "a fallback is the same as float32"


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_bf16_that_fails_is_refused_before_any_work(folder, name):
    done = call_program(folder, *SMALL, "--precision", name, "--out", "out")
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("--precision", "BFloat16", "fp32"))
    assert not (folder / "cache").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--batch-size", "1"), ("got 1", "2 or more")),
        (("--limit-train", "1"), ("got 1 training image", "3 or more")),
        (("--limit-train", "2"), ("got 2 training images", "held out", "3 or more")),
        (("--qat-epochs", "1", "--batch-size", "1"), ("got 1", "2 or more")),
    ],
)
def test_batches_of_one_image_are_refused_before_any_work(folder, words, told):
    done = call_program(folder, *SMALL, "--epochs", "1", *words, "--out", "out")
    assert done.returncode == 2
    assert all(word in done.stderr for word in (*told, "batch normalization"))
    assert not (folder / "cache").exists()


def test_a_batch_size_of_one_is_right_without_training(folder):
    done = call_program(folder, *SMALL, "--epochs", "0", "--batch-size", "1", "--out", "out", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_a_dry_run_downloads_nothing(tmp_path, monkeypatch):
    """The address and the size of the weights are in the plan."""

    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path, images, labels = tmp_path / "many.npz", np.zeros((1000, 32, 32, 3), np.uint8), np.arange(1000)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = Options(config="3", bits=4, model="squeezenet1_1", data=str(path), weights="IMAGENET1K_V1")
    plan = plan_text(options)
    assert all(word in plan for word in ("download", "squeezenet1_1-b8a52dc0.pth", "4.7 MB"))
    assert "0 of" in plan


def test_the_plan_counts_the_memory_of_a_training_step_in_its_precision(folder):
    """A step in bf16 keeps half of the bytes."""
    gigabytes, small = {}, ("--model", write_module(folder), *SMALL[2:4], "--config", "3,2,2")
    for name in ("bf16", "fp32"):
        words = ("--batch-size", "65536", "--epochs", "1", "--out", "out", "--dry-run")
        done = call_program(folder, *small, "--precision", name, *words)
        gigabytes[name] = float(re.search(r"([\d.]+) GB for a training step of 65536", done.stdout)[1])
    assert gigabytes["fp32"] > 1
    assert gigabytes["bf16"] == pytest.approx(gigabytes["fp32"] / 2, abs=0.01)


@pytest.mark.parametrize("flag", ["--data", "--weights"])
@pytest.mark.parametrize("address", ["https://example.org/it.npz", "s3://bucket/it.npz"])
def test_an_address_is_refused_before_any_work(folder, flag, address):
    missing = () if flag == "--data" else ("--data", "nowhere.npz")  # the data are not read first
    done = call_program(folder, *SMALL, *missing, flag, address, "--out", "out")
    assert done.returncode == 4
    assert all(term in done.stderr for term in (flag, address, "nothing is downloaded", "allowed", "local"))


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--cache-dir", "mine"], 2, "--cache-dir: mine is a file; allowed: the folder of a store"),
        (["--out", "mine"], 1, "the output folder mine cannot be written: mine is a file; allowed: another --out"),
        (
            ["--out", "mine/out"],
            1,
            "the output folder mine/out cannot be written: mine is a file; allowed: another --out",
        ),
        (  # nobody can make a file there
            ["--out", "/proc"],
            1,
            "the output folder /proc cannot be written: No such file or directory; allowed: another --out",
        ),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_data_are_read(folder, words, code, sentence):
    (folder / "mine").write_text("mine")
    done = call_program(folder, *SMALL, "--data", "nowhere.npz", "--out", "out", *words)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, f"error: {sentence}")
    assert (folder / "mine").read_text() == "mine"


def test_a_link_to_a_folder_that_is_not_made_yet_is_an_output_folder(folder):
    (folder / "link").symlink_to("later")
    done = call_program(folder, *SMALL, "--epochs", "0", "--out", "link")
    assert done.returncode == 0, done.stderr
    assert (folder / "later" / "report.json").exists()


def test_a_learning_rate_beyond_floats_is_refused(folder):
    done = call_program(folder, *SMALL, "--lr", "1e300", "--out", "out")
    assert (done.returncode, done.stderr) == (2, "error: --lr: got '1e300'; allowed: above 0, at most 1e6\n")


@pytest.mark.parametrize("plan", [[], ["--dry-run"]])
def test_a_missing_checkpoint_is_refused_before_the_data_are_read(folder, plan):
    """Reading a large data set takes minutes."""
    words = ("--data", "nowhere.npz", "--weights", "nowhere.pt", "--out", "out")
    done = call_program(folder, *SMALL, *words, *plan)
    assert done.returncode == 4
    assert "the checkpoint nowhere.pt does not exist" in done.stderr
