#!/usr/bin/env python3
"""Convoy used from outside of its tree: install.py cmake|pip BUILD_FOLDER TORCH_FOLDER

Method: `cmake` installs the build into a temporary prefix, then configures, builds and runs two small programs that know
only that prefix. `pip` installs the wheel into a temporary folder and imports it from elsewhere; it compiles in
build/wheel, where ccache finds what the main build compiled. Does not check uninstalling, nor other versions of torch.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMPORT = """
import torch, torch.distributed as dist, convoy
assert convoy.__file__.startswith(FOLDER), convoy.__file__
dist.init_process_group("convoy", store=dist.HashStore(), rank=0, world_size=1)
x = convoy.shared_memory.empty(1000).fill_(1)
dist.all_reduce(x)
assert float(x.sum()) == 1000
print("convoy", convoy.__version__, convoy.Mesh("tp=1"))
dist.destroy_process_group()
"""


REHEARSED = "import torch; torch.ones(3, device='cuda').sum().item()"


def run(*command: str, **more) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def rehearse(convoy: pathlib.Path, folder: pathlib.Path) -> None:
    """The installed command finds the installed stand-in, whatever the build folder holds."""
    words = ["run", "-n", "1", "--rehearse", "--json", "--output", str(folder / "rehearsed"), "--"]
    out = run(str(convoy), *words, sys.executable, "-c", REHEARSED, cwd=folder)
    assert '"event":"rehearsal"' in out and '"findings":[]' in out, out


def cmake(build: str, torch: str, folder: pathlib.Path) -> None:
    run("cmake", "--install", build, "--prefix", str(folder / "prefix"))
    run("cmake", "-S", str(ROOT / "tests/install/program"), "-B", str(folder / "out"), "-GNinja",
        f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}", f"-DCONVOY_TORCH_DIR={torch}", f"-DPython3_EXECUTABLE={sys.executable}")
    run("cmake", "--build", str(folder / "out"))
    print(run(str(folder / "out/with_core")) + run(str(folder / "out/with_torch")), end="")
    rehearse(folder / "prefix/bin/convoy", folder)


def pip(build: str, torch: str, folder: pathlib.Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # The same compiler by the same name: else ccache takes it for another one.
    compiler = re.search(r"CMAKE_CXX_COMPILER:\w+=(.*)", (pathlib.Path(build) / "CMakeCache.txt").read_text())[1]
    run(sys.executable, "-m", "pip", "install", "--quiet", str(ROOT), "--no-build-isolation", "--no-deps", "--target", str(folder),
        "--disable-pip-version-check", f"--config-settings=cmake.define.CMAKE_CXX_COMPILER={compiler}", env=environment)
    print(run(sys.executable, "-c", f"FOLDER = {str(folder)!r}\n{IMPORT}", cwd=folder,
              env=environment | {"PYTHONPATH": str(folder)}), end="")
    print(run(str(folder / "bin/convoy"), "--help").splitlines()[0])
    rehearse(folder / "bin/convoy", folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="convoy-install-") as name:
        {"cmake": cmake, "pip": pip}[sys.argv[1]](sys.argv[2], sys.argv[3], pathlib.Path(name).resolve())
    print("ok")
