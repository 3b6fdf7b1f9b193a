#!/usr/bin/env python3
"""examples/train_ddp.py and recover_ddp.py: examples.py CONVOY_COMMAND

Method: starts it alone, under torchrun, under `convoy run` and on Gloo; every run must end well with the loss of the
one-process run to 1e-3. Checks the examples, and that the launchers' contracts fit the backend; not its speed.
"""
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
STEPS = "20"


def final_loss(name: str, command: list[str]) -> float:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    losses = re.findall(rf"step +{STEPS} +loss ([0-9.]+)", done.stdout)
    # torch on Gloo can abort when Python ends, after all is done; no code of ours is in that run.
    torchs_own = "gloo" in name and "terminate called without an active exception" in done.stderr
    if (done.returncode != 0 and not torchs_own) or len(losses) != 1:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    print(f"{name}: loss {losses[0]}", flush=True)
    return float(losses[0])


def check(convoy: str, path: pathlib.Path) -> None:
    script = [str(path), "--steps", STEPS]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    alone = final_loss(f"{path.name} alone", [sys.executable, *script])
    others = {
        "torchrun": [*torchrun, *script],
        "torchrun on gloo": [*torchrun, *script, "--backend", "gloo"],
        "convoy run": [convoy, "run", "-n", "2", "--", sys.executable, *script],
    }
    for name, command in others.items():
        loss = final_loss(f"{path.name}, {name}", command)
        if abs(loss - alone) > 1e-3:
            raise SystemExit(f"{name}: loss {loss}, alone {alone}")


def main() -> None:
    for name in ("train_ddp.py", "recover_ddp.py"):
        check(sys.argv[1], EXAMPLES / name)
    print("ok")


if __name__ == "__main__":
    main()
