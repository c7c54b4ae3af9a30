"""Data sets: embedded digits, ``.npz`` files, image folders and torchvision's CIFAR folders."""

from pipeline.data.dataset import Dataset, Normalization, Split, is_imagenet
from pipeline.data.sources import load_dataset

__all__ = ["Dataset", "Normalization", "Split", "is_imagenet", "load_dataset"]
