"""From an artifact to a network that is ready to use."""

from pathlib import Path

import torch
from torch import nn

from pipeline.artifact.codec import decode
from pipeline.artifact.files import naming, open_artifact
from pipeline.artifact.header import Header
from pipeline.errors import DataError, OptionsError
from pipeline.models.registry import build_model, builder_of
from pipeline.network_record import NetworkRecord, build_network, check_shapes


def load(path: Path | str, *, model: nn.Module | None = None, allow_import: bool = False) -> nn.Module:
    """Load a compressed network; the file alone is enough.

    Args:
        path: An artifact.
        model: The uncompressed architecture to fill, for a network that this package cannot build.
        allow_import: Whether the file may name a ``module:callable`` of yours to import and call.

    Returns:
        The network in evaluation mode on the CPU, with ordinary dense convolutions.

    Raises:
        DataError: The file is missing or damaged, or does not fit its network.
        OptionsError: The file names a ``module:callable`` that may not be or cannot be imported.
    """
    header, contents = open_artifact(path)
    with naming(path):
        record = decode(contents)
    return build_network(record, _architecture(header, record, allow_import) if model is None else model)


def _architecture(header: Header, record: NetworkRecord, allow_import: bool) -> nn.Module:
    """The network that the header names, its shapes compared with the file's before it takes memory."""
    _check_builder(header)
    if ":" in header.model:
        with torch.random.fork_rng():
            return build_model(header.model, header.classes, allow_import=allow_import)
    with torch.random.fork_rng(), torch.device("meta"):
        model = build_model(header.model, header.classes)
    check_shapes(record, model)
    if not model.state_dict().keys() >= {name for name, _ in model.named_buffers()}:  # some are in no file
        with torch.random.fork_rng():
            return build_model(header.model, header.classes)
    model.to_empty(device="cpu")
    for name, counter in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            counter.zero_()
    return model


def _check_builder(header: Header) -> None:
    try:
        known = builder_of(header.model, header.classes)
    except OptionsError as error:
        raise DataError(f"artifact: {error}") from None
    if (header.builder, header.arguments) != known:
        raise DataError(
            f"artifact: {header.model!r} was built by {header.builder!r} with {header.arguments}; allowed: "
            f"{known[0]!r} with {known[1]}, which this version uses"
        )
