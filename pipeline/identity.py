"""What the artifacts of a run say of their network."""

from pipeline.artifact import Identity
from pipeline.data.dataset import Dataset


def dataset_identity(model_name: str, data: Dataset) -> Identity:
    """The identity of a network on a data set."""
    mean, std = data.normalization.mean, data.normalization.std
    return Identity(model_name, data.classes, data.class_names, mean, std, data.image_size)
