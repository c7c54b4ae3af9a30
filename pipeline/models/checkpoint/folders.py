"""Find the files of a checkpoint that Hugging Face's libraries wrote: in a folder, or in shards with an index.

Folders of torch.distributed.checkpoint and of DeepSpeed are refused, with the command that converts them.
"""

import json
from pathlib import Path
from typing import Any, Final

from pipeline.errors import DataError

INDEX: Final = ".index.json"
"""Ending of the name of an index, which maps the names of tensors to the shards that hold them."""
_FILES: Final = ("model.safetensors", "pytorch_model.bin", f"model.safetensors{INDEX}", f"pytorch_model.bin{INDEX}")

_DCP_INDEX: Final = ".metadata"
_DCP_SHARD: Final = ".distcp"
_DEEPSPEED: Final = ("global_step*/*_model_states.pt", "*_model_states.pt")
"""Files with the weights of a rank, in the folder of a training and in that of a step."""


def checkpoint_file(path: Path) -> Path:
    """Return the checkpoint in a folder of ``save_pretrained`` or ``save_state``, and any other path unchanged.

    Raises:
        DataError: A folder has none of these files, or the path is part of a checkpoint that must be converted.
    """
    if path.is_file() and (path.suffix == _DCP_SHARD or path.name == _DCP_INDEX):
        raise _to_convert_by_torch(path.parent)
    if not path.is_dir():
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    if (path / _DCP_INDEX).is_file():
        raise _to_convert_by_torch(path)
    if any(next(path.glob(pattern), None) for pattern in _DEEPSPEED):
        raise DataError(
            f"the checkpoint {path} is a folder of DeepSpeed; allowed: the file of its weights that zero_to_fp32.py "
            "writes, a program that DeepSpeed adds to the folder"
        )
    raise DataError(f"the checkpoint {path} is a folder without {', '.join(_FILES[:-1])} or {_FILES[-1]}; give a file")


def _to_convert_by_torch(folder: Path) -> DataError:
    return DataError(
        f"the checkpoint {folder} is a folder of torch.distributed.checkpoint; allowed: the file FILE that "
        f"'python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE' writes"
    )


def shards_of(index: Path) -> list[Path]:
    """Return the shards that an index names, sorted; they stand beside it.

    Raises:
        DataError: The index is damaged, or names a file in another folder.
    """
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"the checkpoint {index} is damaged: an index must map names of tensors to files beside it, as weight_map"
        ) from None
    return [index.with_name(name) for name in names]
