"""Replace a network's convolutions by series convolutions, and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn

from basis.computed import ComputedConv2d
from basis.conv import SeriesConv2d, is_compressible, require_compressible
from basis.copying import copy_network
from basis.errors import CompressionError
from basis.least_squares import Size2d


def compressible_convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the spatial convolutions by name, in definition order; a shared one appears once."""
    return {
        name: require_compressible(module, name) for name, module in model.named_modules() if is_compressible(module)
    }


def swap_convolutions(model: nn.Module, plan: Mapping[str, Size2d], basis: str) -> nn.Module:
    """Replace convolutions by series convolutions fitted to their weights, in place.

    A convolution that the network uses under several names is replaced by one series convolution under all of them.

    Args:
        model: The network; a bare convolution is returned replaced.
        plan: Layer name (as in ``named_modules``) -> order (nh, nw).
        basis: A name in ``basis.families.BASES``.

    Returns:
        The network.

    Raises:
        CompressionError: The plan is empty, or it names a layer that does not exist or is no spatial convolution. It
            gives a shared layer two orders, or an order that does not fit. Nothing is replaced then.
        NumericalError: A weight is not finite.
    """
    if not plan:
        raise CompressionError("swap: the plan names no layer; allowed: at least one convolution larger than 1x1")
    names: dict[nn.Conv2d, str] = {}
    for name, conv in named_convolutions(model, plan).items():
        first = names.setdefault(conv, name)
        if plan[first] != plan[name]:
            raise CompressionError(
                f"swap: layers {first!r} and {name!r} are one module but get the orders {plan[first]} and "
                f"{plan[name]}; allowed: one order for a shared layer"
            )
    return replace_convolutions(model, names, lambda conv, name: SeriesConv2d(conv, basis, plan[name]))


def named_convolutions(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Conv2d]:
    """Return the convolutions of some names, as in ``named_modules``, also under a second name of a shared one.

    Raises:
        CompressionError: A layer does not exist or is no spatial convolution.
    """
    modules, wanted = dict(model.named_modules(remove_duplicate=False)), list(names)
    if missing := [name for name in wanted if name not in modules]:
        raise CompressionError(f"swap: the network has no layer {missing[0]!r}; allowed: {_some_names(model)}")
    return {name: require_compressible(modules[name], name) for name in wanted}


def replace_convolutions(
    model: nn.Module, names: Mapping[nn.Conv2d, str], replacement: Callable[[nn.Conv2d, str], nn.Module]
) -> nn.Module:
    """Replace convolutions of a network, in place, under every name.

    Args:
        model: The network.
        names: Convolution -> its name.
        replacement: Maps (convolution, name) to the module in its place.

    Returns:
        The network, or its own replacement.

    Raises:
        CompressionError: A replacement cannot be made; the message names the layer, and the class is that of the cause.
            Nothing is replaced then.
    """
    made: dict[nn.Module, nn.Module] = {}
    for conv, name in names.items():
        try:
            made[conv] = replacement(conv, name)
        except CompressionError as error:
            raise type(error)(f"swap: layer {name!r}: {error}") from error
    return replace_modules(model, made)


def materialize(model: nn.Module) -> nn.Module:
    """Replace every convolution that computes its filters by an ordinary one with these filters, in place.

    Returns:
        The network; a bare convolution is returned replaced.
    """
    return replace_modules(
        model, {conv: conv.materialize() for conv in model.modules() if isinstance(conv, ComputedConv2d)}
    )


def with_regular_layers(model: nn.Module) -> nn.Module:
    """Return a network whose layers are linear in their stored values: itself, or a materialized copy."""
    computed = [conv for conv in model.modules() if isinstance(conv, ComputedConv2d)]
    return model if all(isinstance(conv, SeriesConv2d) for conv in computed) else materialize(copy_network(model))


def materialize_full(model: nn.Module) -> nn.Module:
    """Replace the series convolutions of full order by ordinary convolutions, in place; they have the same filters.

    Returns:
        The network; a bare series convolution of full order is returned replaced.
    """
    full = (conv for conv in model.modules() if isinstance(conv, SeriesConv2d) and conv.order == conv.kernel_size)
    return replace_modules(model, {conv: conv.materialize() for conv in full})


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace modules of a network, in place, under every name.

    Returns:
        The network, or its own replacement.
    """
    for parent, name, child in list(_edges(model)):
        if child in replacements:
            setattr(parent, name, replacements[child])
    return replacements.get(model, model)


def _edges(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield every (parent, attribute, child) of the network, with all parents of a shared module."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                yield parent, name, child


def _some_names(model: nn.Module) -> str:
    names = list(compressible_convolutions(model))
    return (
        ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none, it has no spatial convolution"
    )
