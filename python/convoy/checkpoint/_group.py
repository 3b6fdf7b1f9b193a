"""The ranks that save or load together, and where."""
import json
import os
import zlib
from typing import Any

import torch.distributed as dist

from convoy import _C


def place(path: "str | os.PathLike") -> str:
    """A folder's absolute path, or the URI of an object store as it is."""
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(text)


class Group:
    """A process group, or one rank alone."""

    def __init__(self, process_group: "dist.ProcessGroup | None"):
        if process_group is None and dist.is_initialized():
            process_group = dist.group.WORLD
        self.process_group = process_group
        self.rank = process_group.rank() if process_group is not None else 0
        self.size = process_group.size() if process_group is not None else 1

    def gather(self, mine: Any) -> list[Any]:
        """What each rank gave (as JSON), by rank. Collective."""
        if self.size == 1:
            return [mine]
        texts = _C.gather_bytes(self.process_group, zlib.compress(json.dumps(mine).encode(), 1))
        known: dict[bytes, Any] = {}  # most ranks say the same
        for text in texts:
            if text not in known:
                known[text] = json.loads(zlib.decompress(text))
        return [known[text] for text in texts]
