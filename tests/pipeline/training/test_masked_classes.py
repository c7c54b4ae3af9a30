"""Networks that mask classes by logits of -inf: the other logits are trained."""

import pytest
import torch

from pipeline import compress
from pipeline.errors import DataError
from pipeline.training.step import TrainingBatch, classification_loss, refuse_masked
from pipeline.training.teacher import TeacherOutput
from tests.pipeline.compression.networks import Net, images, labels_of, seeded


class Masked(Net):
    """Class 2 is masked, so that the classes 0, 1, 3 and 4 remain."""

    def __init__(self):
        super().__init__(5)

    def forward(self, x):
        return super().forward(x).masked_fill(torch.arange(5) == 2, -torch.inf)


X = images(640)
Y = torch.tensor([0, 1, 3, 4])[labels_of(X)]
REST = [0, 1, 3, 4]


def test_the_loss_is_that_of_the_other_classes():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 5, generator=generator)
    student.requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    masked = torch.arange(5) == 2
    plain = TrainingBatch(X[:8], labels, TeacherOutput(teacher[:, REST]))
    batch = TrainingBatch(X[:8], torch.tensor(REST)[labels], TeacherOutput(teacher.masked_fill(masked, -torch.inf)))
    found = classification_loss(student.masked_fill(masked, -torch.inf), {}, batch)
    assert float(found.detach()) == pytest.approx(
        float(classification_loss(student[:, REST], {}, plain).detach()), rel=1e-5
    )
    found.backward()
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize("labelled", [False, True])
def test_training_and_targets_take_the_other_classes(labelled):
    network = seeded(Masked)
    given = (X, Y) if labelled else X
    trained = compress(network, given, config="2,1,1", bits=8, epochs=12, batch_size=32, lr=0.01)
    assert not trained.training_undone
    assert bool((trained.network(X[:4])[:, 2] == -torch.inf).all())
    assert compress(network, given, target_mb=0.0015).target_met


def test_labels_of_a_masked_class_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("pipeline.compression.compress.fit_series", None)
    with pytest.raises(DataError, match=r"-inf for the class 2, .* allowed: "):
        compress(seeded(Masked), (X, labels_of(X)), config="2,1,1", epochs=1)


def test_a_class_that_is_masked_for_some_images_is_no_mask():
    logits = torch.tensor([[1.0, -torch.inf], [0.0, 1.0]])
    refuse_masked(logits, torch.tensor([1, 0]))
    with pytest.raises(DataError, match="class 1"):
        refuse_masked(logits[:1], torch.tensor([0, 1]))
