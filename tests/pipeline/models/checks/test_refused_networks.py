"""Networks that the check before any work refuses, because a figure of them would be wrong."""

import itertools
import weakref
from contextlib import nullcontext
from functools import cached_property

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import OptionsError
from tests.pipeline.models.checks.checking import Base, check, kept


class RandomEval(Base):
    def features(self, x):
        return functional.dropout(super().features(x), 0.5, training=True)


class PlainList(Base):
    def __init__(self):
        super().__init__()
        self.more = [nn.Conv2d(4, 4, 3, padding=1)]

    def features(self, x):
        return self.more[0](super().features(x))


COUNTER = itertools.count(1)


class ChangingAttribute(Base):
    def __init__(self):
        super().__init__()
        self.factor = next(COUNTER)

    def features(self, x):
        return super().features(x) * self.factor


class Closure(Base):
    def __init__(self):
        super().__init__()
        own = self
        self.forward = lambda x: Base.forward(own, x)


class PartOfAnother(Base):
    """A copy of a network whose method belongs to the original; a copy of this copy computes with it, too."""

    def __init__(self):
        super().__init__()
        own = Base()
        self.features = own.features


class WeakParent(Base):
    def __init__(self):
        super().__init__()
        self.parent = weakref.ref(OTHER)

    def features(self, x):
        return self.norm(self.conv2(self.parent().conv1(x)))


OTHER = Base()


class SlightNoise(Base):
    """Its outputs differ by far less than the last bits of an exact change of the network may."""

    def forward(self, x):
        return super().forward(x) + 1e-6 * torch.rand(4)


class SlowCounter(Base):
    """It counts its passes in evaluation mode, too, and adds a little more each time."""

    passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x) + 1e-5 * self.passes


class Merging(Base):
    """Its mode changes a weight, as layers with updates of low rank do."""

    merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.conv2.weight.data += 1 - 2 * self.merged
            self.merged = not mode
        return super().train(mode)


class FixedBatch(Base):
    def forward(self, x):
        return self.fc(self.features(x).reshape(4, 4, -1).mean(2))


class FullBatch(Base):
    def forward(self, x):
        return super().forward(x) + torch.ones(4, 1)[: max(4, len(x))].expand(4, 4)


class SparseBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("neighbours", torch.eye(4).to_sparse())


class SharedMemory(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("first", self.conv1.weight.data[1:])


class SharedBehindAnother(Base):
    """In memory, another parameter begins between the parameter and the buffer that shares its end."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Parameter(self.conv1.weight.data[1:2])
        self.register_buffer("end", self.conv1.weight.data[2:])


class RenamedState(Base):
    def __init__(self):
        super().__init__()
        self._register_state_dict_hook(_rename)


def _rename(module, state, prefix, metadata):
    for name in list(state):
        state[f"net.{name}"] = state.pop(name)


class TrainingOnly(Base):
    def forward(self, x):
        if self.training:
            raise RuntimeError("size mismatch")
        return super().forward(x)


class Prototypes(Base):
    """Normalizes the weight of the classifier once, and again after it was trained."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, x):
        if self.training or not self.kept:
            self.kept = {"directions": functional.normalize(self.fc.weight.detach(), dim=1)}
        return functional.linear(self.features(x).mean((2, 3)), self.kept["directions"])


class CachedProperty(Base):
    @cached_property
    def scale(self):
        return self.fc.weight.detach().norm().item()

    def forward(self, x):
        return super().forward(x) * self.scale


class CachedAttribute(Base):
    def forward(self, x):
        if not hasattr(self, "scale"):
            self.scale = self.fc.weight.detach().norm()
        return super().forward(x) * self.scale


class Expanded(Base):
    def __init__(self):
        super().__init__()
        self.conv2.weight = nn.Parameter(torch.randn(1, 4, 3, 3).expand(4, 4, 3, 3))


class ClosureHook(Base):
    """Keeps maps by a hook that its copies share."""

    def __init__(self):
        super().__init__()
        self.maps = {}
        self.conv1.register_forward_hook(lambda module, inputs, output: self.maps.update(last=output))

    def features(self, x):
        return super().features(x) + self.maps["last"]


class LateLayer(Base):
    """Its forward makes a layer when it first runs, so that a network built again lacks it."""

    def features(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Conv2d(4, 4, 1)
        return self.late(super().features(x))


class ScalarFirst(Base):
    def forward(self, x):
        logits = super().forward(x)
        return logits.square().mean(), logits


class Sequence(Base):
    def forward(self, x):
        return self.fc(self.features(x).mean(2).permute(2, 0, 1))


class Ensemble(Base):
    def forward(self, x):
        logits = super().forward(x)
        return torch.stack([logits, 2 * logits, 3 * logits])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Sequence, r"^the network Sequence returns .*\(12, 4, 4\) for 4 images.*first axis.*transpose\(0, 1\)"),
        (Ensemble, r"^the network Ensemble returns .*\(3, 4, 4\) for 4 images.*first axis.*transpose\(0, 1\)"),
        (LateLayer, r"built again.*'late\.\w+'.*builder that makes all layers"),
        (Prototypes, "'kept'.*from its parameters"),
        (CachedProperty, "'scale'.*from its parameters"),
        (CachedAttribute, "'scale'.*from its parameters"),
        (Expanded, r"'conv2\.weight'.*expanded"),
        (ClosureHook, "a copy"),
        (ScalarFirst, r"--output.*\(\).*row for each image"),
        (RandomEval, "RandomEval is not deterministic"),
        (PlainList, "'more'.*ModuleList"),
        (ChangingAttribute, "built again"),
        (Closure, "it does not register"),
        (TrainingOnly, "training mode.*size mismatch"),
        (PartOfAnother, "it does not register"),
        (WeakParent, "it does not register"),
        (SlightNoise, "SlightNoise is not deterministic"),
        (SlowCounter, "SlowCounter is not deterministic"),
        (Merging, r"'conv2\.weight'.*changes with the mode"),
        (FixedBatch, r"\(4, 4\) for 2"),
        (FullBatch, "cannot take 2 images"),
        (SparseBuffer, "'neighbours'.*sparse"),
        (RenamedState, r"state dict.*'conv1\.weight'"),
        (SharedMemory, r"'first'.*memory.*'conv1\.weight'"),
        (SharedBehindAnother, r"memory.*'conv1\.weight'"),
    ],
)
def test_what_gives_wrong_figures_is_refused(make, words, caplog):
    with pytest.raises(OptionsError, match=words):
        check(make)
    assert caplog.text == "", "nothing else is said of it, such as that it mixes the images of a batch"


def test_training_mode_is_checked_only_for_a_run_that_trains():
    assert not kept(check(TrainingOnly, trained=False))


def test_the_check_leaves_the_random_generators_as_they_were():
    model = SlightNoise()
    torch.manual_seed(7)  # as the check of these tests does
    before = torch.get_rng_state()
    with pytest.raises(OptionsError):
        check(lambda: model)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("factor", "refused"), [(1, False), (2, True)])
def test_a_hook_on_all_modules_may_not_change_the_outputs(factor, refused):
    hook = nn.modules.module.register_module_forward_hook(lambda layer, inputs, output: output * factor)
    try:
        with pytest.raises(OptionsError, match="global hook") if refused else nullcontext():
            check(Base)
        assert len(nn.modules.module._global_forward_hooks) == 1
    finally:
        hook.remove()
