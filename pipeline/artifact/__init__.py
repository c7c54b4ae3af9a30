"""Write and read artifacts: one safetensors file with coded integers, float tensors and a table.

``docs/artifact.md`` specifies every byte of it.
"""

from pipeline.artifact.codec import decode, file_size, plan_stream, serialize
from pipeline.artifact.container import Contents
from pipeline.artifact.header import FORMAT_VERSION, Identity
from pipeline.artifact.loading import load, open_artifact, read_artifact, write_artifact

__all__ = [
    "FORMAT_VERSION",
    "Contents",
    "Identity",
    "decode",
    "file_size",
    "load",
    "open_artifact",
    "plan_stream",
    "read_artifact",
    "serialize",
    "write_artifact",
]
