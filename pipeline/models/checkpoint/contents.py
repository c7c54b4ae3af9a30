"""Recognize contents that hold no weights of a float network: optimizers, quantized and sharded networks."""

import re
from collections.abc import Iterator
from typing import Final

from pipeline.models.checkpoint.entries import Content
from pipeline.models.checkpoint.words import is_of_observer, is_of_training

_GROUPS: Final = re.compile(r"(?P<home>(.+\.)?)param_groups(\.\d+\..+)?")
"""Entries of the state dict of an optimizer, as torch.optim writes it."""
_SHARDED: Final = re.compile(r"torch\.distributed\..*\b(DTensor|ShardedTensor)")
_QUANTIZED_KIND: Final = re.compile(r".*\bquantized tensor|torchao\..*")
_QUANTIZERS: Final = (
    ("torch.ao", ("scale", "zero_point")),
    ("torch.ao", ("_packed_params.dtype", "_packed_params._packed_params")),
    ("bitsandbytes", ("weight", "SCB")),
    ("bitsandbytes", ("weight.absmax", "weight.quant_map")),
    ("optimum-quanto", ("weight._data", "weight._scale")),
    ("GPTQ or AWQ", ("qweight", "qzeros")),
)
"""Library -> ends of names that one quantized layer has."""
_FLOAT_WEIGHTS: Final = "allowed: the weights in float, as they were before the quantization"


def unusable(content: Content) -> str | None:
    """Return what a checkpoint is and what to give in its place, in words that follow its name.

    Returns:
        None if the content is of no kind that is known here.
    """
    if _is_optimizer(content):
        return (
            "holds the state of an optimizer and no weights of a network; allowed: the file with the network's "
            "weights, as torch.save(network.state_dict(), FILE) writes it"
        )
    for path, kind in content.others.items():
        sharded = _SHARDED.fullmatch(kind)
        if sharded:
            return (
                f"holds shards of one process ({path} is a {sharded[1]}); allowed: whole tensors, as from "
                "get_model_state_dict of torch.distributed.checkpoint.state_dict with full_state_dict=True"
            )
    if "ds_version" in content.others and any(not entry.tensor.numel() for entry in content.entries):
        return "holds empty tensors, because DeepSpeed has divided the weights; allowed: the file of zero_to_fp32.py"
    fused = _fused(content)
    if fused is not None:
        return (
            "holds layers that torch.ao fused with their batch normalization for quantization-aware training "
            f"({fused}); allowed: the float weights under the names of the network before the fusion"
        )
    quantized = next(_quantized(content), None)
    return None if quantized is None else f"holds quantized weights ({quantized}); {_FLOAT_WEIGHTS}"


def _is_optimizer(content: Content) -> bool:
    """Return True if there is an optimizer, and every tensor belongs to one."""
    homes = {found["home"] for path in content.others if (found := _GROUPS.fullmatch(path))}
    states = tuple(f"{home}{part}." for home in homes for part in ("state", "param_groups"))
    return bool(homes) and all(is_of_training(entry.path) or entry.path.startswith(states) for entry in content.entries)


def _fused(content: Content) -> str | None:
    """Return a name of the batch normalization in a layer with a fake quantizer; None without one."""
    paths = {entry.path for entry in content.entries}
    layers = {path.partition(".weight_fake_quant.")[0] for path in paths if ".weight_fake_quant." in path}
    return next((name for layer in sorted(layers) if (name := f"{layer}.bn.running_mean") in paths), None)


def _quantized(content: Content) -> Iterator[str]:
    """Yield evidence of quantized layers, in words."""
    entries = [entry for entry in content.entries if not is_of_observer(entry.path)]
    kinds = {**{entry.path: str(entry.tensor.dtype) for entry in entries}, **content.others}
    for path, kind in kinds.items():
        if _QUANTIZED_KIND.fullmatch(kind):
            yield f"{path} is a {kind}"
    for library, (end, other) in _QUANTIZERS:
        for path in kinds:
            layer = path.removesuffix(end)
            if path.endswith(end) and (not layer or layer.endswith(".")) and f"{layer}{other}" in kinds:
                yield f"{path} and {layer}{other}, as of {library}"
