#!/usr/bin/env python3
"""Saving and loading a GPT-like state with Adam from PyTorch, beside DCP, torch.save and safetensors.

  ckpt_save.py --build build/release [--width 1024] [--runs 5] [--device cuda]

4 ranks (gloo), DTensors as FSDP2 shards them; width 1024 is 512 MiB a rank in 372 tensors. Each run takes all modes in turn, so
that all meet the same machine. Figures are medians over the runs of the slowest rank. `stall` is what the call keeps the
caller; `durable` until every rank's files and folders are synced; the limit is a copy of the same bytes by as many threads
into memory that has been touched, and for the disk fio's writes of as many bytes. Loads drop the page cache first (as root;
else they say so). With --device cuda the state is on the GPU, which the ranks share; `stall` then lasts until the GPU may write
to the state again, `call` until the call returns, and the limit is a copy of the same bytes into pinned memory.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
import ranks  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # noqa: E402
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor, Shard  # noqa: E402

from convoy.checkpoint import Checkpointer, load  # noqa: E402

SIZE, LAYERS, VOCABULARY, THREADS = 4, 10, 50304, 2
DEVICE = torch.device("cpu")  # --device
GPU_PEERS = ("dcp.save", "dcp.async_save", "dcp.async_save pinned", "torch.save")
PEERS = ("dcp.save", "dcp.async_save", "dcp.async_save process", "dcp.async_save cached", "torch.save", "safetensors")


def shapes(d: int) -> dict[str, tuple[int, ...]]:
    out = {"wte.weight": (VOCABULARY, d), "wpe.weight": (1024, d), "ln_f.weight": (d,), "ln_f.bias": (d,)}
    for i in range(LAYERS):
        h = f"h.{i}."
        out |= {h + "ln_1.weight": (d,), h + "ln_1.bias": (d,), h + "attn.c_attn.weight": (3 * d, d), h + "attn.c_attn.bias": (3 * d,),
                h + "attn.c_proj.weight": (d, d), h + "attn.c_proj.bias": (d,), h + "ln_2.weight": (d,), h + "ln_2.bias": (d,),
                h + "mlp.c_fc.weight": (4 * d, d), h + "mlp.c_fc.bias": (4 * d,), h + "mlp.c_proj.weight": (d, 4 * d),
                h + "mlp.c_proj.bias": (d,)}
    return out


def make_state(rank: int, size: int, d: int) -> dict[str, DTensor]:
    mesh, out = init_device_mesh(DEVICE.type, (size,)), {}
    for k, (name, shape) in enumerate(shapes(d).items()):
        rows = shape[0] // size
        for part in ("model", "optim.exp_avg", "optim.exp_avg_sq"):
            base = torch.arange(rank * rows, (rank + 1) * rows, dtype=torch.float32, device=DEVICE) + 1000.0 * k
            local = base.view(rows, *([1] * (len(shape) - 1))).expand(rows, *shape[1:]).contiguous()
            stride = (shape[1], 1) if len(shape) == 2 else (1,)
            out[f"{part}.{name}"] = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=stride)
    return out


def slowest(seconds: float) -> float:
    tensor = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)


def sync_all(folder: str) -> None:
    for path in [*pathlib.Path(folder).rglob("*"), pathlib.Path(folder)]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def files_bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class Memcpy:
    """The same bytes by the same number of threads, into memory that is there already."""

    def __init__(self, state: dict[str, DTensor]):
        self.locals = [tensor.to_local().reshape(-1) for tensor in state.values()]
        gpu = DEVICE.type == "cuda"
        self.copies = [torch.zeros_like(tensor, device="cpu", pin_memory=gpu) for tensor in self.locals]

    def run(self) -> float:
        if DEVICE.type == "cuda":
            synchronize()
            started = time.perf_counter()
            for to, source in zip(self.copies, self.locals):
                to.copy_(source, non_blocking=True)
            synchronize()
            return time.perf_counter() - started

        def work(index: int) -> None:
            for to, source in list(zip(self.copies, self.locals))[index::THREADS]:
                to.copy_(source)
        started = time.perf_counter()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started


def fio_write(folder: str, size: int) -> float:
    """Seconds that fio takes to write and sync as many bytes past the page cache, in a file a rank; 0: there is no fio."""
    path = pathlib.Path(folder, "fio")
    path.mkdir()
    words = ["fio", "--name=t", "--mem=malloc", f"--directory={path}", "--rw=write", "--bs=4m", "--direct=1", "--ioengine=io_uring", "--iodepth=8",
             f"--nrfiles={SIZE}", "--file_service_type=sequential", f"--size={size}", "--end_fsync=1", "--output-format=json"]
    try:
        # Its buffers in huge pages, as ours.
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True,
                              env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
        job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
        return job["write"]["io_bytes"] / job["write"]["bw_bytes"]
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0.0
    finally:
        shutil.rmtree(path)


class Modes:
    """One save in each of the ways: (fence, wait), where the state may be changed after fence(), and wait() ends when the save's own
    writes are done."""

    def __init__(self, rank: int, folder: str, state: dict[str, DTensor]):
        self.rank, self.folder, self.state = rank, folder, state
        self.local = {name: tensor.to_local() for name, tensor in state.items()}
        self.stagers = {"dcp.async_save cached": DefaultStager(StagingOptions(False, False, False, False)),
                        "dcp.async_save process": DefaultStager(StagingOptions(False, True, False, False))}
        if DEVICE.type == "cuda":
            self.stagers["dcp.async_save pinned"] = DefaultStager(StagingOptions(True, False, True, True))
        self.checkpointer = Checkpointer(folder + "/convoy", keep_newest=1, incremental=False, threads=THREADS)
        self.checkpointer.prepare(state)
        self.step = 0

    def save(self, mode: str):
        path = f"{self.folder}/{mode.replace(' ', '_')}"
        if mode == "convoy":
            self.step += 1
            result = self.checkpointer.save_async(self.step, self.state).result
            return self.checkpointer.fence, result
        if mode == "dcp.save":
            dcp.save(self.state, storage_writer=dcp.FileSystemWriter(path))
            return nothing, nothing
        if mode.startswith("dcp"):
            kind = AsyncCheckpointerType.PROCESS if mode.endswith("process") else AsyncCheckpointerType.THREAD
            future = dcp.async_save(self.state, storage_writer=dcp.FileSystemWriter(path), async_stager=self.stagers.get(mode),
                                    async_checkpointer_type=kind)
            staged = getattr(future, "staging_completion", None)
            return staged.result if staged else nothing, getattr(future, "upload_completion", future).result
        file = f"{path}/{self.rank}"
        if mode == "torch.save":
            torch.save(self.local, file)
        else:
            from safetensors.torch import save_file
            save_file(self.local, file)
        return nothing, nothing

    def timed(self, mode: str) -> dict[str, float]:
        path = f"{self.folder}/{mode.replace(' ', '_')}"
        if self.rank == 0 and mode != "convoy":
            shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path)
        if self.rank == 0:
            os.sync()
        dist.barrier()
        synchronize()
        started = time.perf_counter()
        fence, wait = self.save(mode)
        call = time.perf_counter() - started
        fence()
        synchronize()
        stall = time.perf_counter() - started
        wait()
        done = time.perf_counter() - started
        dist.barrier()
        synced = time.perf_counter()
        if self.rank == 0 and mode != "convoy":  # a step of ours is durable when it is done
            sync_all(path)
        return {"call": slowest(call), "stall": slowest(stall), "durable": slowest(done) + slowest(time.perf_counter() - synced)}

    def slowdown(self, mode: str) -> float:
        """Mean time of small steps while a save is in the background, over that without."""
        tensors = [torch.zeros(64, device=DEVICE) for _ in range(300)]

        def steps(until) -> float:
            times = []
            while not until() or not times:
                started = time.perf_counter()
                for tensor in tensors:
                    tensor.add_(1.0).mul_(0.5)
                synchronize()
                times.append(time.perf_counter() - started)
            return statistics.mean(times)
        end = time.perf_counter() + 1.0
        idle = steps(lambda: time.perf_counter() > end)
        if self.rank == 0 and mode != "convoy":
            shutil.rmtree(f"{self.folder}/{mode.replace(' ', '_')}", ignore_errors=True)
        dist.barrier()
        fence, wait = self.save(mode)
        fence()
        thread = threading.Thread(target=wait)
        thread.start()
        busy = steps(lambda: not thread.is_alive())
        thread.join()
        dist.barrier()
        return slowest(busy / idle)


def nothing() -> None:
    pass


def save_ranks(rank: int, size: int, folder: str, d: int, runs: int, peers: tuple[str, ...]) -> None:
    warnings.filterwarnings("ignore")
    ranks.init("gloo", rank, size, timeout_s=600)
    state = make_state(rank, size, d)
    modes, memcpy = Modes(rank, folder, state), Memcpy(state)
    results: dict[str, list] = {mode: [] for mode in ("convoy", *peers)} | {"memcpy": [], "fio": [], "slowdown": []}
    state_bytes = sum(tensor.nbytes for tensor in modes.local.values()) * size
    for run in range(runs + 1):  # the first is the first save of each
        turn = ("convoy", *peers)
        for mode in turn[run % len(turn):] + turn[:run % len(turn)]:  # nobody always follows the same one
            results[mode].append(modes.timed(mode))
        dist.barrier()
        results["memcpy"].append(slowest(memcpy.run()))
        if rank == 0:
            results["fio"].append(fio_write(folder, state_bytes))
            os.sync()
            time.sleep(1)  # the disk forgets fio's files
        dist.barrier()
    background = ("convoy", *(p for p in peers if "async" in p and "cached" not in p))
    for _ in range(max(1, runs // 2)):
        results["slowdown"].append({mode: modes.slowdown(mode) for mode in background})
    modes.checkpointer.close()
    results["incremental"] = incremental(rank, folder, state)
    results["state_bytes"] = state_bytes
    if rank == 0:
        pathlib.Path(folder, "results.json").write_text(json.dumps(results))
    dist.barrier()
    for stager in modes.stagers.values():
        stager.close()


def incremental(rank: int, folder: str, state: dict[str, DTensor]) -> float:
    """Bytes of a save after a tenth of the state has changed, over those of a whole one."""
    os.environ["CONVOY_AGENT"] += "-2"  # an agent has one folder
    checkpointer = Checkpointer(folder + "/incremental", keep_newest=2)
    checkpointer.save_async(1, state).result()
    changed, most = 0, sum(tensor.to_local().nbytes for tensor in state.values()) / 10
    for tensor in state.values():
        if changed + tensor.to_local().nbytes <= most:
            tensor.to_local().add_(1)
            changed += tensor.to_local().nbytes
    checkpointer.save_async(2, state).result()
    checkpointer.close()
    dist.barrier()
    return files_bytes(f"{folder}/incremental/data/s000000000002") / files_bytes(f"{folder}/incremental/data/s000000000001")


def peak_memory(pid: int) -> int:
    """Bytes, shared memory that it has touched included."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(text for text in status.splitlines() if text.startswith("VmHWM")).split()[1])


def drop_caches() -> bool:
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def load_ranks(rank: int, size: int, folder: str, d: int, runs: int) -> None:
    warnings.filterwarnings("ignore")
    ranks.init("gloo", rank, size, timeout_s=600)
    state = make_state(rank, size, d)
    results: dict[str, list[float]] = {"convoy": [], "dcp": [], "read": []}
    for _ in range(runs):
        for mode in ("convoy", "dcp"):
            for tensor in state.values():
                tensor.to_local().fill_(-1)
            if rank == 0:
                drop_caches()
            dist.barrier()
            started = time.perf_counter()
            if mode == "convoy":
                read = torch.tensor([load(state, folder + "/convoy").bytes_read])
            else:
                dcp.load(state, checkpoint_id=folder + "/dcp.save")
            results[mode].append(slowest(time.perf_counter() - started))
            if mode == "convoy":
                dist.all_reduce(read)
                results["read"].append(float(read))
    if rank == 0:
        pathlib.Path(folder, f"load{size}.json").write_text(json.dumps(results))
    dist.barrier()


def line(metric: str, value: float, unit: str, case: str, bench: str = "ckpt.save", **more) -> None:
    out = {"bench": bench, "case": case, "metric": metric, "value": value, "unit": unit}
    if more.get("peer_value"):
        out["ratio"] = more["peer_value"] / value
    if more.get("limit"):
        out["share_of_limit"] = more["limit"] / value
    print(json.dumps(out | more), flush=True)


def report(results: dict, case: str, peers: tuple[str, ...]) -> None:
    def median(mode: str, what: str) -> float:
        return statistics.median(run[what] for run in results[mode][1:])
    limit = statistics.median(results["memcpy"][1:])
    fio = statistics.median(results["fio"][1:])
    stall, durable = median("convoy", "stall"), median("convoy", "durable")
    line("stall_first", results["convoy"][0]["stall"], "s", case + " first", limit=limit, limit_name="memcpy", warm=stall)
    for peer in peers:
        line("stall", stall, "s", f"{case} stall", call=median("convoy", "call"), peer=peer, peer_value=median(peer, "stall"), limit=limit, limit_name="memcpy",
             peer_first=results[peer][0]["stall"])
    for peer in peers or ("",):
        line("durable", durable, "s", f"{case} durable", bytes_per_s=results["state_bytes"] / durable, limit=fio, limit_name="fio",
             **({"peer": peer, "peer_value": median(peer, "durable")} if peer else {}))
    ours = statistics.median(run["convoy"] for run in results["slowdown"])
    for peer in results["slowdown"][0]:
        if peer != "convoy":
            line("slowdown", ours, "times", f"{case} background", peer=peer, peer_value=statistics.median(run[peer] for run in results["slowdown"]))
    line("incremental", results["incremental"], "of a whole save", f"{case} 10% changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peers")
    args = parser.parse_args()
    global DEVICE
    DEVICE = torch.device(args.device)
    default = PEERS if args.device == "cpu" else GPU_PEERS
    peers = default if args.peers is None else tuple(p for p in args.peers.split(",") if p)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mib = sum(torch.Size(shape).numel() for shape in shapes(args.width).values()) * 12 // SIZE >> 20
    convoy = str(pathlib.Path(args.build, "src/cli/convoy").resolve())
    bench = pathlib.Path(args.build, "bench")
    bench.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ckpt_save-", dir=bench) as folder:
        os.environ["CONVOY_AGENT"] = f"convoy-bench-{os.getpid()}"
        names = (os.environ["CONVOY_AGENT"], os.environ["CONVOY_AGENT"] + "-2")
        agents = [subprocess.Popen([convoy, "agent", "--name", name], stderr=subprocess.DEVNULL) for name in names]
        try:
            ranks.run(SIZE, save_ranks, SIZE, folder, args.width, args.runs, peers, limit_s=1800)
            memory = peak_memory(agents[0].pid)
        finally:
            for agent in agents:
                agent.terminate()
                agent.wait(60)
        state_bytes = mib * SIZE * 2**20
        line("agent_memory", memory / state_bytes, "times the state", f"{SIZE}x{mib}MiB", beyond_double_buffer_bytes=memory - 2 * state_bytes)
        report(json.loads(pathlib.Path(folder, "results.json").read_text()), f"{SIZE}x{mib}MiB", peers)
        if "dcp.save" not in peers:
            return
        cold = drop_caches()
        same = 0.0
        for size in (SIZE, 2, 8):
            ranks.run(size, load_ranks, size, folder, args.width, args.runs, limit_s=900)
            got = json.loads(pathlib.Path(folder, f"load{size}.json").read_text())
            value = statistics.median(got["convoy"])
            same = same or value
            line("load", value, "s", f"{SIZE} to {size} ranks{'' if cold else ', not cold'}", bench="ckpt.load", peer="dcp.load",
                 peer_value=statistics.median(got["dcp"]), times_same_layout=value / same,
                 bytes_read_per_needed=got["read"][0] / (mib * SIZE * 2**20))


if __name__ == "__main__":
    main()
