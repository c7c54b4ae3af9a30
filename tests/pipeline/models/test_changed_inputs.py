"""A network that changes its input in place works on a copy of it."""

import copy

import pytest
import torch

from tests.pipeline.models.checks.checking import IMAGES, Base, check


def test_a_network_that_changes_its_input_gets_a_copy():
    class InPlace(Base):
        def forward(self, x):
            return super().forward(x.relu_())

    model, images = check(InPlace), IMAGES.clone()
    copy.deepcopy(model)(images)
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("where", ["outliers", "training"])
def test_an_input_that_changes_for_other_images_or_in_training_alone_is_copied(where):
    class InPlace(Base):
        def forward(self, x):
            if where == "outliers":
                x.clamp_(-100, 100)
            elif self.training:
                x.mul_(0.5)
            return super().forward(x)

    model, images = check(InPlace, trained=True).train(), 1000 * IMAGES
    before = images.clone()
    model(images.requires_grad_())
    assert torch.equal(images, before)
