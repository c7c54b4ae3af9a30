"""Networks: the CIFAR ResNets, torchvision's classifiers and a user's own."""

from pipeline.models.registry import build_model, check_forward, model_names

__all__ = ["build_model", "check_forward", "model_names"]
