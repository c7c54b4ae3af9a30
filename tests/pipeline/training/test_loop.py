"""The training loop and quantization-aware training, on a task that a few steps learn."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torchvision
from torch import nn

from basis.conv import SeriesConv2d
from basis.errors import CompressionError
from basis.preconditioning import inverse_input_covariance
from basis.swap import swap_convolutions
from pipeline.artifact.record import build_network, record_network
from pipeline.data.sources import load_dataset
from pipeline.errors import OptionsError
from pipeline.runtime.device import make_accelerator
from pipeline.stages.evaluate import evaluate
from pipeline.training import loop as training
from pipeline.training.loop import feature_weight, parameter_groups
from pipeline.training.loop import train as train_in_place
from pipeline.training.schedule import Schedule
from pipeline.training.teacher import Teacher
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import attach_fake_quantizers, quantize_network
from tests.support.networks import tiny_network, write_npz

CPU = torch.device("cpu")


def train(model, *arguments, **options):
    train_in_place(model, *arguments, **options)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz")))


@pytest.fixture(scope="module")
def trained(data):
    model = tiny_network()
    schedule = Schedule(12, lr=0.05, batch_size=16)
    return train(model, data.train, schedule, accelerator=make_accelerator("cpu"), seed=0)


def series(model):
    return swap_convolutions(copy.deepcopy(model), {"0.0": (3, 3), "1.0": (2, 2), "2.0": (2, 2)}, "cosine")


def test_training_learns(data, trained):
    assert evaluate(trained, data.test, device=CPU).top1 >= 75
    assert not trained.training


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(data, trained):
    state = torch.random.get_rng_state()
    schedule = Schedule(1, lr=0.02, batch_size=32)
    networks = []
    for _ in range(2):
        accelerator = make_accelerator("cpu")
        teacher = Teacher(trained, accelerator)
        networks.append(train(series(trained), data.train, schedule, accelerator=accelerator, seed=3, teacher=teacher))
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b)
    before = series(trained).get_submodule("0.0").coefficients
    assert not torch.equal(networks[0].get_submodule("0.0").coefficients, before)


def test_the_feature_loss_ends_at_its_phase():
    assert feature_weight(0.0) == training.FEATURE_WEIGHT
    assert feature_weight(training.FEATURE_PHASE / 2) == pytest.approx(training.FEATURE_WEIGHT / 2)
    assert feature_weight(training.FEATURE_PHASE) == feature_weight(1.0) == 0


class RecordingTeacher(Teacher):
    """Records for which batches features were computed."""

    def __init__(self, *given):
        super().__init__(*given)
        self.features = []

    def output(self, *given, **which):
        self.features.append(which["features"])
        return super().output(*given, **which)


def test_stages_are_imitated_in_the_first_part_of_training_only(data, trained):
    accelerator = make_accelerator("cpu")
    teacher = RecordingTeacher(trained, accelerator)
    train(series(trained), data.train, Schedule(2, 0.01, 16), accelerator=accelerator, seed=0, teacher=teacher)
    count = len(teacher.features)
    assert teacher.features == [feature_weight(step / count) > 0 for step in range(count)]
    assert 0.5 < sum(teacher.features) / count < 0.7


def test_single_value_filters_decay_and_scales_do_not():
    """Weight decay follows the kind of a parameter, not its number of values: (C, 1, 1, 1) coefficients are filters."""
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 1))
    model = swap_convolutions(network, {"0": (1, 1)}, "cosine")
    attach_fake_quantizers(model[1], IntFormat(4), get_backend("brevitas"), {})
    groups = parameter_groups(model, Schedule(1, lr=0.1, weight_decay=0.5))
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay[id(model[0].coefficients)] == decay[id(model[3].weight)] == 0.5
    assert decay[id(model[0].bias)] == decay[id(model[3].bias)] == 0
    scales = [p for name, p in model[1].named_parameters() if name not in ("bias", "parametrizations.weight.original")]
    assert scales
    assert {decay[id(scale)] for scale in scales} == {0}
    assert decay[id(model[1].parametrizations.weight.original)] == 0.5


def test_scales_of_layers_do_not_decay():
    model = torchvision.models.convnext_tiny(num_classes=4)
    groups = parameter_groups(model, Schedule(1, lr=0.1, weight_decay=0.5))
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    layer_scales = [p for name, p in model.named_parameters() if name.endswith("layer_scale")]
    assert layer_scales
    assert {decay[id(scale)] for scale in layer_scales} == {0}


class DampedTeacher(Teacher):
    """Damps the input covariance until only the preconditioning in filter space is left."""

    def inverse_input_covariance(self, model, images, shard=None):
        return inverse_input_covariance(model, self._network, images, shard=shard, damping=1e6)


def test_what_a_taught_network_sees_steers_its_steps_where_there_are_enough(data, trained):
    schedule, accelerator, ends = Schedule(1, lr=0.01, batch_size=16), make_accelerator("cpu"), {}
    steps = len(data.train) // 16
    for bound in (steps, steps + 1):
        teacher = Teacher(trained, accelerator, covariance_steps=bound)
        end = train(series(trained), data.train, schedule, accelerator=accelerator, seed=0, teacher=teacher)
        ends[bound] = end.get_submodule("1.0").coefficients
    teacher = DampedTeacher(trained, accelerator, covariance_steps=1)
    end = train(series(trained), data.train, schedule, accelerator=accelerator, seed=0, teacher=teacher)
    filters = end.get_submodule("1.0").coefficients
    before = series(trained).get_submodule("1.0").coefficients
    moved = float((filters - before).detach().norm())
    assert float((ends[steps + 1] - filters).detach().norm()) < 0.05 * moved
    assert float((ends[steps] - filters).detach().norm()) > 0.2 * moved


def test_a_teacher_teaches_what_wrong_labels_do_not(data, trained):
    labels = torch.randint(0, 4, (len(data.train),), generator=torch.Generator().manual_seed(1))
    images = dataclasses.replace(data.train, labels=labels)
    top1 = {}
    for taught in (True, False):
        student, accelerator = tiny_network(seed=5), make_accelerator("cpu")
        schedule = Schedule(12, lr=0.01, batch_size=16)
        teacher = Teacher(trained, accelerator) if taught else None
        train(student, images, schedule, accelerator=accelerator, seed=0, teacher=teacher)
        top1[taught] = evaluate(student, data.test, device=CPU).top1
    assert top1[True] >= 75
    assert top1[False] < 60


@pytest.mark.parametrize("taught", [False, True])
def test_the_two_bases_train_to_the_same_filters(data, trained, taught):
    """At order 2 of 3 they span the same filters, and steps are those of the filters, divided by what these see."""
    filters, accelerator = {}, make_accelerator("cpu")
    for basis in ("cosine", "chebyshev"):
        model = swap_convolutions(copy.deepcopy(trained), {"1.0": (2, 2), "2.0": (2, 2)}, basis)
        schedule = Schedule(2, lr=0.02, batch_size=16, weight_decay=1e-2)
        teacher = Teacher(trained, accelerator, covariance_steps=1) if taught else None
        train(model, data.train, schedule, accelerator=accelerator, seed=0, teacher=teacher)
        filters[basis] = [model.get_submodule(name).filters().detach() for name in ("1.0", "2.0")]
    before = [trained.get_submodule(name).weight.detach() for name in ("1.0", "2.0")]
    for cosine, chebyshev, start in zip(*filters.values(), before, strict=True):
        assert float((cosine - chebyshev).norm()) < 0.05 * float((cosine - start).norm())


def test_later_epochs_bring_other_batches(data, trained):
    schedule = Schedule(1, lr=0.02, batch_size=32)
    ends = [
        train(series(trained), data.train, schedule, accelerator=make_accelerator("cpu"), seed=0, first_epoch=first)
        for first in (0, 0, 5)
    ]
    same, other = (
        all(torch.equal(a, b) for a, b in zip(ends[0].parameters(), end.parameters(), strict=True)) for end in ends[1:]
    )
    assert same
    assert not other


def test_zero_epochs_change_nothing(data, trained):
    model = copy.deepcopy(trained)
    train(model, data.train, Schedule(0, lr=1.0), accelerator=make_accelerator("cpu"), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))


def test_a_network_trains_the_same_whether_or_not_it_was_trained_before(data, trained):
    """accelerate does not prepare a network twice, and would then skip the mixed precision."""
    fresh = tiny_network()
    fresh.load_state_dict(trained.state_dict())
    assert vars(fresh).keys() == vars(trained).keys()
    ends = [
        train(copy.deepcopy(model), data.train, Schedule(1, lr=0.02), accelerator=make_accelerator("cpu"), seed=0)
        for model in (trained, fresh)
    ]
    assert all(torch.equal(a, b) for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True))


def test_divergence_is_an_error(data, trained):
    with pytest.raises(CompressionError, match="smaller --lr"):
        train(
            copy.deepcopy(trained),
            data.train,
            Schedule(50, lr=1e18, batch_size=16),
            accelerator=make_accelerator("cpu"),
            seed=0,
        )


def test_the_schedule_warms_up_and_ends_near_zero():
    schedule = Schedule(2, lr=1.0, warmup=0.1)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(1.0)
    assert factors[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


@pytest.mark.parametrize("backend", ["brevitas", "torch.ao"])
def test_qat_ends_with_the_integers_that_it_trained(data, trained, backend):
    quantizer = get_backend(backend)
    model = attach_fake_quantizers(series(trained), IntFormat(4), quantizer)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, data.train, Schedule(2, lr=0.02, batch_size=16), accelerator=make_accelerator("cpu"), seed=0)
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])]
    assert any("parametrizations" in name and "original" not in name for name in moved), "no scale was learned"
    record = record_network(model, quantize_network(model, IntFormat(4), quantizer))
    built = build_network(record, copy.deepcopy(trained))
    for layer in record.layers:
        module = model.get_submodule(layer.name)
        seen = module.filters() if isinstance(module, SeriesConv2d) else module.weight
        torch.testing.assert_close(built.get_submodule(layer.name).weight, seen, atol=1e-6, rtol=1e-6)
    trained_logits = evaluate(model, data.test, device=CPU).logits
    built_logits = evaluate(built, data.test, device=CPU).logits
    # Normalization is stored in float16, which moves an output by 2^-8 of its layer's largest at the most.
    torch.testing.assert_close(built_logits, trained_logits, atol=2**-8 * float(trained_logits.abs().max()), rtol=0)
    assert {layer.basis for layer in record.layers} == {"cosine", None}


def test_quantization_takes_coefficients_and_the_other_kernels(trained):
    model = series(trained)
    quantized = quantize_network(model, IntFormat(8), get_backend("brevitas"))
    assert list(quantized) == ["0.0", "1.0", "1.2", "2.0", "5"]
    assert quantized["0.0"].integers.shape == (8, 3, 3, 3)
    assert isinstance(model.get_submodule("0.0"), SeriesConv2d)


def test_a_missing_device_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(OptionsError, match="0 CUDA devices"):
        make_accelerator("cuda:7")
