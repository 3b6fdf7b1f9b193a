#!/usr/bin/env python3
"""comm.tcp.*: collectives between two network namespaces joined by a veth pair, beside Gloo over the same veth.

  comm_tcp.py [--per-host 1,2] [--ops …] [--sizes …] [--runs 7]      (needs root: it makes and removes two namespaces)

Ranks of different namespaces count as ranks of different machines. One JSON line a result, as comm.py. `limit` is the time that the
bytes which must cross the veth need at the rate of a plain socket pair over it, both directions at once, measured in the same run.
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

import torch
import torch.distributed as dist

import comm

ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29620


def crossing(op: str, n: int, size: int) -> float:
    """Bytes that must cross from one host to the other, in the busier direction; half of the ranks on each side."""
    return {"all_reduce": size, "all_gather": n // 2 * size, "reduce_scatter": size / 2, "all_to_all": n * size / 4,
            "broadcast": size, "send_recv": 2 * size, "barrier": 0}[op]


def socket_rate(host: int, runs: int) -> float:
    """Bytes/s of one plain connection between the hosts with both directions in use."""
    total, chunk = 256 << 20, bytearray(1 << 20)
    if host == 0:
        with socket.create_server((ADDRESSES[0], PORT + 1)) as server:
            link, _ = server.accept()
    else:
        for _ in range(100):
            try:
                link = socket.create_connection((ADDRESSES[0], PORT + 1))
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
    rates = []
    for _ in range(runs):
        def send():
            for _ in range(total // len(chunk)):
                link.sendall(chunk)
        sender = threading.Thread(target=send)
        begin, left, view = time.perf_counter(), total, memoryview(bytearray(1 << 20))
        sender.start()
        while left:
            left -= link.recv_into(view[: min(left, len(view))])
        sender.join()
        rates.append(total / (time.perf_counter() - begin))
    link.close()
    return statistics.median(rates)


def worker(args) -> None:
    rank, n, host = args.rank, args.world, args.rank * 2 // args.world
    os.environ.update(MASTER_ADDR=ADDRESSES[0], MASTER_PORT=str(PORT), GLOO_SOCKET_IFNAME="veth-convoy", CONVOY_ADDRESS=ADDRESSES[host])
    torch.set_num_threads(1)
    import convoy  # noqa: F401  registers the backend

    rate = socket_rate(host, 3) if rank % (n // 2) == 0 else 0.0
    dist.init_process_group("convoy", rank=rank, world_size=n)
    ours, gloo = dist.group.WORLD, dist.new_group(backend="gloo")
    peer_rank = n // 2
    for op in args.ops:
        if op == "send_recv" and n > 2:
            continue
        for size in [0] if op == "barrier" else args.sizes:
            tensors = comm.Tensors(op, n, size)
            calls = comm.calls_of(op, size, n)
            times = {"convoy": [], "gloo": []}
            for run in range(args.runs + 1):
                for name, group in (("convoy", ours), ("gloo", gloo)):
                    spent = comm.timed(op, tensors, rank, group, ours, max(1, calls // 5))
                    if run:
                        times[name].append(spent)
            if rank == 0:
                value, peer = statistics.median(times["convoy"]), statistics.median(times["gloo"])
                case = f"2x{peer_rank}r" + (f"/{comm.size_name(size)}" if size else "")
                line = {"bench": f"comm.tcp.{op}", "case": case, "metric": "latency_s", "value": value, "unit": "s",
                        "peer": "torch.distributed gloo", "peer_value": peer, "ratio": round(peer / value, 2)}
                if size >= 1 << 20:
                    limit = crossing(op, n, size) / rate
                    line |= {"limit": limit, "limit_name": "veth", "share_of_limit": round(limit / value, 3)}
                print(json.dumps(line), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def measure(per_host: int, options: list[str]) -> int:
    names = [f"convoy-bench-{os.getpid()}-{i}" for i in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "veth-convoy", "netns", names[0], "type", "veth", "peer", "name", "veth-convoy", "netns", names[1])
        for name, address in zip(names, ADDRESSES):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "veth-convoy")
            for device in ("lo", "veth-convoy"):
                ip("-n", name, "link", "set", device, "up")
        n = 2 * per_host
        workers = [subprocess.Popen(["ip", "netns", "exec", names[r // per_host], sys.executable, __file__, "--rank", str(r),
                                     "--world", str(n), *options]) for r in range(n)]
        return max(w.wait() for w in workers)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-host", default="1,2", help="ranks in each namespace")
    parser.add_argument("--ops", default=comm.OPS)
    parser.add_argument("--sizes", default="64,64KiB,1MiB,16MiB,64MiB")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--build", help="ignored; the package is found through PYTHONPATH")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--world", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is None:
        options = ["--ops", args.ops, "--sizes", args.sizes, "--runs", str(args.runs)]
        return max(measure(int(p), options) for p in args.per_host.split(","))
    args.ops, args.sizes = args.ops.split(","), [comm.parse_size(s) for s in args.sizes.split(",")]
    worker(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
