"""Files of a target: sizes, reload, repeated results, shared measurements, and the loss on held-out images."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.artifact import load
from pipeline.data.dataset import Split
from pipeline.options.grid import Target, Variant, variants
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import Baseline, prepare_baseline
from pipeline.stages.context import RunContext, make_context
from pipeline.stages.quantize import QuantizedNetwork
from pipeline.stages.targets.compressor import TargetCompressor
from pipeline.store.store import StageKey, Store

CHOSEN = {"model": "tiny_net:make", "data": "colours.npz", "limit_train": 96, "batch_size": 16}


@dataclasses.dataclass
class Setting:
    """A run's context, its baseline and the variant of its targets."""

    context: RunContext
    baseline: Baseline
    variant: Variant

    def compressor(self, **changes) -> TargetCompressor:
        return TargetCompressor(dataclasses.replace(self.context, **changes), self.baseline, self.variant)

    @property
    def measurement(self) -> StageKey:
        return self.compressor().measurement

    def compress(self, target: Target, **changes) -> QuantizedNetwork:
        return self.compressor(**changes).compress(target)

    def size(self, share: float) -> float:
        """A size in MB, at a share of the way from the smallest to the largest file."""
        smallest, largest = self.compressor().feasible_sizes
        return round(smallest + share * (largest - smallest)) / 1e6


def setting_of(folder: Path, **changes) -> Setting:
    options = Options(**(CHOSEN | {"epochs": 0, "target_drop": 5.0, "cache_dir": folder} | changes))
    context = make_context(options, make_accelerator("cpu"), SilentProgress(), Interruption())
    return Setting(context, prepare_baseline(context), variants(options)[0])


@pytest.fixture
def setting(here, tmp_path) -> Setting:
    return setting_of(tmp_path / "store")


def network_of(result: QuantizedNetwork, folder: Path) -> torch.nn.Module:
    path = folder / "network.safetensors"
    path.write_bytes(result.artifact)
    return load(path, allow_import=True).eval()


@torch.no_grad()
def outputs(model: torch.nn.Module, images: Split) -> torch.Tensor:
    return torch.cat([model(x) for x, _ in images.batches(250, device=torch.device("cpu"))])


@torch.no_grad()
def top1(model: torch.nn.Module, images: Split) -> float:
    right = [(model(x).argmax(1) == y).float() for x, y in images.batches(250, device=torch.device("cpu"))]
    return 100 * float(torch.cat(right).mean())


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_file_fits_its_target_and_reloads_to_the_same_outputs(setting, tmp_path, share):
    target = Target(megabytes=setting.size(share))
    result = setting.compress(target)
    assert result.target_met
    assert 0.97 * target.bytes <= len(result.artifact) <= target.bytes
    found = outputs(network_of(result, tmp_path), setting.context.data.test)
    assert torch.equal(found[: len(result.logits)], result.logits)
    assert set(result.rounding_errors) == {"0.0", "1.0", "1.2", "2.0", "5"}


def test_a_repeated_computation_gives_the_same_file(setting, tmp_path):
    target = Target(megabytes=setting.size(0.4))
    again = setting.compress(target, store=Store(tmp_path / "another"))
    assert setting.compress(target).artifact == again.artifact


def test_a_second_target_reads_the_stored_measurement(setting, monkeypatch):
    first, second = (Target(megabytes=setting.size(share)) for share in (0.3, 0.6))
    assert setting.context.store.state(setting.measurement) == "to do"
    setting.compress(first)
    assert setting.context.store.state(setting.measurement) == "stored"
    monkeypatch.setattr("pipeline.stages.targets.measurement.measure_layers", None)
    assert setting.compress(second).target_met
    assert setting.context.store.state(setting.compressor().compression(second)) == "stored"
    monkeypatch.setattr("pipeline.stages.targets.search.round_network", None)
    assert setting.compress(first).target_met


def test_the_accepted_sizes_are_in_the_keys_of_training_and_file(setting, monkeypatch):
    """Both depend on the rounding, which ends with the first file of an accepted size."""
    target, compressor = Target(megabytes=setting.size(0.5)), setting.compressor()
    before = compressor.training(target.bytes).stage.key, compressor.compression(target).key
    monkeypatch.setattr("pipeline.stages.targets.compressor.SMALLEST_SHARE", 0.9)
    after = compressor.training(target.bytes).stage.key, compressor.compression(target).key
    assert not {*before} & {*after}


def test_a_trained_row_fits_its_target(here, tmp_path):
    setting = setting_of(tmp_path / "store", epochs=8, lr=0.01)
    target = Target(megabytes=setting.size(0.5))
    result = setting.compress(target)
    assert 0.97 * target.bytes <= len(result.artifact) <= target.bytes
    assert not result.training.undone
    assert result.training.seconds > 0
    found = outputs(network_of(result, tmp_path), setting.context.data.test)
    assert torch.equal(found[: len(result.logits)], result.logits)
    assert result.artifact != setting_of(tmp_path / "store").compress(target).artifact
    assert setting.context.store.state(setting.compressor().training(target.bytes).stage) == "stored"


def test_a_loss_is_kept_on_held_out_images_and_the_test_images_are_not_seen(setting, tmp_path):
    images = setting.context.data.train
    held_out = images.part(len(images) - len(images) // 5, len(images))
    allowed = top1(setting.baseline.model.eval(), held_out) - 5.0
    result = setting.compress(Target(drop=5.0))
    assert result.target_met
    assert top1(network_of(result, tmp_path), held_out) >= allowed
    assert len(result.artifact) < 1e6 * setting.size(0.9)
    data = setting.context.data
    swapped = dataclasses.replace(data, test=dataclasses.replace(data.test, images=255 - data.test.images))
    other = setting.compress(Target(drop=5.0), data=swapped)
    assert result.artifact == other.artifact
    assert not torch.equal(result.logits, other.logits)


def test_a_loss_that_cannot_be_kept_gives_the_largest_file(setting):
    """A loss below zero asks for more right predictions than there are images."""
    result = setting.compress(Target(drop=-200.0))
    assert not result.target_met
    assert len(result.artifact) > 1e6 * setting.size(0.8)


def test_a_loss_of_exactly_the_given_points_is_allowed(setting, monkeypatch):
    """In floats, 90.2 - 0.1 is above 90.1."""
    figures = iter([90.2, *[90.1] * 7])
    monkeypatch.setattr(TargetCompressor, "_top1", lambda self, model, images: next(figures))
    result = setting.compress(Target(drop=0.1))
    assert result.target_met
    assert len(result.artifact) < 1e6 * setting.size(0.1)
