"""Fisher information at the outputs of layers against explicit sums over classes, with the mean over all signs."""

import copy
import itertools

import pytest
import torch
from torch import nn

from quant import sensitivity
from quant.sensitivity import output_sensitivities
from tests.support.lockstep import in_shares

CLASSES = 3


class Tiny(nn.Module):
    """A convolution, a depthwise one that runs twice, a linear layer on rows, a head, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.rows = nn.Linear(4, 5)
        self.head = nn.Linear(5, CLASSES)
        self.never = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.twice(torch.tanh(self.stem(x))))))
        return 3 * self.head(torch.tanh(self.rows(x.flatten(2).mT)).mean(1))


NAMES = ["stem", "twice", "rows", "head", "never"]
AXES = {"stem": 1, "twice": 1, "rows": 2, "head": 1}  # of the channels


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def reference(network: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """The sum over classes of p(c) (d log p(c) / d y)^2, image by image."""
    outputs: list[tuple[str, torch.Tensor]] = []
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.append((name, output))
        )
        for name in NAMES
    ]
    found = dict.fromkeys(AXES, 0.0)
    for image in images:
        outputs.clear()
        logs = network(image[None]).log_softmax(1)[0]
        for log in logs:
            gradients = torch.autograd.grad(log, [output for _, output in outputs], retain_graph=True)
            for (name, output), gradient in zip(outputs, gradients, strict=True):
                channels = output.shape[AXES[name]]
                found[name] += float(log.detach().exp() * gradient.double().square().sum()) / channels / len(images)
    for hook in hooks:
        hook.remove()
    return found


def test_the_mean_over_all_signs_is_the_sum_over_classes(network, images, monkeypatch):
    signs = iter(itertools.product([-1.0, 1.0], repeat=CLASSES))
    total = dict.fromkeys(AXES, 0.0)
    for drawn in signs:
        fixed = torch.tensor(drawn).expand(len(images), CLASSES)
        monkeypatch.setattr(torch, "randint", lambda *_, fixed=fixed, **__: (fixed + 1) / 2)
        for name, value in output_sensitivities(network, NAMES, images).items():
            total[name] += value / 2**CLASSES
    expected = reference(network, images)
    assert total.keys() == expected.keys()
    assert [total[name] for name in expected] == pytest.approx(list(expected.values()), rel=1e-4)


def test_random_signs_are_close_to_the_sum_over_classes(network):
    many = torch.randn(600, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    found, expected = output_sensitivities(network, NAMES, many), reference(network, many)
    assert [found[name] for name in expected] == pytest.approx(list(expected.values()), rel=0.15)


def test_noise_at_the_outputs_raises_the_divergence_as_predicted(network):
    images = torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    found = output_sensitivities(network, ["stem"], images)["stem"]
    variance, generator = 1e-4, torch.Generator().manual_seed(4)
    before = network(images).log_softmax(1).detach()
    hook = network.stem.register_forward_hook(
        lambda _module, _inputs, output: output + variance**0.5 * torch.randn(output.shape, generator=generator)
    )
    after = torch.stack([network(images).log_softmax(1).detach() for _ in range(8)])
    hook.remove()
    divergence = float((before.exp() * (before - after)).double().sum(2).mean())
    assert divergence == pytest.approx(variance * found * 4 / 2, rel=0.15)


def test_a_layer_that_does_not_run_is_left_out_and_the_network_stays_as_it_is(network, images):
    training = copy.deepcopy(network).train()
    before = copy.deepcopy(training.state_dict())
    found = output_sensitivities(training, NAMES, images)
    assert list(found) == ["stem", "twice", "rows", "head"]
    assert training.training
    assert all(torch.equal(before[name], value) for name, value in training.state_dict().items())
    assert all(parameter.grad is None for parameter in training.parameters())
    assert not any(module._forward_hooks for module in training.modules())


def test_the_seed_decides_the_signs_and_the_global_generator_stays(network, images):
    state = torch.random.get_rng_state()
    first, again, other = (output_sensitivities(network, NAMES, images, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_and_ranks_give_the_same_numbers(network):
    images = torch.randn(sensitivity.MOST_AT_ONCE + 7, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    whole = output_sensitivities(network, NAMES, images, seed=1)
    shares = in_shares(
        2, images, lambda mine, shard: output_sensitivities(copy.deepcopy(network), NAMES, mine, seed=1, shard=shard)
    )
    for share in shares:
        assert share == pytest.approx(whole, rel=1e-4)


def test_certain_predictions_have_no_sensitivity(network, images):
    certain = copy.deepcopy(network)
    certain.head.weight.data.zero_()
    certain.head.bias.data.copy_(torch.tensor([1e4, 0.0, 0.0]))
    assert output_sensitivities(certain, ["stem"], images) == {"stem": 0.0}


def test_outputs_that_are_no_logits_count_by_their_squared_error():
    """The mean over signs of the squared gradient is the sum of squares of the Jacobian."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 2)).eval()
    images = torch.randn(4, 1, 6, 6)
    found = [output_sensitivities(network, ["0", "2"], images, seed=seed, logits=False) for seed in range(200)]
    assert {each["2"] for each in found} == {9.0}  # every gradient is a sign, at 3 x 3 positions
    inner = network[0](images).detach()
    jacobian = torch.autograd.functional.jacobian(network[1:], inner)  # (4, 3, 3, 3, 4, 2, 4, 4)
    exact = float(jacobian.square().sum()) / 2 / 4
    assert sum(each["0"] for each in found) / len(found) == pytest.approx(exact, rel=0.05)
    torch.testing.assert_close(found[0], output_sensitivities(network, ["0", "2"], images, seed=0, logits=False))
