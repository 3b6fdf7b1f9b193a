"""Runs a function on N ranks, forked from this process so that torch is imported once.

    ranks.run(4, body, arg)      # body(rank, arg) in every child; raises if one fails or the time is up

Ranks meet in a file store (it survives the death of any rank). A rank that is meant to die says so: run(…, dies={2}).
"""
import ctypes
import faulthandler
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

torch.set_num_threads(1)
_folder = ""


def init(backend: str, rank: int, size: int, name: str = "store", timeout_s: float = 60, **more) -> None:
    """init_process_group over a fresh file store called `name`."""
    store = dist.FileStore(os.path.join(_folder, name), -1)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s), **more)


def _write_report() -> None:
    """On the stand-in for CUDA: what it looks for at a process's exit, which os._exit() leaves out."""
    if "CONVOY_STANDIN_REPORT" in os.environ and torch.cuda.is_initialized():
        ctypes.CDLL(None).standin_write_report()


def _child(rank: int, body: Callable, args: tuple, limit_s: float) -> None:
    faulthandler.dump_traceback_later(limit_s, exit=True)
    code = 1
    try:
        body(rank, *args)
        _write_report()
        code = 0
    except BaseException:  # noqa: BLE001  a test's child reports whatever stopped it
        print(f"rank {rank} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(size: int, body: Callable, *args, limit_s: float = 100, dies: frozenset | set = frozenset()) -> None:
    """Raises RuntimeError naming the ranks that failed, died unasked or did not end in time."""
    global _folder
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        _folder = folder
        sys.stdout.flush()
        pids = {}
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                _child(rank, body, args, limit_s)
            pids[pid] = rank
        bad, end = [], time.monotonic() + limit_s + 10
        while pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                if time.monotonic() > end or bad:
                    # Somebody failed: the others would only wait for him.
                    if bad:
                        time.sleep(2)
                    for left in pids:
                        os.kill(left, signal.SIGKILL)
                    for left in list(pids):
                        os.waitpid(left, 0)
                        bad.append(f"rank {pids.pop(left)} was ended")
                    break
                time.sleep(0.01)
                continue
            rank = pids.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code != 0 and not (rank in dies and code == -signal.SIGKILL):
                bad.append(f"rank {rank} ended with {code}")
        if bad:
            raise RuntimeError("; ".join(bad))


def run_tests(tests: dict, chosen: list[str]) -> None:
    """Calls the test_* functions among `tests` (a module's globals()), or those that are chosen by name."""
    for name, test in list(tests.items()):
        if name.startswith("test_") and (not chosen or name.removeprefix("test_") in chosen):
            started = time.monotonic()
            test()
            print(f"{name}: ok, {time.monotonic() - started:.1f} s", flush=True)
