"""A small network, and checkpoints of it as training scripts write them."""

import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A stem, a block and a head, each with other kinds of names."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer1(self.bn1(self.conv1(images)).relu()).mean((2, 3)))


def trained(seed: int = 1) -> Net:
    """Return a network whose every tensor differs from those of other seeds, buffers and counters as well."""
    torch.manual_seed(seed)
    net = Net().eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape))
        else:
            tensor.fill_(seed)
    return net


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def has_weights(net: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def save_tar(state: Mapping[str, Tensor], path: Path) -> None:
    """Write the format of torch 0.1: a tar of storages, tensors, and a pickle that refers to them by number."""
    classes = {torch.float32: torch.FloatStorage, torch.int64: torch.LongStorage}
    storages, tensors, content = io.BytesIO(), io.BytesIO(), io.BytesIO()
    numbers = {id(tensor): number for number, tensor in enumerate(state.values())}
    pickle.dump(len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    for tensor in state.values():
        number = numbers[id(tensor)]
        pickle.dump((100 + number, "cpu", classes[tensor.dtype]), storages, 2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.contiguous().numpy().tobytes())
        pickle.dump((number, 100 + number, type(tensor)), tensors, 2)
        sizes = (*tensor.shape, *tensor.stride(), 0)
        tensors.write(struct.pack(f"<ii{len(sizes)}q", tensor.dim(), 0, *sizes))
    pickle.dump([], storages, 2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> str | None:
            return str(numbers[id(value)]) if isinstance(value, Tensor) else None

    Pickler(content, 2).dump(dict(state))
    with tarfile.open(path, "w") as archive:
        for name, part in (("storages", storages), ("tensors", tensors), ("pickle", content)):
            member = tarfile.TarInfo(name)
            member.size = len(part.getvalue())
            archive.addfile(member, io.BytesIO(part.getvalue()))
