"""The names of a network's weights, in the forms that a checkpoint may have."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from pipeline.models.checkpoint.words import canonical


@dataclass(frozen=True)
class Names:
    """A network's names as they are looked for in a file.

    Attributes:
        full: Name to look for -> name in the network.
        required: Groups of names to look for; one of each group must be found. Names of one tensor are a group.
    """

    full: Mapping[str, str]
    required: Sequence[frozenset[str]]

    @cached_property
    def wanted(self) -> frozenset[str]:
        """All names of the groups."""
        return frozenset().union(*self.required)

    def lacking(self, found: Iterable[str]) -> list[str]:
        """Return a name of the network for every group of which nothing is found."""
        present = frozenset(found)
        return [self.full[min(group)] for group in self.required if not group & present]


def name_forms(state: Mapping[str, Tensor]) -> Iterator[Names]:
    """Yield a network's names: as they are, then without common first parts, then each without its first part.

    Args:
        state: Its state dict; tensors that share memory are tied.
    """
    plain = {canonical(name): name for name in state}
    if len(plain) < len(state):  # a wrapper's part tells names apart
        plain = {name: name for name in state}
    yield _names(plain, state)
    split = {name: name.split(".") for name in plain}
    first = 1
    while split and all(len(parts) > first + 1 for parts in split.values()):
        shorter = {".".join(parts[first:]): plain[name] for name, parts in split.items()}
        common = len({tuple(parts[:first]) for parts in split.values()}) == 1
        if len(shorter) == len(plain) and (common or first == 1):
            yield _names(shorter, state)
        if not common:
            return
        first += 1


def _names(full: Mapping[str, str], state: Mapping[str, Tensor]) -> Names:
    groups: dict[object, set[str]] = defaultdict(set)
    for name, own in full.items():
        # Old checkpoints lack the counters of batch normalization, and evaluation does not read them.
        if not name.endswith("num_batches_tracked"):
            groups[identity(state[own]) or name].add(name)
    return Names(full, [frozenset(group) for group in groups.values()])


def identity(tensor: Tensor) -> tuple[object, ...] | None:
    """Return a key that two names of one tensor share, such as tied weights; None for an empty tensor."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else None
