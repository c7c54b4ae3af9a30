"""Registered layers that a network calls through a plain list, dict or tuple, which a replaced layer does not enter."""

import pytest

from tests.pipeline.models.checks.checking import Base, check, kept


class Listed(Base):
    container = list

    def __init__(self):
        super().__init__()
        self.layers = self.container([self.conv1, self.conv2])

    def features(self, x):
        first, second = self.layers
        return self.norm(second(first(x).relu())).relu()


class InTuple(Listed):
    container = tuple


class Unused(Listed):
    features = Base.features


@pytest.mark.parametrize("make", [Listed, InTuple])
def test_the_reason_names_the_list(make):
    reasons = kept(check(make))
    assert reasons.keys() == {"conv1", "conv2"}
    assert all("the plain attribute 'layers' still holds the former one" in reason for reason in reasons.values())


def test_a_list_that_the_forward_does_not_use_changes_nothing():
    assert kept(check(Unused)) == {}
