"""Convoy's folders for torch.distributed.checkpoint: scripts that call dcp.save and dcp.load need only another writer and reader.

    dcp.save(state, storage_writer=convoy.checkpoint.DcpWriter("checkpoints"))
    dcp.load(state, storage_reader=convoy.checkpoint.DcpReader("checkpoints"))

Ranks talk through DCP's own plans only, so async_save is safe beside the training's collectives.
"""
import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (BytesStorageMetadata, ChunkStorageMetadata, Metadata, StorageMeta,
                                                   TensorProperties, TensorStorageMetadata)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from convoy import _C, errors
from convoy.checkpoint._group import place
from convoy.checkpoint._layout import BYTES, DTYPES, piece
from convoy.checkpoint._state import MARK, PATHS, bytes_of, decode, encode

_TORCH = {number: dtype for dtype, number in DTYPES.items()}
_THREADS = 4
_STAGING_BYTES = 64 << 20


def _host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().resolve_conj().resolve_neg()


def _bytes_tensor(name: str, data: bytes | bytearray) -> tuple[tuple, torch.Tensor]:
    text = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    boxes = [((0,), (len(data),), text.data_ptr(), (1,))] if data else []
    return (name, BYTES, (len(data),), boxes), text


def _future(value: Any) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future


@dataclasses.dataclass(frozen=True)
class _Target:
    """What the coordinator tells all ranks of a save."""
    step: int
    generation: int
    node: int  # this rank's part


class DcpWriter(BlockingAsyncStager, StorageWriter):
    """Writes each dcp.save() as a committed step of the Convoy folder `path` (or the checkpoint_id that save() is given).

    step: its number; default: one after the newest. keep_newest: older steps than that many are removed after a save;
    default: none is. job: whose folder it is; another job's is refused.

    dcp.save() returns when all is durable. Every byte has a checksum; what is killed half-way has made no step. Items that DCP
    pickles itself (values that are no tensors) are kept as the bytes that they are. use_collectives=False is refused.
    """

    def __init__(self, path: str | os.PathLike, *, step: int | None = None, keep_newest: int | None = None, job: str = "train"):
        super().__init__()
        self.path = place(path)
        self.step = step
        self.keep_newest = keep_newest
        self.job = job
        self._coordinator = False
        self._owner: Any = None  # the coordinator's claim
        self._target: _Target | None = None

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        if checkpoint_id:
            self.path = place(checkpoint_id)
        self._owner = self._target = None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise errors.InvalidArgument("DcpWriter can't save with use_collectives=False: one rank commits for all")
        self._coordinator = is_coordinator

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        if "://" not in self.path:
            os.makedirs(self.path, exist_ok=True)
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        generation = _C.owner_generation(self.path) + 1
        newest = next((step for step, _, _, problem in _C.steps_in(self.path) if not problem), 0)
        step = self.step if self.step is not None else newest + 1
        self._owner = _C.FolderWriter(self.path, self.job, generation)
        self._owner.take_over()
        return [dataclasses.replace(plan, storage_data=_Target(step, generation, node)) for node, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        target = self._target = plan.storage_data
        writer = self._owner
        if writer is None:
            writer = _C.FolderWriter(self.path, self.job, target.generation)
            writer.join()
        tensors: dict[str, tuple[int, tuple[int, ...], list[tuple]]] = {}
        state, kept = [], []  # `kept`: memory that must live on
        for item in plan.items:
            data, name = planner.resolve_data(item), item.index.fqn
            if item.type == WriteItemType.BYTE_IO:
                entry, text = _bytes_tensor(name, data.getbuffer())
                state.append(entry)
                kept.append(text)
                continue
            if data.dtype not in DTYPES:
                raise errors.InvalidArgument(f"{name!r} has dtype {data.dtype}, which checkpoints don't hold")
            host, chunk = _host(data), item.tensor_data.chunk
            kept.append(host)
            boxes = tensors.setdefault(name, (DTYPES[data.dtype], tuple(item.tensor_data.size), []))[2]
            if host.numel():
                boxes.append(piece(host, chunk.offsets, chunk.sizes))
        state += [(name, dtype, shape, boxes) for name, (dtype, shape, boxes) in tensors.items()]
        ref = writer.write(target.step, target.node, state)
        results = [WriteResult(item.index, 0, None) for item in plan.items]
        results.append(WriteResult(None, ref[1], ref))  # the part itself
        return _future(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        target = self._target
        refs = [result.storage_data for rank in results for result in rank if result.storage_data is not None]
        if metadata.planner_data:
            entry, _text = _bytes_tensor(PATHS, encode({name: list(path) for name, path in metadata.planner_data.items()}))
            refs.append(self._owner.write(target.step, len(results), [entry]))
        self._owner.commit(target.step, len(results), refs)
        if self.keep_newest is not None:
            self._owner.keep(self.keep_newest)
        self._owner.release()
        self._owner = None

    def storage_meta(self) -> StorageMeta | None:
        return StorageMeta(checkpoint_id=self.path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


class DcpReader(StorageReader):
    """Reads steps of a Convoy folder for dcp.load(), whoever wrote them: DcpWriter, Checkpointer, `convoy ckpt import`.

    step: default: the newest. process_group: ranks that read each byte once among them and exchange; all must call
    dcp.load() with the same reader then. Default: each rank reads what it needs.
    """

    def __init__(self, path: str | os.PathLike, *, step: int | None = None,
                 process_group: "torch.distributed.ProcessGroup | None" = None):
        super().__init__()
        self.path = place(path)
        self.step = step
        self.process_group = process_group
        self._reader: Any = None

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        if checkpoint_id:
            self.path = place(checkpoint_id)
        self._reader = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        step = self.step
        if step is None:
            step = next((number for number, _, _, problem in _C.steps_in(self.path) if not problem), None)
            if step is None:
                raise errors.NotFound(f"{self.path} has no committed step")
        self._reader = _C.open_step(self.path, step, 0)
        self._sizes = {}
        items: dict[str, Any] = {}
        for name, dtype, shape in self._reader.tensors():
            if dtype == BYTES:
                self._sizes[name] = shape[0]
                items[name] = BytesStorageMetadata()
                continue
            # One chunk: any part of it can be read, whatever pieces it was saved in.
            chunk = ChunkStorageMetadata(torch.Size([0] * len(shape)), torch.Size(shape))
            items[name] = TensorStorageMetadata(TensorProperties(dtype=_TORCH[dtype]), torch.Size(shape), [chunk])
        paths = {name: (name,) for name in items}
        if items.pop(PATHS, None) is not None:
            paths = {name: tuple(word["key"] if isinstance(word, dict) else word for word in path)
                     for name, path in decode(self._read_bytes([PATHS], None)[PATHS]).items()}
        return Metadata(state_dict_metadata=items, planner_data=paths, storage_data={}, storage_meta=StorageMeta(self.path))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if self._reader is None:  # DCP may read the metadata on one rank only
            self.read_metadata()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def _read_bytes(self, names: Sequence[str], group: Any, also: Sequence[tuple] = ()) -> dict[str, bytes]:
        texts = {name: torch.empty(self._sizes[name], dtype=torch.uint8) for name in names}
        state = [(name, BYTES, (len(t),), [((0,), (len(t),), t.data_ptr(), (1,))]) for name, t in texts.items() if len(t)]
        self._reader.load([*also, *state], group, _THREADS, _STAGING_BYTES)
        return {name: bytes_of(text) for name, text in texts.items()}

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        tensors: dict[str, tuple[int, tuple[int, ...], list[tuple]]] = {}
        stored = {name: tuple(shape) for name, _, shape in self._reader.tensors()}
        ends = []  # what to do with each tensor when it is there
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                continue
            target = planner.resolve_tensor(item).detach()
            host = target if target.device.type == "cpu" else torch.empty(target.shape, dtype=target.dtype)
            ends.append((item, target, host))
            name = item.storage_index.fqn
            boxes = tensors.setdefault(name, (DTYPES[target.dtype], stored[name], []))[2]
            if host.numel():
                boxes.append(piece(host, item.storage_offsets, item.lengths))
        state = [(name, dtype, shape, boxes) for name, (dtype, shape, boxes) in tensors.items() if boxes]
        names = [item.storage_index.fqn for item in plan.items if item.type == LoadItemType.BYTE_IO]
        texts = self._read_bytes(names, self.process_group, state)
        for item, target, host in ends:
            if host is not target:
                target.copy_(host)
            planner.commit_tensor(item, target)
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, _as_dcp(texts[item.storage_index.fqn]))
        return _future(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


def _as_dcp(data: bytes) -> io.BytesIO:
    """Bytes as DCP's planner reads them: its own as they are, values of Convoy's in its form."""
    if not data.startswith(MARK):
        return io.BytesIO(data)
    out = io.BytesIO()
    torch.save(decode(data), out)
    out.seek(0)
    return out
