"""Folders and shards of checkpoints: those of Hugging Face's libraries are read, others are named."""

import json

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as distributed
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.support.checkpoints import Net, has_weights, trained


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("whole", [True, False])
def test_folders_and_shards_of_hugging_faces_libraries(tmp_path, name, whole):
    state = trained().state_dict()

    def save(tensors, file):
        safetensors.torch.save_file(tensors, file) if name.endswith("safetensors") else torch.save(tensors, file)

    names = list(state)
    if whole:
        save(dict(state), tmp_path / name)
    else:
        halves = {f"first-{name}": names[::2], f"second-{name}": names[1::2]}
        for file, own in halves.items():
            save({each: state[each] for each in own}, tmp_path / file)
        places = {each: file for file, own in halves.items() for each in own}
        (tmp_path / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in (tmp_path, tmp_path / (name if whole else f"{name}.index.json")):
        net = Net()
        load_weights(net, path)
        assert has_weights(net, state)
    if not whole:
        (tmp_path / f"second-{name}").unlink()
        with pytest.raises(DataError, match=f"second-{name} does not exist"):
            load_weights(Net(), tmp_path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_folder_of_distributed_checkpoints_is_named_with_the_command_that_converts_it(tmp_path):
    state = trained().state_dict()
    distributed.save({"model": state}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    for path in (tmp_path / "dcp", *(tmp_path / "dcp").iterdir()):
        with pytest.raises(DataError, match=r"torch\.distributed\.checkpoint;.*format_utils dcp_to_torch \S*/dcp FILE"):
            load_weights(Net(), path)
    dcp_to_torch_save(tmp_path / "dcp", tmp_path / "c.pt")
    net = Net()
    load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, state)


def test_a_folder_of_deepspeed_is_named_with_the_program_that_converts_it(tmp_path):
    step = tmp_path / "global_step10"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step10")
    divided = {"module": {name: torch.empty(0) for name in trained().state_dict()}, "ds_version": "0.14.0"}
    torch.save(divided, step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    for path in (tmp_path, step, *step.iterdir()):
        with pytest.raises(DataError, match=r"DeepSpeed.*allowed: .*zero_to_fp32\.py"):
            load_weights(Net(), path)
