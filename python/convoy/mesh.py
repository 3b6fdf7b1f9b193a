"""Ranks arranged along named dimensions, and the groups between them."""
from collections.abc import Sequence

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from convoy import _C


class Mesh:
    """A mesh like "tp=2,pp=2,dp=2"; one size may be `*`. Immutable.

    The rank order follows the topology: tp innermost, then cp, ep, dp, pp, unless the text says `order=pp-tp-dp`. A name
    that the mesh does not have stands for a dimension of size 1.
    """

    def __init__(self, text: str, world_size: int | None = None):
        """Raises ValueError with what is wrong and how to mend it. World size: by default the process group's."""
        if world_size is None:
            world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._mesh = _C.Mesh(text, world_size)

    @property
    def dims(self) -> list[tuple[str, int]]:
        """Names and sizes, innermost first."""
        return self._mesh.dims

    def size(self, name: str | None = None) -> int:
        """Number of ranks, or of ranks along one dimension."""
        return self._mesh.size() if name is None else self._mesh.size_of(name)

    def coordinate(self, rank: int, name: str) -> int:
        """Where `rank` stands along `name`."""
        return self._mesh.coordinate(rank, name)

    def group_of(self, rank: int, names: Sequence[str]) -> list[int]:
        """The ranks that differ from `rank` only along `names`, ascending."""
        return self._mesh.group_of(rank, list(names))

    def groups(self, names: Sequence[str]) -> list[list[int]]:
        """All groups along `names`; every rank is in exactly one."""
        return self._mesh.groups(list(names))

    def device_mesh(self, device_type: str = "cpu") -> DeviceMesh:
        """The same arrangement for PyTorch (DTensor, FSDP2, ...), outermost dimension first. Collective."""
        import torch

        dims = list(reversed(self.dims))
        ranks = torch.arange(self.size()).reshape([size for _, size in dims] or [1])
        return DeviceMesh(device_type, ranks, mesh_dim_names=tuple(name for name, _ in dims) or ("dp",))

    def __str__(self) -> str:
        return self._mesh.to_string()

    def __repr__(self) -> str:
        return f'convoy.Mesh("{self}", {self.size()})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))
