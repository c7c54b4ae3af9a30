"""Write artifacts to files, and read files back: as tensors or as a network that is ready to use."""

import gc
import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from basis.errors import CompressionError
from pipeline.artifact.codec import decode, serialize, table_of
from pipeline.artifact.container import Contents, split
from pipeline.artifact.execution import blank_sample, check_execution, with_execution
from pipeline.artifact.header import OBJECT, Header, Identity, class_names, read_header
from pipeline.artifact.record import NetworkRecord, build_network, check_shapes, exact_record
from pipeline.errors import DataError, OptionsError, described
from pipeline.models.checks.unstored import changing_tensor
from pipeline.models.preparation import (
    fold_parametrizations,
    initialize_lazy_modules,
    refuse_meta_tensors,
    without_wrappers,
)
from pipeline.models.registry import build_model, build_plain, builder_of
from pipeline.options.paths import check_local, parse_argument
from pipeline.runtime.randomness import RandomStream, python_generators
from reports.files import write_atomically

logger = logging.getLogger(__name__)

Architecture: TypeAlias = nn.Module | Callable[[], nn.Module]
"""An uncompressed network whose values do not matter, or a class or function that returns one."""


def load(
    path: Path | str,
    *,
    network: Architecture | None = None,
    allow_import: bool = False,
    execution: str = "dense",
    sample: Tensor | None = None,
) -> nn.Module:
    """Load a compressed network from its artifact.

    Args:
        path: An artifact.
        network: The uncompressed architecture, or a class or function that returns it without arguments: for a network
            that this package cannot build. It is filled in place, and stays on its device. Its wrappers are removed,
            and its parametrized weights become plain ones.
        allow_import: True to import and call a ``module:callable`` that the file names.
        execution: ``dense`` for ordinary convolutions. ``separable`` computes every convolution of a lower order
            than its kernel as fixed basis filters and a 1x1 convolution. ``auto`` does so only for convolutions that
            are faster in this form on the sample, measured on this machine. Logits of ``separable`` and ``auto``
            equal those of ``dense`` up to rounding.
        sample: Finite images for ``auto``, (N, C, H, W), float32; one image of zeros of the file's size by default.
            Other executions do not read it.

    Returns:
        The network in evaluation mode on the CPU, or on the device of ``network``. It returns what the architecture
        returns, also where that is more than the logits.

    Raises:
        DataError: The file is missing or damaged, or does not match the architecture.
        OptionsError: ``path`` is no path, or the execution is unknown. The file names a ``module:callable`` that is
            not allowed or cannot be imported, or needs a network. ``network`` is no network, or it cannot take the
            sample. The sample has no images, or values that are not finite.

    Example:
        >>> load("small.safetensors", network=Net)(images).shape
        torch.Size([1, 10])
    """
    check_execution(execution)
    if network is not None:
        network = _built_with_warning(network)
    loaded, record, identity = load_parts(path, network=network, allow_import=allow_import)
    shape = (1, identity.channels, *identity.image_size)
    images = blank_sample(loaded, shape) if sample is None else sample
    return with_execution(loaded, record, execution, images)


def _built_with_warning(network: Architecture) -> nn.Module:
    """Return a network; warn if the class or function that makes it draws values that the file does not hold."""
    model = built(network)
    # A function may return a network only once.
    with suppress(OptionsError), torch.random.fork_rng(devices=[]), python_generators(1):
        if changing := changing_tensor(model, lambda: built(network)):
            logger.warning(
                "load: %s differs each time %s is built, and no file holds it, so the outputs may not be those of the "
                "compressed network; register it as a persistent buffer, or pass as network= one with its value",
                changing,
                type(model).__name__,
            )
    return model


def built(network: Architecture) -> nn.Module:
    """Return a network: itself, or the result of the class or function that makes it.

    Raises:
        OptionsError: It is neither, or calling it failed, or it returned something else.
    """
    if isinstance(network, nn.Module):
        return network
    if not callable(network):
        raise OptionsError(
            f"load: network is of type {type(network).__name__}; allowed: an nn.Module, or a class or function that "
            "returns one"
        )
    name = getattr(network, "__name__", type(network).__name__)
    try:
        model: object = network()
    except Exception as error:
        reason = described(error)
        raise OptionsError(
            f"load: calling network={name} raised {reason}; allowed: one that needs no argument"
        ) from error
    if not isinstance(model, nn.Module):
        raise OptionsError(f"load: network={name} returned a {type(model).__name__}; allowed: an nn.Module")
    return model


def load_parts(
    path: Path | str, *, network: nn.Module | None = None, allow_import: bool = False
) -> tuple[nn.Module, NetworkRecord, Identity]:
    """Load a compressed network, dense, with its record and its identity; see ``load``."""
    with _garbage_collection_paused(), torch.device("cpu"):  # a caller's default device may be another
        header, contents = open_artifact(path)
        with naming(path):
            _, record = decode(contents)
        if network is None:
            network = architecture(header, record, allow_import=allow_import)
        else:
            network = without_wrappers(network)
            refuse_meta_tensors(network, f"load: network {type(network).__name__}")
            initialize_lazy_modules(network, _blank_image(header))
            fold_parametrizations(network)
        return build_network(record, network), record, identity_of(header)


def read_artifact(path: Path | str) -> tuple[NetworkRecord, Identity]:
    """Read an artifact without building its network.

    Returns:
        The tensors and the identity of the network.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
    """
    header, contents = open_artifact(path)
    with naming(path):
        _, record = decode(contents)
    return record, identity_of(header)


def write_artifact(record: NetworkRecord, identity: Identity, path: Path) -> None:
    """Write an artifact atomically.

    Raises:
        CompressionError: See ``serialize``.
        OSError: The file cannot be written; an earlier file of that name is left unchanged.
    """
    write_atomically(path, serialize(record, identity))


def open_artifact(path: Path | str) -> tuple[Header, Contents]:
    """Read the header and the sections of an artifact and verify their checksum; ``decode`` reads the tensors.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
        OptionsError: ``path`` is no path, or empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise OptionsError(f"artifact: got an object of type {type(path).__name__}; allowed: the path of a file")
    check_local("artifact", parse_argument("artifact", path))
    with naming(path):
        is_file = Path(path).is_file()
    if not is_file:
        raise DataError(f"artifact: {path} is not a file; allowed: a file that seriesquant wrote")
    with naming(path), Path(path).open("rb") as file:
        contents = split(file)
        return read_header(contents.text), contents


def architecture(header: Header, record: NetworkRecord, *, allow_import: bool) -> nn.Module:
    """Build the network that a header names.

    Shapes are compared with the record before memory is allocated, except for a ``module:callable``.

    Args:
        header: The header.
        record: The tensors of the file.
        allow_import: True to import and call a ``module:callable``.

    Returns:
        The network, with uninitialized values.

    Raises:
        DataError: The network is unknown to this version, or its shapes are not those of the record.
        OptionsError: A ``module:callable`` is not allowed or cannot be imported, timm is not installed, or only the
            caller has the network.
    """
    require_builder(header)
    _check_builder(header)
    if header.builder in ("import", "timm"):
        model = build_plain(header.model, header.classes, _blank_image(header), allow_import=allow_import)
        check_shapes(record, model)
        return model
    with RandomStream(0, torch.device("cpu")).drawn_from(), torch.device("meta"):
        model = build_model(header.model, header.classes)
    check_shapes(record, model)
    if not model.state_dict().keys() >= {
        name for name, _ in model.named_buffers()
    }:  # no file has these buffers, so they are computed
        with RandomStream(0, torch.device("cpu")).drawn_from():
            return build_model(header.model, header.classes)
    model.to_empty(device="cpu")
    for name, counter in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            counter.zero_()
    return model


def require_builder(header: Header) -> None:
    """Check that a header names a function that builds the network.

    Raises:
        OptionsError: Only the owner of the network can build it.
    """
    if header.builder == OBJECT:
        raise OptionsError(
            f"artifact: it holds a network of the class {header.model}, which only its owner can build; allowed: "
            "pipeline.load(path, network=...) with that network, or with a class or function that returns it"
        )


def _blank_image(header: Header) -> Tensor:
    return torch.zeros(1, len(header.mean), *header.image_size)


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


def identity_of(header: Header) -> Identity:
    """Return the identity in a header."""
    fields = header.model_dump(exclude={"format_version", "builder", "arguments"})
    return Identity(**fields | {"class_names": class_names(header), "is_object": header.builder == OBJECT})


def rebuilt(model: nn.Module, fresh: nn.Module) -> nn.Module:
    """Return the network that a file of ``model`` in float gives, with batch normalizations as scale and shift.

    Args:
        model: A network.
        fresh: Its architecture, built anew; it is filled in place.

    Raises:
        CompressionError: A file cannot have the type of a tensor.
        DataError: The architecture has other tensors.
    """
    record = exact_record(model)
    table_of(record)  # checks the types of all tensors
    return build_network(record, fresh)


@contextmanager
def naming(path: Path | str) -> Generator[None]:
    """Convert errors about the contents of a file to a ``DataError`` that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"artifact: {path} cannot be read: {error.strerror or error}") from None
    except CompressionError as error:
        raise DataError(f"artifact: {path} is damaged or no artifact: {error}") from None


@contextmanager
def _garbage_collection_paused() -> Generator[None]:
    """Pause Python's collector: loading creates no cycles, but a scan of torch's objects takes as long as loading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
