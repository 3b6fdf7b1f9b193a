"""State dicts as flat names: tensors, and other values as text. Nothing is pickled, nothing is executed on the way back."""
import base64
import ctypes
import json
import math
from collections.abc import Callable, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from typing import Any

import torch

MARK = b"json:"  # what values begin with; other bytes are handed out as they are
# A value beside the state's own: how its names nest, {"model.weight": ["model", "weight"]}. Text is a dict's key, a number a
# place in a list, {"key": 3} a number that is a dict's key. For DCP, and for exports.
PATHS = "__dcp_planner_data__"


@dataclass
class PerRank:
    """A tensor or value that each rank has its own of, such as the state of a random generator: saved as `name@RANK`."""
    value: Any


class _Unsupported(TypeError):
    pass


def bytes_of(tensor: torch.Tensor) -> bytes:
    """A copy of a CPU tensor's content. Without numpy, which torch does without, too."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return ctypes.string_at(flat.data_ptr(), flat.numel())


def _plain(value: Any) -> Any:
    """As JSON; what JSON lacks is an object with one key that begins with `$`."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is list:
        return [_plain(item) for item in value]
    if kind is tuple:
        return {"$tuple": [_plain(item) for item in value]}
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"$dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    raise _Unsupported(f"is a {kind.__module__}.{kind.__qualname__}; checkpoints hold tensors, numbers, text, bytes, None, and "
                       "lists, tuples and dicts of those (nothing is pickled)")


def _python(value: Any) -> Any:
    if isinstance(value, list):
        return [_python(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, item), = value.items()
        if key == "$float":
            return float(item)
        if key == "$int":
            return int(item, 16)
        if key == "$bytes":
            return base64.b64decode(item)
        if key == "$tuple":
            return tuple(_python(i) for i in item)
        if key == "$dict":
            return {_python(k): _python(v) for k, v in item}
    return {key: _python(item) for key, item in value.items()}


def encode(value: Any) -> bytes:
    """Raises TypeError for what a checkpoint does not hold."""
    return MARK + json.dumps(_plain(value), separators=(",", ":"), allow_nan=False).encode()


def decode(data: bytes) -> Any:
    """The value; bytes that encode() has not made stay bytes."""
    if not data.startswith(MARK):
        return data
    return _python(json.loads(data[len(MARK):]))


@dataclass
class Flat:
    """A state dict by names: "model.layers.0.weight"."""
    rank: int
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, list[Any]] = field(default_factory=dict)  # as PATHS
    per_rank: set[str] = field(default_factory=set)  # their names without @RANK
    put: dict[str, Callable[[Any], None]] = field(default_factory=dict)  # where a loaded value goes
    after: list[Callable[[], None]] = field(default_factory=list)  # load_state_dict() of objects, when all is loaded
    problems: list[str] = field(default_factory=list)

    def add(self, path: tuple[Any, ...], value: Any, put: Callable[[Any], None] | None) -> None:
        name = _name(path)
        if isinstance(value, PerRank):
            self.per_rank.add(name)
            inner = value
            value, name = inner.value, f"{name}@{self.rank}"
            path = (*path[:-1], f"{_name(path[-1:])}@{self.rank}")
            put = lambda new: setattr(inner, "value", new)  # noqa: E731
        if name in self.tensors or name in self.values:
            self.problems.append(f"{name!r} is there twice: a key with a dot makes the same name as a nested one")
        elif isinstance(value, torch.Tensor):
            self.tensors[name] = value
            self.paths[name] = list(path)
        else:
            self.values[name] = value
            self.paths[name] = list(path)
            if put is not None:
                self.put[name] = put

    def walk(self, path: tuple[Any, ...], value: Any, put: Callable[[Any], None] | None = None) -> None:
        if not isinstance(value, torch.Tensor) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            inner = value.state_dict()
            self.after.append(lambda: value.load_state_dict(inner))
            return self.walk(path, inner)
        if isinstance(value, MutableMapping) and value:
            for key, item in value.items():
                if type(key) not in (str, int):
                    self.problems.append(f"{_name(path)!r} has a key {key!r}; keys are text or whole numbers")
                    continue
                self.walk((*path, key if type(key) is str else {"key": key}), item, _setter(value, key))
        elif isinstance(value, (list, tuple)) and _has_tensor(value):
            for i, item in enumerate(value):
                self.walk((*path, i), item, _setter(value, i) if isinstance(value, MutableSequence) else None)
        elif not path:
            self.problems.append("the state dict is empty" if isinstance(value, MutableMapping) else "the state is no dict")
        else:
            self.add(path, value, put)
        return None

    def texts(self) -> dict[str, bytes]:
        """The values as bytes; those that can't be become problems."""
        out = {}
        for name, value in self.values.items():
            try:
                out[name] = encode(value)
            except (TypeError, ValueError) as error:
                self.problems.append(f"{name!r} {error}")
        return out


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(word["key"] if isinstance(word, dict) else word) for word in path)


def _setter(container: Any, key: Any) -> Callable[[Any], None]:
    return lambda new: container.__setitem__(key, new)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (torch.Tensor, PerRank)):
        return True
    if isinstance(value, MutableMapping):
        return any(_has_tensor(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_has_tensor(item) for item in value)


def flatten(state: Any, rank: int) -> Flat:
    flat = Flat(rank)
    flat.walk((), state)
    return flat
