"""The check of a network before any work: what it refuses, and what it marks to be kept."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from basis.layers import is_regular
from basis.swap import compressible_convolutions
from pipeline.errors import DataError, OptionsError
from pipeline.models.outputs import select_output
from pipeline.models.preparation import plain_copy
from pipeline.runtime.device import placed
from tests.pipeline.models.checks.checking import IMAGES, Base, check, kept


class OwnPadding(nn.Conv2d):
    def forward(self, x):
        return super().forward(functional.pad(x, (1, 1, 1, 1)))


class Functional(Base):
    def forward(self, x):
        x = functional.conv2d(x, self.conv1.weight, self.conv1.bias, padding=1)
        return self.fc(self.norm(self.conv2(x)).mean((2, 3)))


class Alias(Base):
    def __init__(self):
        super().__init__()
        self.order = [self.conv1, {"second": self.conv2}]

    def features(self, x):
        return functional.relu(self.norm(self.order[1]["second"](self.order[0](x))))


class Tied(Base):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3.weight = self.conv2.weight

    def features(self, x):
        return self.conv3(super().features(x))


class Hooked(Base):
    def __init__(self):
        super().__init__()
        self.conv1.register_forward_hook(lambda module, inputs, output: 2 * output)
        self.seen = []
        self.conv2.register_forward_hook(self.see)

    def see(self, module, inputs, output):
        self.seen[:] = [output.shape]


class Patched(Base):
    def __init__(self):
        super().__init__()
        self.conv1.forward = types.MethodType(lambda conv, x: nn.Conv2d.forward(conv, x) + 1, self.conv1)


class Keyword(Base):
    def features(self, x):
        return self.norm(self.conv2(input=self.conv1(x)))


class Subclass(Base):
    def __init__(self):
        super().__init__()
        self.conv2 = OwnPadding(4, 4, 3)


class KeptByHook(Base):
    """Its hook keeps an output in an attribute. A copy without the hook has the old output, of the same images."""

    def __init__(self):
        super().__init__()
        self.conv1.register_forward_hook(self.keep)
        self.first = None

    def keep(self, module, inputs, output):
        self.first = output

    def forward(self, x):
        return super().forward(x) + self.first.mean((1, 2, 3))[:, None]


class ListedByHook(KeptByHook):
    """Its hook fills a list, which is empty without the hook."""

    def keep(self, module, inputs, output):
        self.first.append(output)

    def forward(self, x):
        self.first = []
        return Base.forward(self, x) + self.first[0].mean((1, 2, 3))[:, None]


class OneByOne(Base):
    def features(self, x):
        first = torch.stack([self.conv1(image) for image in x])
        return self.norm(torch.vmap(self.conv2)(first))


class TiedBias(Base):
    def __init__(self):
        super().__init__()
        self.conv2.bias = self.conv1.bias


class TwoDilations(Base):
    """One layer runs at two dilations, which its attributes show only while it runs."""

    def features(self, x):
        x = self.conv1(x)
        self.conv2.dilation = self.conv2.padding = (2, 2)
        far = self.conv2(x)
        self.conv2.dilation = self.conv2.padding = (1, 1)
        return self.norm(far + self.conv2(x))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (Functional, {"conv1"}),
        (Alias, {"conv1", "conv2"}),
        (Tied, {"conv2", "conv3"}),
        (Hooked, {"conv1"}),
        (Patched, {"conv1"}),
        (Keyword, {"conv2"}),
        (Subclass, {"conv2"}),
        (KeptByHook, {"conv1"}),
        (ListedByHook, {"conv1"}),
        (OneByOne, {"conv1", "conv2"}),
        (TiedBias, {"conv1", "conv2"}),
        (TwoDilations, {"conv2"}),
    ],
)
def test_layers_that_cannot_be_replaced_are_kept_with_a_reason(make, names):
    model = check(make)
    assert kept(model).keys() == names
    assert (
        set(compressible_convolutions(copy.deepcopy(model)))
        == set(dict(make().named_modules()))
        & {
            "conv1",
            "conv2",
            "conv3",
        }
        - names
    )


def test_statistics_that_other_code_reads_are_kept():
    class Reader(Base):
        def features(self, x):
            return super().features(x) * self.norm.running_var.mean()

    def make():
        model = Reader()
        model.norm.running_var.fill_(3.0)
        return model

    assert kept(check(make)).keys() == {"norm"}


SMOOTHING = nn.Parameter(torch.full((4, 1, 3, 3), 1 / 9), requires_grad=False)


class ConstantKernel(Base):
    """It computes with parameters that are constants of its code."""

    def features(self, x):
        own = nn.Parameter(torch.ones(4, 1, 1, 1), requires_grad=False)
        smooth = functional.conv2d(super().features(x), SMOOTHING, padding=1, groups=4)
        return functional.conv2d(smooth, own, groups=4)


def test_a_network_that_views_its_maps_stays_in_contiguous_memory():
    class Flat(Base):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4 * 12 * 12, 4)

        def forward(self, x):
            return self.fc(self.features(x).view(len(x), -1))

    model = placed(check(Flat), torch.device("cpu")).eval()
    assert torch.equal(model(IMAGES.to(memory_format=torch.channels_last)), Flat().eval()(IMAGES))
    assert placed(check(Base), torch.device("cpu")).conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_constants_may_be_parameters():
    assert not kept(check(ConstantKernel))


def test_state_that_no_file_holds_is_said(caplog):
    class Extra(Base):
        def get_extra_state(self):
            return {"factor": 2}

        def set_extra_state(self, state):
            pass

    check(Extra)
    assert "extra state" in caplog.text


def test_a_traced_network_keeps_the_hook_that_selects_its_output():
    class Named(Base):
        def forward(self, x):
            return {"logits": super().forward(x), "first": x}

    model = select_output(torch.fx.symbolic_trace(Named()), None)
    assert plain_copy(model)(IMAGES).shape == (4, 4)


def test_another_number_of_classes_is_refused():
    with pytest.raises(DataError, match=r"\(4, 4\).*5 classes"):
        check(Base, classes=5)


def test_an_output_of_another_rank_is_refused_as_the_networks():
    class Maps(Base):
        def forward(self, x):
            return super().forward(x)[..., None, None]

    with pytest.raises(OptionsError, match=r"\(4, 4, 1, 1\).*\(4, 4\)"):
        check(Maps)


def test_a_network_in_another_precision_is_named():
    with pytest.raises(OptionsError, match=r"torch\.float64.*float32.*network\.float\(\)"):
        check(lambda: Base().double())


def test_the_output_of_training_may_be_a_tuple():
    class Auxiliary(Base):
        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    model = check(Auxiliary)
    assert model.train()(IMAGES).shape == (4, 4)


class Converting(nn.Conv2d):
    """Its forward computes what that of ``nn.Conv2d`` does, as many wrappers of convolutions do."""

    def forward(self, x):
        if not len(x):
            return x.new_empty(0, self.out_channels, *x.shape[2:])
        return functional.conv2d(x.to(self.weight.dtype), self.weight, self.bias, self.stride, self.padding)


class Limited(Converting):
    def forward(self, x):
        limited = self.weight.clamp(-1, 1)  # which no value reaches at first
        return functional.conv2d(x, limited, self.bias, self.stride, self.padding)


class Scaled(Converting):
    def __init__(self, *arguments, **words):
        super().__init__(*arguments, **words)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.gain


class Dropping(Converting):
    def forward(self, x):
        weight = functional.dropout(self.weight, 0.1, self.training)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize(
    ("kind", "kept_names"), [(Converting, set()), *((k, {"conv2"}) for k in (Limited, Scaled, Dropping))]
)
def test_a_forward_of_its_own_that_computes_the_same_is_replaced(kind, kept_names):
    def make():
        model = Base()
        model.conv2, model.fc = kind(4, 4, 3, padding=1), OwnLinear(4, 4)
        return model

    model = check(make)
    assert kept(model).keys() == kept_names
    assert is_regular(model.fc)
    assert model.conv2.weight.abs().max() < 1, "the check leaves the weights alone"
