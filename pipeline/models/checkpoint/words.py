"""The names that common tools give to the parts of a checkpoint."""

import re
from typing import Final

from torch import Tensor

# In names of parameters, these parts come from wrappers: DataParallel and DDP, torch.compile, FSDP, activation
# checkpointing, DeepSpeed and Lightning, Opacus.
_WRAPPERS: Final = frozenset(
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_module"]
)
# torchvision's published DenseNets have keys with `norm.1`; the network's parameters are named `norm1`.
_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_KNOWN: Final = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params",
    "module", "state", "student", "ema", "model_ema", "state_dict_ema", "ema_state_dict",
)  # fmt: skip
_AVERAGED: Final = frozenset(
    ["ema", "emas", "swa", "avg", "averaged", "average", "polyak", "teacher", "momentum", "target", "k"]
)
_EMA: Final = frozenset(["ema", "emas", "swa", "averaged", "polyak", "teacher"])
_TRAINING: Final = re.compile(r"optim(izer)?s?(_states?(_dicts?)?)?|schedulers?|grads?|scaler")
# Such as `criterion.weight`, `loss_fn.pos_weight`, `train_acc.tp`, `val_metrics.confmat`.
_LOSS: Final = re.compile(
    r"(\w+_)?(loss(es)?|criteri(on|a)|metrics?|acc|acc1|acc5|accuracy|top1|top5|f1|auroc|auc|precision|recall|confmat"
    r"|confusion|confusion_matrix|perplexity)\d*(_?(fn|func|function|module|s|ce|bce|kd))?"
)
_NORMALIZATION: Final = frozenset(["mean", "std", "pixel_mean", "pixel_std", "image_mean", "image_std"])
# The modules that torch.ao's prepare and prepare_qat insert; FX numbers those of activations.
_OBSERVER: Final = re.compile(r"weight_fake_quant|activation_post_process(_\d+)?")
_COUNTERS: Final = frozenset(
    [
        "n_averaged", "num_updates", "num_batches_tracked", "decay", "step", "steps", "epoch", "global_step",
        "total_ops", "total_params",  # of thop, in every layer
    ]
)  # fmt: skip


def canonical(path: str) -> str:
    """Return a dotted name without the parts that wrappers add, such as ``module`` and ``_orig_mod``."""
    *parts, last = _DENSENET.sub(r"\1\2", path).split(".")
    return ".".join([part for part in parts if part not in _WRAPPERS] + [last])


def is_wrapper(part: str) -> bool:
    """Return True for a part of a name that a wrapper adds."""
    return part in _WRAPPERS


def rank(path: str) -> tuple[int, ...]:
    """Return the order of preference of a path: the file itself, then known names, then unknown ones."""
    return tuple(_KNOWN.index(part) if part in _KNOWN else len(_KNOWN) for part in path.split(".") if path)


def is_averaged(path: str) -> bool:
    """Return True if a part of the path names an average of weights, such as ``model_ema``, or a teacher."""
    return any(_words(part) & _AVERAGED for part in path.split("."))


def is_of_training(path: str) -> bool:
    """Return True if a part of the path names the state of an optimizer or of another tool of training."""
    return any(_TRAINING.fullmatch(part) for part in path.lower().split("."))


def is_harmless(name: str, tensor: Tensor) -> bool:
    """Return True if the outputs of a network cannot need an entry that it lacks.

    Counters and other integers, losses, metrics, averaged copies, the mean and the deviation of images, and observers
    and fake quantizers are harmless. Every other floating entry may be the weight of a layer.
    """
    *parts, last = name.split(".")
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return (
        last in _COUNTERS
        or (whole and last not in ("weight", "bias"))
        or is_normalization(name, tensor)
        or is_of_observer(name)
        or any(_LOSS.fullmatch(part.lower()) or _words(part) & _EMA for part in parts)
    )


def is_normalization(name: str, tensor: Tensor) -> bool:
    """Return True for the mean or the deviation of images, with one value per channel."""
    return name.rpartition(".")[2] in _NORMALIZATION and tensor.numel() <= 4


def is_of_observer(name: str) -> bool:
    """Return True for the state of an observer or a fake quantizer that torch.ao inserts beside float weights."""
    return any(_OBSERVER.fullmatch(part) for part in name.split("."))


def _words(part: str) -> set[str]:
    return set(re.split(r"[_\-\s]", part.lower()))
