"""Stored results as files: exact round trips, and refusals of what is damaged."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.store.entry import Entry, as_bytes, as_tensor, fits, load_state, read_entry, state_of, to_bytes

FACTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(facts=st.dictionaries(st.text(), FACTS, max_size=4), seconds=st.floats(0, 1e6))
def test_facts_come_back_as_they_were(tmp_path_factory, facts, seconds):
    path = tmp_path_factory.mktemp("entry") / "a"
    path.write_bytes(to_bytes(Entry({}, facts, seconds), "a stage"))
    entry = read_entry(path)
    assert entry.metadata == facts
    assert list(entry.metadata) == list(facts)
    assert entry.seconds == pytest.approx(seconds, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    values = torch.randint(0, 2, (3, 1, 2), generator=torch.Generator().manual_seed(0)).to(dtype)
    (tmp_path / "a").write_bytes(to_bytes(Entry({"x": values, "none": torch.empty(0)}), "s"))
    found = read_entry(tmp_path / "a").tensors
    assert torch.equal(found["x"], values)
    assert found["x"].dtype == dtype
    assert found["none"].shape == (0,)


def test_numbers_that_are_none_come_back(tmp_path):
    (tmp_path / "a").write_bytes(to_bytes(Entry(metadata={"x": math.nan}), "s"))
    assert math.isnan(read_entry(tmp_path / "a").metadata["x"])


@given(st.binary(max_size=50))
def test_bytes_round_trip_through_a_tensor(content):
    assert as_bytes(as_tensor(content)) == content


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_damaged_file_is_refused(tmp_path, keep):
    content = to_bytes(Entry({"x": torch.ones(100)}), "s")
    (tmp_path / "a").write_bytes(content[:keep])
    with pytest.raises(ValueError, match="no stored result"):
        read_entry(tmp_path / "a")


def test_a_changed_bit_is_refused_or_changes_nothing(tmp_path):
    """It reached networks and ONNX files without a word: safetensors has no checksum."""
    entry = Entry({"x": torch.ones(20), "y": torch.tensor(3)}, {"top1": 91.5}, 2.0, 7.0)
    content = to_bytes(entry, "s")
    for place in range(len(content)):
        (tmp_path / "a").write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            found = read_entry(tmp_path / "a")
        except ValueError:
            continue
        assert (found.metadata, found.seconds, found.peak_memory_mb) == (entry.metadata, 2.0, 7.0)
        assert found.tensors.keys() == entry.tensors.keys()
        assert all(torch.equal(found.tensors[name], value) for name, value in entry.tensors.items())


def test_another_programs_file_is_refused(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "a")
    with pytest.raises(ValueError, match="no stored result"):
        read_entry(tmp_path / "a")


def test_a_state_fits_networks_of_its_names_and_shapes():
    state = state_of(nn.Linear(2, 3))
    assert fits(nn.Linear(2, 3), state)
    assert not fits(nn.Linear(3, 3), state)
    assert not fits(nn.Linear(2, 3, bias=False), state)


def test_a_state_has_memory_of_its_own():
    layer = nn.Linear(2, 3)
    state = state_of(layer)
    with torch.no_grad():
        layer.weight.zero_()
    assert state["weight"].abs().sum() > 0


class Versioned(nn.Linear):
    """It reads the version of its state dict, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self):
        super().__init__(3, 2)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        assert local_metadata["version"] == 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def test_a_state_is_loaded_with_the_versions_of_the_modules():
    source, target = Versioned(), Versioned()
    load_state(target, state_of(source))
    assert torch.equal(target.weight, source.weight)
    with pytest.raises(RuntimeError, match=r"Missing key.*bias"):
        load_state(target, {"weight": source.weight})
