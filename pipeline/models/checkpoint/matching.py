"""Find a network's weights among the tensors of a checkpoint, below whatever keys and prefixes they have.

The path of a tensor joins the keys of the dicts around it and its name: ``state_dict.model.conv1.weight``. The network
has the name ``conv1.weight``. The rest, ``state_dict.model``, is the prefix. A prefix fits if every name of the network
follows it. If no prefix fits, each child of the network may have its own, such as ``backbone`` and ``head``. The
network's names may also have a prefix that the file lacks.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.models.checkpoint.entries import Content, Entry
from pipeline.models.checkpoint.names import Names, name_forms
from pipeline.models.checkpoint.words import canonical, is_averaged, is_harmless, is_of_training, is_wrapper, rank

_Table = Mapping[str, Entry]
_Form = tuple[Names, Mapping[str, set[str]]]


@dataclass(frozen=True)
class Match:
    """The weights of a network in a checkpoint.

    Attributes:
        sources: The network's name -> the entry that holds the values.
        chosen: Path of the weights in the file; empty for the file itself.
        others: Paths of other weights that fit the network.
        left_out: Entries beside the weights that the network does not need.
    """

    sources: dict[str, Entry]
    chosen: str = ""
    others: list[str] = field(default_factory=list)
    left_out: list[Entry] = field(default_factory=list)


def match_weights(model: nn.Module, content: Content, source: str) -> Match:
    """Find the weights of a network.

    Args:
        model: The network.
        content: The checkpoint, or the part of it that the user chose.
        source: The checkpoint in words, for errors.

    Raises:
        DataError: No part of the checkpoint has all names of the network, or several parts have them and none is
            preferred. Or entries are left over that may be weights of layers.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    table = {canonical(entry.path): entry for entry in content.entries}
    if len(table) < len(content.entries):  # a wrapper's part tells names apart
        table = {entry.path: entry for entry in content.entries}
    forms = [(names, _covered(names, table)) for names in name_forms(state)]
    for names, covered in forms:
        fitting = [prefix for prefix, found in covered.items() if not names.lacking(found)]
        if fitting:
            best = _preferred(names, fitting, table, state, source)
            sources = _sources(names, dict.fromkeys(names.full, best), table)
            others = [prefix for prefix in fitting if prefix != best]
            copies = {id(entry) for prefix in others for entry in _entries(names, prefix, table)}
            extra = [entry for entry in _beside(sources.values(), content) if id(entry) not in copies]
            match = Match(sources, _label(names, best, table), _labels(names, others, table), extra)
            _check_extra(model, match, best, source)
            return match
    for names, covered in forms:
        for averaged in (False, True):
            choice = _composed(names, {p: found for p, found in covered.items() if is_averaged(p) is averaged})
            if choice:
                sources, parent = _sources(names, choice, table), _parent(choice.values())
                match = Match(sources, parent, [], _beside(sources.values(), content))
                _check_extra(model, match, parent, source)
                return match
    raise DataError(_misfit(model, forms, content, table, source))


def _covered(names: Names, table: _Table) -> dict[str, set[str]]:
    """Return prefix -> the wanted names that follow it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in table:
        for start in _starts(path):
            if path[start:] in names.wanted:
                found[path[: max(start - 1, 0)]].add(path[start:])
    return found


def _starts(path: str) -> Iterator[int]:
    """Yield the positions at which the parts of a dotted path start."""
    start = 0
    while True:
        yield start
        start = path.find(".", start) + 1
        if not start:
            return


def _preferred(names: Names, fitting: Sequence[str], table: _Table, state: Mapping[str, Tensor], source: str) -> str:
    """Choose among prefixes: equal shapes, no state of training, no average, then known names."""

    def order(prefix: str) -> tuple[object, ...]:
        return is_of_training(prefix), is_averaged(prefix), rank(prefix)

    def tensors(prefix: str) -> dict[str, Tensor]:
        found = _sources(names, dict.fromkeys(names.full, prefix), table)
        return {name: entry.tensor for name, entry in found.items()}

    if len(fitting) == 1:
        return fitting[0]
    shapes = {name: tensor.shape for name, tensor in state.items()}
    same = [p for p in fitting if all(tensor.shape == shapes[name] for name, tensor in tensors(p).items())]
    first, *rest = sorted(same or fitting, key=order)
    equals = [prefix for prefix in rest if order(prefix) == order(first)]
    if any(not _are_equal(tensors(first), tensors(prefix)) for prefix in equals):
        keys = ", ".join(_labels(names, [first, *equals], table))
        raise DataError(f"{source} has several sets of weights for the network; choose one with --weights-key: {keys}")
    return first


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(name in other and torch.equal(tensor, other[name]) for name, tensor in one.items())


def _composed(names: Names, covered: Mapping[str, set[str]]) -> dict[str, str] | None:
    """Return name -> prefix if each child of the network is complete below one prefix; None if not.

    The prefix of most children is taken for them. Each other child must have exactly one, in the same dict if possible.
    """
    children: dict[str, list[frozenset[str]]] = defaultdict(list)
    for group in names.required:
        children[min(group).split(".")[0]].append(group)
    usable = {
        prefix: {child for child, groups in children.items() if all(group & found for group in groups)}
        for prefix, found in covered.items()
        if not is_of_training(prefix)
    }
    if not usable:
        return None
    main = min(usable, key=lambda prefix: (-len(usable[prefix]), rank(prefix), prefix))
    choice = {}
    for child in children:
        having = [prefix for prefix, complete in usable.items() if child in complete]
        near = [prefix for prefix in having if prefix.rpartition(".")[0] == main.rpartition(".")[0]] or having
        if main not in having and len(near) != 1:
            return None
        choice[child] = main if main in having else near[0]
    return {name: choice.get(name.split(".")[0], main) for name in names.full}


def _sources(names: Names, prefixes: Mapping[str, str], table: _Table) -> dict[str, Entry]:
    """Return the network's name -> entry. A tied name that the file lacks gets the entry of its other name."""
    found = {name: table.get(_path(prefixes[name], name)) for name in names.full}
    for group in names.required:
        known = next((found[name] for name in sorted(group) if found[name]), None)
        found |= {name: found[name] or known for name in group}
    return {names.full[name]: entry for name, entry in found.items() if entry is not None}


def _entries(names: Names, prefix: str, table: _Table) -> list[Entry]:
    return [table[path] for name in names.full if (path := _path(prefix, name)) in table]


def _check_extra(model: nn.Module, match: Match, prefix: str, source: str) -> None:
    """Check that no entry beside the weights may be the weight of a layer."""
    unexpected = [entry for entry in match.left_out if not _is_spare(model, entry, prefix)]
    if unexpected:
        outside = match.chosen and not any(_is_below(entry, prefix) for entry in unexpected)
        key = f"--weights-key {match.chosen} leaves out what is beside it"
        names = [_shown(entry, prefix) for entry in unexpected]
        raise DataError(
            f"{source} does not fit the network: {_listed(names)} unexpected, while nothing is missing; "
            f"{key if outside else 'choose the --model that has them'}"
        )


def _beside(used: Collection[Entry], content: Content) -> list[Entry]:
    """Return the entries that are not used, in the dicts of those that are."""
    known, homes = {id(entry) for entry in used}, {entry.home for entry in used}
    return [entry for entry in content.entries if entry.home in homes and id(entry) not in known]


def _is_spare(model: nn.Module, entry: Entry, prefix: str) -> bool:
    """Return True for harmless entries, and for auxiliary heads that the network lacks (their attributes are None)."""
    name = _shown(entry, prefix)
    return is_harmless(name, entry.tensor) or getattr(model, name.split(".")[0], model) is None


def _is_below(entry: Entry, prefix: str) -> bool:
    return not prefix or canonical(entry.path).startswith(f"{prefix}.")


def _shown(entry: Entry, prefix: str) -> str:
    """Return an entry's name below the prefix, or in its dict where it is beside the prefix."""
    return canonical(entry.path)[len(f"{prefix}.") :] if prefix and _is_below(entry, prefix) else canonical(entry.name)


def _labels(names: Names, prefixes: Sequence[str], table: _Table) -> list[str]:
    return [_label(names, prefix, table) or "the names at the top" for prefix in prefixes]


def _label(names: Names, prefix: str, table: _Table) -> str:
    """Return a prefix as it is in the file, without the parts of wrappers at its end."""
    name = next((name for name in names.full if _path(prefix, name) in table), None)
    if not prefix or name is None:
        return prefix
    parts, count = table[_path(prefix, name)].path.split("."), len(name.split("."))
    while count and parts:
        count -= not is_wrapper(parts.pop())
    while parts and is_wrapper(parts[-1]):
        parts.pop()
    return ".".join(parts)


def _parent(prefixes: Iterable[str]) -> str:
    """Return the common first parts of several prefixes."""
    split = [prefix.split(".") for prefix in set(prefixes)]
    return ".".join(commonprefix(split))  # noqa: RUF071 (of lists, not of paths)


def _misfit(
    model: nn.Module,
    forms: Sequence[_Form],
    content: Content,
    table: _Table,
    source: str,
) -> str:
    """Return the error for the prefix that fits best: the names that are missing and unexpected below it."""
    found = [
        (len(covers), not is_averaged(prefix), -number, prefix)
        for number, (_, covered) in enumerate(forms)
        for prefix, covers in covered.items()
        if not is_of_training(prefix)
    ]
    if not found:
        return f"{source} has none of the network's names: {_nothing_fits(forms[0][0], content)}"
    count, _, number, prefix = max(found)
    names, covered = forms[-number]
    missing = names.lacking(covered[prefix])
    kinds = {canonical(path): kind for path, kind in content.others.items()}
    strange = [f"{name} ({kind})" for name in missing if (kind := kinds.get(_path(prefix, name)))]
    extra = _beside(_entries(names, prefix, table), content)
    unexpected = [_shown(entry, prefix) for entry in extra if not _is_spare(model, entry, prefix)]
    problems = [f"{_listed(strange)} no tensor" if strange else f"{_listed(missing)} missing"]
    if unexpected:
        problems.append(f"{_listed(unexpected)} unexpected")
    where = f" below {prefix}" if prefix else ""
    return (
        f"{source} does not fit the network: {' and '.join(problems)}, while {count} names{where} fit; "
        "choose the --model it was saved from"
    )


def _nothing_fits(names: Names, content: Content) -> str:
    keys = content.weight_keys()
    other = f", or a --weights-key of {', '.join(keys)}" if keys else ""
    strange = [
        f", and {path} is a {kind}"
        for path, kind in content.others.items()
        if (kind.startswith(("list of", "tuple of")) and not is_of_training(path))
        or any(path[start:] in names.wanted for start in _starts(path))
    ]
    return (
        f"{_listed(list(names.full.values()))} missing, and it has names such as {content.entries[0].path}"
        f"{''.join(strange[:3])}; choose the --model it was saved from{other}"
    )


def _path(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more are" if len(names) > most else " is" if len(names) == 1 else " are"
    return ", ".join(names[:most]) + more
