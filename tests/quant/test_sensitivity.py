"""Fisher information of stored values against explicit sums over classes, image by image."""

import copy
import itertools

import pytest
import torch
from torch import nn

from quant import sensitivity
from quant.sensitivity import GradientMoments, gradient_moments
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
RUNNING = {"stem": 1, "twice": 4, "rows": 1, "head": 1}  # groups


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def reference(network: nn.Module, images: torch.Tensor) -> dict[str, GradientMoments]:
    """Sums over classes of p(c) times products of the gradients of log p(c), image by image.

    A constant of a channel is what the bias of the layer is, so its gradient is that of the bias.
    """
    layers = [network.get_submodule(name) for name in RUNNING]
    tensors = [layer.weight for layer in layers] + [layer.bias for layer in layers]
    found: dict[str, list[torch.Tensor]] = {name: [] for name in RUNNING}
    for image in images:
        logs = network(image[None]).log_softmax(1)[0]
        for log in logs:
            gradients = torch.autograd.grad(log, tensors, retain_graph=True)
            for i, (name, groups) in enumerate(RUNNING.items()):
                rows = gradients[i].double().flatten(1).unflatten(0, (groups, -1))
                constants = gradients[i + len(layers)].double().unflatten(0, (groups, -1, 1))
                parts = rows.square().mean(1), (rows * constants).mean(1), constants.square().mean(1)
                found[name].append(torch.cat(parts, 1) * log.detach().exp().double())
    sums = {name: torch.stack(parts).sum(0) / len(images) for name, parts in found.items()}
    none = torch.zeros(())
    return {
        name: GradientMoments(*total.tensor_split([total.shape[1] // 2, -1], dim=1), none)
        for name, total in sums.items()
    }


def flat(moments: GradientMoments) -> torch.Tensor:
    return torch.cat(moments[:3], 1)


def measured(network: nn.Module, images: torch.Tensor, **words) -> dict[str, GradientMoments]:
    """The moments of all layers, each with its products."""
    return gradient_moments(network, NAMES, images, absorbing=list(RUNNING), **words)


def test_the_mean_over_all_signs_is_the_sum_over_classes(network, images, monkeypatch):
    total = dict.fromkeys(RUNNING, torch.zeros(()))
    for drawn in itertools.product([-1.0, 1.0], repeat=CLASSES):
        fixed = torch.tensor(drawn).expand(len(images), CLASSES)
        monkeypatch.setattr(torch, "randint", lambda *_, fixed=fixed, **__: (fixed + 1) / 2)
        for name, moments in measured(network, images).items():
            total[name] = total[name] + flat(moments) / 2**CLASSES
    for name, expected in reference(network, images).items():
        torch.testing.assert_close(total[name], flat(expected), rtol=1e-4, atol=1e-8)


def test_batches_of_random_signs_are_close_to_the_sum_over_classes(network):
    many = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    expected = reference(network, many)
    drawn = [measured(network, many, seed=seed) for seed in range(80)]
    assert len(many) // sensitivity.BATCHES > 1
    for name, moments in expected.items():
        squares = torch.stack([each[name].squares for each in drawn]).mean(0)
        torch.testing.assert_close(squares.mean(), moments.squares.mean(), rtol=0.15, atol=0)


@pytest.mark.parametrize("absorbed", [False, True])
def test_errors_of_stored_values_raise_the_divergence_as_predicted(network, absorbed):
    """With ``absorbed``, the bias takes the mean of the outputs' error."""
    images = torch.randn(128, 3, 4, 4, generator=torch.Generator().manual_seed(3)) + 0.5
    drawn = [measured(network, images, seed=seed)["stem"] for seed in range(60)]
    mean = nn.functional.unfold(images, 3, padding=1).double().mean((0, 2))
    variance, generator = 1e-4, torch.Generator().manual_seed(4)
    before = network(images).log_softmax(1).detach()
    divergences = []
    for _ in range(150):
        changed = copy.deepcopy(network)
        error = variance**0.5 * torch.randn(changed.stem.weight.shape, generator=generator)
        changed.stem.weight.data += error
        if absorbed:
            changed.stem.bias.data -= (error.flatten(1).double() @ mean).float()
        after = changed(images).log_softmax(1).detach()
        divergences.append(float((before.exp() * (before - after)).double().sum(1).mean()))
    fisher = torch.stack([each.centred(mean) if absorbed else each.squares for each in drawn]).mean(0)
    predicted = variance * float(fisher.sum()) * len(network.stem.weight) / 2
    assert sum(divergences) / len(divergences) == pytest.approx(predicted, rel=0.2)
    whole = sum(float(each.squares.sum()) for each in drawn)
    centred = sum(float(each.centred(mean).sum()) for each in drawn)
    assert centred != pytest.approx(whole, rel=0.3)


def test_outputs_without_a_gradient_of_the_weight_have_their_own_information(network, images):
    """The gradient of the outputs is the same, whether or not it goes on to the weight."""

    class Sign(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.weight.sign().detach(), self.bias, padding=1)

    changed = copy.deepcopy(network)
    changed.stem = Sign(3, 4, 3, padding=1)
    found = gradient_moments(changed, NAMES, images)["stem"]
    assert not found.squares.any()
    outputs = []
    hook = changed.stem.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    expected = 0.0
    for image in images:
        outputs.clear()
        logs = changed(image[None]).log_softmax(1)[0]
        for log in logs:
            (gradient,) = torch.autograd.grad(log, outputs, retain_graph=True)
            expected += float(log.detach().exp() * gradient.square().sum()) / 4 / len(images)
    hook.remove()
    drawn = [float(gradient_moments(changed, ["stem"], images, seed=seed)["stem"].outputs) for seed in range(200)]
    assert sum(drawn) / len(drawn) == pytest.approx(expected, rel=0.15)


def test_a_layer_that_does_not_run_is_left_out_and_the_network_stays_as_it_is(network, images):
    training = copy.deepcopy(network).train()
    training.stem.weight.requires_grad_(False)
    before = copy.deepcopy(training.state_dict())
    found = measured(training, images)
    assert list(found) == ["stem", "twice", "rows", "head"]
    assert training.training
    assert all(torch.equal(before[name], value) for name, value in training.state_dict().items())
    assert all(parameter.grad is None for parameter in training.parameters())
    assert [name for name, each in training.named_parameters() if not each.requires_grad] == ["stem.weight"]
    assert not any(module._forward_hooks for module in training.modules())


def test_layers_that_do_not_change_the_outputs_are_left_out(network, images):
    assert gradient_moments(network, ["never"], images) == {}
    assert gradient_moments(copy.deepcopy(network).requires_grad_(False), ["never"], images) == {}
    assert gradient_moments(network, [], images) == {}


def test_only_the_named_layers_have_products(network, images):
    with_products, without = measured(network, images)["stem"], gradient_moments(network, NAMES, images)["stem"]
    assert bool(with_products.products.any() & with_products.constants.any())
    assert not without.products.any()
    assert not without.constants.any()
    assert torch.equal(with_products.squares, without.squares)
    torch.testing.assert_close(without.centred(torch.ones(27)), without.squares)


@pytest.mark.parametrize("at_once", [1, 100])
def test_parts_of_a_gradient_give_what_the_whole_gives(network, images, monkeypatch, at_once):
    whole = measured(network, images)
    monkeypatch.setattr(sensitivity, "VALUES_AT_ONCE", at_once)
    for name, moments in measured(network, images).items():
        torch.testing.assert_close(flat(moments), flat(whole[name]))


def test_the_seed_decides_the_signs_and_the_global_generator_stays(network, images):
    state = torch.random.get_rng_state()
    first, again, other = (flat(measured(network, images, seed=seed)["stem"]) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_ranks_get_the_same_numbers_close_to_those_of_one(network):
    images = torch.randn(1200, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    whole = measured(network, images, seed=1)
    first, second = in_shares(
        2, images, lambda mine, shard: measured(copy.deepcopy(network), mine, seed=1, shard=shard)
    )
    assert list(first) == list(whole)
    for name, moments in whole.items():
        assert torch.equal(flat(first[name]), flat(second[name]))
        torch.testing.assert_close(first[name].squares.mean(), moments.squares.mean(), rtol=0.3, atol=0)


def test_ranks_of_single_images_give_the_numbers_of_one(network, images):
    """The signs belong to the images, so that batches of one image are the same on every rank."""
    whole = measured(network, images, seed=1)
    for share in in_shares(2, images, lambda mine, shard: measured(copy.deepcopy(network), mine, seed=1, shard=shard)):
        for name, moments in whole.items():
            torch.testing.assert_close(flat(share[name]), flat(moments), rtol=1e-4, atol=1e-9)


def test_certain_predictions_have_no_information(network, images):
    certain = copy.deepcopy(network)
    certain.head.weight.data.zero_()
    certain.head.bias.data.copy_(torch.tensor([1e4, 0.0, 0.0]))
    assert not flat(gradient_moments(certain, ["stem"], images)["stem"]).any()


def test_outputs_that_are_no_logits_count_by_their_squared_error():
    """The mean over signs of the squared gradient is the sum of squares of the Jacobian."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 2)).eval()
    images = torch.randn(4, 1, 6, 6)
    found = [gradient_moments(network, ["0"], images, seed=1000 * seed, logits=False)["0"] for seed in range(200)]

    def outputs(weight: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.conv2d(image[None], weight, network[0].bias)
        return network[1:](inner)

    jacobians = [torch.autograd.functional.jacobian(lambda w, x=x: outputs(w, x), network[0].weight) for x in images]
    exact = float(torch.stack(jacobians).square().sum()) / len(images) / network[0].weight.numel()
    mean = sum(float(each.squares.mean()) for each in found) / len(found)
    assert mean == pytest.approx(exact, rel=0.1)
    again = gradient_moments(network, ["0"], images, seed=0, logits=False)["0"]
    torch.testing.assert_close(flat(found[0]), flat(again))
