#!/usr/bin/env python3
"""Wrong input and a wrong machine, as a user meets them: bad_input_test.py CONVOY TRAIN_LLAMA OTHER_TORCH

For each: one paragraph that says what and how to mend it, the documented exit code, nothing left behind. Limits on memory,
files and descriptors are set for real; OTHER_TORCH is a library that, preloaded, makes libtorch tell another version.
A tiny /dev/shm (a mount of its own, root only) must not matter, and must stay empty. Not checked: a machine that runs out
of memory, which the kernel ends by SIGKILL.
"""
import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import tempfile

from train_llama_test import CONVOY, TRAIN, check, failures, nothing_left, prepare, refused, run, train


def limited(limit: int, value: int, command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=dict(os.environ, OMP_NUM_THREADS="1"),
                          preexec_fn=lambda: resource.setrlimit(limit, (value, value)))


def wrong_options(folder: pathlib.Path, data: str) -> None:
    good = ["--data", data, "--steps", "2", "--batch", "8", "--sequence", "24", "--no-baseline"]
    refused("unknown option", 64, ["--fancy"], train(1, "", folder, *good, "--fancy"), folder)
    refused("misspelt option", 64, ["'--stesp'", "Did you mean --steps?"], train(1, "", folder, "--stesp", "3"), folder)
    refused("no number", 64, ["--steps", "above 0", "'many'"], train(1, "", folder, *good, "--steps", "many"), folder)
    refused("mesh and ranks differ", 64, ["tp=3", "2 ranks"], train(2, "tp=2", folder, *good, "--mesh", "tp=3"), folder)
    refused("mesh of convoy run", 64, ["multiply to 6", "8 ranks"], train(8, "tp=2,pp=3", folder, *good), folder)
    refused("fewer heads than ranks", 64, ["4 attention heads", "tp <= 4"],
            train(8, "tp=8", folder, *good, "--config", "demo"), folder)
    refused("batch doesn't divide", 64, ["batch", "multiple of"],
            train(2, "dp=2", folder, *good[:4], "--batch", "7", "--sequence", "24"), folder)
    refused("stages without layers", 64, ["4 layers", "8 pipeline stages", "fewer chunks"],
            train(2, "pp=2", folder, *good, "--schedule", "interleaved", "--chunks", "4"), folder)
    refused("too little text", 64, ["fewer than one batch"],
            train(1, "", folder, "--data", data, "--sequence", "2000", "--batch", "64"), folder)
    refused("unknown dimension", 64, ["ep"], train(2, "ep=2", folder, *good), folder)


def wrong_checkpoint_options(folder: pathlib.Path, data: str) -> None:
    good = ["--data", data, "--steps", "2", "--batch", "8", "--sequence", "24", "--no-baseline"]
    kept = [*good, "--checkpoint", str(folder / "checkpoints")]
    for name, words, options in (
            ("replicas that are no pair", ["--checkpoint-replicas is '2'", "K,M", "1,1"], [*kept, "--checkpoint-replicas", "2"]),
            ("no piece", ["K of --checkpoint-replicas is '0'", "at least 1"], [*kept, "--checkpoint-replicas", "0,1"]),
            ("too many pieces", ["M of --checkpoint-replicas is '5'", "at most 2"], [*kept, "--checkpoint-replicas", "30,5"]),
            ("fewer machines than pieces", ["--checkpoint-replicas 2,1", "3 machines", "has 1"], [*kept, "--checkpoint-replicas", "2,1"]),
            ("no such level", ["--checkpoint-compress", "99"], [*kept, "--checkpoint-compress", "99"]),
            ("no bandwidth", ["--checkpoint-remote-bandwidth is 'fast'"],
             [*kept, "--checkpoint-remote", "s3://b/f", "--checkpoint-remote-bandwidth", "fast"]),
            ("a path as store", ["--checkpoint-remote is '/mnt/far'", "s3://bucket/run"], [*kept, "--checkpoint-remote", "/mnt/far"]),
            ("rules of no store", ["--checkpoint-remote-keep needs --checkpoint-remote"], [*kept, "--checkpoint-remote-keep", "3"]),
            ("rules of nothing", ["--checkpoint-every needs --checkpoint FOLDER"], [*good, "--checkpoint-every", "3"])):
        refused(name, 64, words, train(1, "", folder, *options), folder)


def wrong_files(folder: pathlib.Path, data: str) -> None:
    bytes_ = pathlib.Path(data).read_bytes()
    for name, content, code, words in (
            ("truncated", bytes_[:-7], 65, ["is truncated", "convoy data prepare"]),
            ("header only", bytes_[:50], 65, ["is truncated", "convoy data prepare"]),
            ("empty", b"", 65, ["is truncated", "0 bytes"]),
            ("of another version", bytes_[:8] + struct.pack("<I", 2) + bytes_[12:], 65, ["version 2", "reads version 1"]),
            ("foreign", b"this is no token file" * 20, 64, ["is not a token file", "convoy data prepare"])):
        path = folder / "wrong.tokens"
        path.write_bytes(content)
        refused(f"file {name}", code, ["wrong.tokens", *words], train(1, "", folder, "--data", str(path)), folder)
        refused(f"file {name}, convoy data", code, ["wrong.tokens", *words], run(CONVOY, "data", "show", str(path)), folder)
    refused("missing file", 66, ["gone.tokens"], train(1, "", folder, "--data", str(folder / "gone.tokens")), folder)


def port_in_use(folder: pathlib.Path, data: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = dict(os.environ, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        result = subprocess.run([TRAIN, "--data", data], capture_output=True, text=True, timeout=60, env=environment)
        refused("port in use", 69, ["in use", "MASTER_PORT"], result, folder)
        result = run(CONVOY, "run", "-n", "2", "--port", port, "--", TRAIN, "--data", data)
        refused("port in use, convoy run", 69, [f"Port {port} is in use", "--port"], result, folder)


def limits(folder: pathlib.Path, data: str) -> None:
    """Shared memory that can't be had. Every rank may say so: they need not have met."""
    command = [CONVOY, "run", "-n", "2", "--mesh", "dp=2", "--no-prefix", "--output", str(folder / "out"), "--", TRAIN,
               "--data", data, "--steps", "1", "--batch", "8", "--sequence", "24", "--no-baseline", "--sample", "0"]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # the heap alone is as large
    for name, result, code, word in (
            ("ulimit -f", limited(resource.RLIMIT_FSIZE, 1 << 20, command), 71, "ulimit -f unlimited"),
            ("ulimit -v", limited(resource.RLIMIT_AS, memory, command), 71, "ulimit -v"),
            ("ulimit -n", limited(resource.RLIMIT_NOFILE, 16, command), 70, "ulimit -n"),
            ("a full heap", limited(resource.RLIMIT_FSIZE, 64 << 20, command + ["--config", "medium"]), 71,
             "has no room for")):
        text = result.stdout + result.stderr
        check(result.returncode == code and word in text, f"{name}: exit code {code}, the text has '{word}'",
              f"{result.returncode}\n{text}")
        check(nothing_left(folder), f"{name}: nothing left behind")


def tiny_dev_shm(folder: pathlib.Path, data: str) -> None:
    script = ('mount -t tmpfs -o size=4k none /dev/shm || exit 77; "$@" || exit 1; '
              'test -z "$(ls -A /dev/shm)" || { ls -A /dev/shm; exit 2; }')
    result = run("unshare", "--mount", "sh", "-c", script, "sh", CONVOY, "run", "-n", "2", "--mesh", "tp=2", "--output",
                 str(folder / "out"), "--", TRAIN, "--data", data, "--steps", "2", "--batch", "8", "--sequence", "24",
                 "--no-baseline", "--sample", "0")
    if result.returncode == 77 or "unshare" in result.stderr:
        print("skipped: no mounts of our own here:", result.stderr.strip())
        return
    check(result.returncode == 0, "a /dev/shm of 4 KiB does not matter, and stays empty",
          f"{result.returncode}\n{result.stdout}{result.stderr}")


def other_torch(folder: pathlib.Path, data: str, library: str) -> None:
    result = run("env", f"LD_PRELOAD={library}", TRAIN, "--data", data)
    refused("torch of another version", 78, ["compiled with libtorch 2.15", "2.14.0 was loaded", "LD_LIBRARY_PATH"],
            result, folder)
    result = run(CONVOY, "run", "-n", "1", "--output", str(folder / "out"), "--", "sh", "-c", "exit 127")
    refused("a program that can't be loaded", 127, ["library is missing or of another version", "ldd"], result, folder)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = prepare(folder)
        wrong_options(folder, data)
        wrong_checkpoint_options(folder, data)
        wrong_files(folder, data)
        port_in_use(folder, data)
        limits(folder, data)
        tiny_dev_shm(folder, data)
        other_torch(folder, data, sys.argv[3])
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
