"""Names of stored results, each made of everything that the result depends on."""

import hashlib
import json


def store_key(**inputs: object) -> str:
    """The name of what these inputs give: 32 hexadecimal digits of their SHA-256.

    Args:
        inputs: Name -> what JSON knows.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
