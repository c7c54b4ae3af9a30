"""Modes inside hooks."""

import torch
from torch.overrides import TorchFunctionMode

from basis.modes import unobserved


class Calls(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_unobserved_calls_are_hidden_from_modes_of_torch_functions():
    with Calls() as calls:
        torch.zeros(2)
        with unobserved():
            total = torch.ones(2).sum()
        torch.ones(3)
    assert float(total) == 2
    assert calls.names == ["zeros", "ones"]
