#!/usr/bin/env python3
"""Starts RANKS processes of a program on this machine with torchrun's variables, and ends with the first failure's exit code: a
launcher that starts no agent, for tests that start their own.
"""
import os
import socket
import subprocess
import sys

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
ranks = int(os.environ["RANKS"])
environment = {**os.environ, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(port)}
processes = [subprocess.Popen(sys.argv[1:], env={**environment, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(ranks)]
codes = [process.wait() for process in processes]
sys.exit(next((code for code in codes if code), 0))
