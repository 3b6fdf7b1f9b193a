#!/usr/bin/env python3
"""Starts RANKS processes of a program on this machine with torchrun's variables, and ends with the first failure's exit code: a
launcher that starts no agent, for tests that start their own.
"""
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402

ranks = int(os.environ["RANKS"])
environment = {**os.environ, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(free_port())}
processes = [subprocess.Popen(sys.argv[1:], env={**environment, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(ranks)]
codes = [process.wait() for process in processes]
sys.exit(next((code for code in codes if code), 0))
