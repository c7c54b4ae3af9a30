"""Load weights from a file or from torchvision into a network: all of them or, after an error, none."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.models import build_model
from pipeline.models.checkpoint.contents import unusable
from pipeline.models.checkpoint.entries import Content, list_entries
from pipeline.models.checkpoint.files import read_checkpoint
from pipeline.models.checkpoint.matching import Match, match_weights
from pipeline.models.checkpoint.names import identity
from pipeline.models.checkpoint.reparametrized import other_forms
from pipeline.models.checkpoint.words import is_normalization, is_of_observer
from pipeline.models.claims import Claim, checkpoint_claim
from pipeline.models.torchvision_models import download_weights
from pipeline.runtime.randomness import RandomStream

logger = logging.getLogger(__name__)


class LoadedWeights(NamedTuple):
    """The weights of a checkpoint that were loaded.

    Attributes:
        key: Their path in the file, if there were others or if it was given; else an empty text.
        claim: The Top-1 that the file states; None if it states none.
    """

    key: str
    claim: Claim | None


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> LoadedWeights:
    """Load the weights of a checkpoint into ``model``, in place, without running any code that the file may hold.

    The weights are found below any keys and prefixes, see ``pipeline.models.checkpoint.matching``. Of several sets of
    weights, averages (EMA) are the last choice; the choice is logged. Entries that the network does not need are
    logged too. Any floating dtype is converted to the network's, and integers in floating point to integers. Counters
    of batch normalization (``num_batches_tracked``) may be missing.

    Args:
        model: The network, on a real device.
        path: See ``pipeline.models.checkpoint.files.read_checkpoint``.
        key: Path of the weights in the file, such as ``model_ema`` or ``state_dict.student``; None finds them.

    Raises:
        DataError: The file is missing, damaged or without weights in float, or has no such key. Or names, shapes,
            dtypes or values do not fit the network. The network is then unchanged.
    """
    source = f"the checkpoint {path}"
    read = read_checkpoint(path)
    content = list_entries(read)
    if key is not None:
        content = _chosen(content, key, source)
        source = f"{source} at {key}"
    try:
        match = _loaded(model, content, source)
    except DataError as error:
        known = unusable(content)
        if known is None:
            raise
        raise DataError(f"{source} {known}") from error
    _log_choice(match, source)
    found = match.chosen if key is None else ".".join(part for part in (key, match.chosen) if part)
    return LoadedWeights(found if match.others or key else "", checkpoint_claim(read))


def load_torchvision_weights(model_name: str, classes: int, weights_name: str) -> nn.Module:
    """Build a torchvision classifier with torchvision's own weights.

    Args:
        model_name: A torchvision classifier's name.
        classes: Classes of the data; the weights must have the same number.
        weights_name: Name of the weights, such as ``IMAGENET1K_V1``.

    Returns:
        The network, in training mode.

    Raises:
        OptionsError: torchvision has no such network or weights.
        DataError: The class counts differ, or the download fails.
    """
    state = download_weights(model_name, classes, weights_name)
    with RandomStream(0, torch.device("cpu")).drawn_from():  # the caller's generators do not change
        model = build_model(model_name, classes)
    source = f"torchvision's {weights_name} of {model_name}"
    _copy_weights(model, match_weights(model, list_entries(dict(state)), source), source)
    return model


def _loaded(model: nn.Module, content: Content, source: str) -> Match:
    if not content.entries:
        raise DataError(f"{source} holds no weights: {_described(content)}; a state dict is needed")
    match = _match(model, content, source)
    _copy_weights(model, match, source)
    return match


def _match(model: nn.Module, content: Content, source: str) -> Match:
    try:
        return match_weights(model, content, source)
    except DataError:
        for other in other_forms(content):
            with suppress(DataError):
                match = match_weights(model, other, source)
                logger.info("%s: parts of reparametrized weights were folded or renamed", source)
                return match
        raise


def _chosen(content: Content, key: str, source: str) -> Content:
    found = content.under(key)
    if found.entries:
        return found
    keys = content.weight_keys()
    if key in content.others:
        raise DataError(
            f"--weights-key {key}: {source} has a {found.kind} there; allowed: {', '.join(keys) or 'no key'}"
        )
    raise DataError(
        f"--weights-key {key}: {source} has no such key with weights; allowed: {', '.join(keys) or 'no key'}"
    )


def _described(content: Content) -> str:
    if not content.others:
        return "it is empty" if content.kind == "dict" else f"it is a {content.kind}"
    nested = sorted(content.others.items(), key=lambda other: other[0].count("."))
    listed = [f"{path} ({kind})" for path, kind in nested]
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"it is a {content.kind} of {', '.join(listed[:8])}{more}"


def _log_choice(match: Match, source: str) -> None:
    chosen = match.chosen or "the names at the top"
    if match.others:
        logger.info("%s: loaded %s; it also has %s (--weights-key)", source, chosen, ", ".join(match.others))
    elif match.chosen:
        logger.info("%s: loaded %s", source, chosen)
    if match.left_out:
        names = [entry.path for entry in match.left_out]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        logger.info("%s: left out %s%s, which the network does not have", source, ", ".join(names[:5]), more)
    applied = [entry.path for entry in match.left_out if is_normalization(entry.name, entry.tensor)]
    if applied:
        logger.warning("%s: %s normalized the images; check that this run does the same", source, ", ".join(applied))
    if any(is_of_observer(entry.name) for entry in match.left_out):
        logger.warning("%s: its float weights are used, without the fake quantization of its training", source)


def _copy_weights(model: nn.Module, match: Match, source: str) -> None:
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    # A network may return copies in its state dict, for example in half precision.
    own = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    wanted |= {name: tensor for name, tensor in own if name in wanted}
    found = {name: entry.tensor for name, entry in match.sources.items()}
    _check_shapes(model, wanted, found, source)
    converted = {name: _converted(name, tensor, wanted[name], source) for name, tensor in found.items()}
    _check_ties(wanted, converted, source)
    with torch.no_grad():
        for name, tensor in converted.items():
            wanted[name].copy_(tensor)


def _check_shapes(model: nn.Module, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    differ = [name for name, tensor in found.items() if not _same_shape(tensor, wanted[name])]
    if not differ:
        return
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]
    name = differ[0]
    got, need = tuple(found[name].shape), tuple(wanted[name].shape)
    if all(other.rpartition(".")[0] in last for other in differ) and got[1:] == need[1:]:
        raise DataError(
            f"{source} has {got[0]} classes (its {name} has the shape {got}), but the data has "
            f"{need[0]}; the two must be the same"
        )
    raise DataError(f"{source} does not fit the network: {name} has the shape {got}, but {need} is needed")


def _same_shape(tensor: Tensor, wanted: Tensor) -> bool:
    """Return True for equal shapes, and for single values, which old checkpoints store with a dimension."""
    return tensor.shape == wanted.shape or (tensor.dim() + wanted.dim() == 1 and tensor.numel() == 1)


def _check_ties(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Check that two names of one tensor of the network have the same values."""
    first: dict[object, str] = {}
    for name, tensor in found.items():
        other = first.setdefault(identity(wanted[name]) or name, name)
        if other != name and not torch.equal(tensor, found[other]):
            raise DataError(
                f"{source} does not fit the network: {other} and {name} differ, but are one tensor in the network"
            )


def _converted(name: str, tensor: Tensor, wanted: Tensor, source: str) -> Tensor:
    kind = _kind(wanted)
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    whole = dense and kind == "integer" and tensor.is_floating_point() and _are_whole(name, tensor)
    if not dense or (_kind(tensor) != kind and not whole):
        raise DataError(
            f"{source} does not fit the network: {name} has the dtype {tensor.dtype}, but a "
            f"dense {kind} tensor is needed"
        )
    tensor = tensor.nan_to_num() if whole else tensor  # a counter above the largest float16 is inf
    converted = tensor.detach().to(wanted.dtype).reshape(wanted.shape)
    if (~torch.isfinite(converted) & torch.isfinite(wanted)).any():  # an attention mask may hold -inf
        raise DataError(f"{source} is damaged: {name} holds values that are not finite in {wanted.dtype}")
    if name.rpartition(".")[2] == "running_var" and (converted < 0).any():
        raise DataError(
            f"{source} is damaged: {name} holds variances down to {converted.min():.6g}; allowed: 0 or more"
        )
    return converted


def _are_whole(name: str, tensor: Tensor) -> bool:
    """Return True for floats that are the integers from which ``half()`` on a whole state dict made them.

    They must be whole numbers in the range in which the dtype has all of them. Counters of batch normalization may be
    rounded, because they may also be missing.
    """
    counts = name.rpartition(".")[2] == "num_batches_tracked"
    values, limit = tensor.double(), torch.inf if counts else 2 / torch.finfo(tensor.dtype).eps - 1
    return bool(((values == values.round()) & (values >= (0 if counts else -limit)) & (values <= limit)).all())


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "boolean"
    return "complex" if tensor.is_complex() else "floating" if tensor.is_floating_point() else "integer"
