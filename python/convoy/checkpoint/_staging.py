"""From GPUs to pinned memory, on a stream of its own."""
import torch

from convoy.checkpoint._plan import Piece

_ALIGN = 64


class Staging:
    """Copies pieces into pinned memory. One save at a time: its memory is used again by the next."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._events: dict[torch.device, torch.cuda.Event] = {}

    def reserve(self, pieces: list[Piece]) -> list[int]:
        """Pins memory for such pieces, which takes longer than to copy them. Returns where each begins."""
        starts, size = [], 0
        for piece in pieces:
            starts.append(size)
            size += -(-piece.view.nbytes // _ALIGN) * _ALIGN
        if size > self._memory.numel():
            self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return starts

    def start(self, pieces: list[Piece]) -> list[torch.Tensor]:
        """Host tensors with the pieces' content once wait() has returned. Memory of the CPU is copied at once."""
        hosts, devices = [], set()
        for piece, start in zip(pieces, self.reserve(pieces), strict=True):
            view = piece.view
            host = self._memory[start:start + view.nbytes].view(view.dtype).view(view.shape)
            hosts.append(host)
            if view.device.type == "cpu":
                host.copy_(view)
                continue
            stream = self._stream(view.device, first=view.device not in devices)
            devices.add(view.device)
            with torch.cuda.stream(stream):
                host.copy_(view, non_blocking=True)
            view.record_stream(stream)
        self._events = {device: torch.cuda.Event() for device in devices}
        for device, event in self._events.items():
            event.record(self._streams[device])
        return hosts

    def _stream(self, device: torch.device, first: bool) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        if first:  # what is to be saved must have been computed
            stream.wait_stream(torch.cuda.current_stream(device))
        return stream

    def fence(self) -> None:
        """The current streams go on only when the copies are done. Does not block this thread."""
        for device, event in self._events.items():
            torch.cuda.current_stream(device).wait_event(event)

    def wait(self) -> None:
        """Blocks until the copies are done."""
        for event in self._events.values():
            event.synchronize()
