#!/usr/bin/env python3
"""Fails when a module includes one that the layer table does not allow.

The table is the one of docs/ARCHITECTURE.md. A module is a folder (and its public headers); an include of
<convoy/MODULE/x.h> or "src/MODULE/x.h" / "parallel/PART/x.h" is an edge. Also proves the torch line: torch-free modules include no
torch header, and no file includes both torch and spdlog or a protobuf header.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# module -> modules it may include (itself is always allowed)
ALLOWED = {
    "base": set(),
    "mesh": {"base"},
    "dataset": {"base"},
    "schedule": {"base"},
    "http": {"base"},
    "rpc": {"base"},
    "trace": {"base", "http", "rpc"},
    "sim": {"base", "mesh", "schedule", "trace"},
    "resilience": {"base", "http", "mesh", "rpc", "comm"},
    "rendezvous": {"base"},
    "launch": {"base", "rendezvous", "trace", "resilience"},
    "comm": {"base", "mesh", "rendezvous", "trace"},
    "trace_torch": {"base", "comm", "trace"},
    "tensor": {"base", "mesh", "comm"},
    "sequence": {"base", "mesh", "comm"},
    "data": {"base", "mesh", "comm"},
    "pipeline": {"base", "mesh", "comm", "schedule", "trace"},
    "model": {"base", "mesh", "comm", "tensor", "sequence", "data", "pipeline", "schedule"},
    "ckpt": {"base", "mesh", "rpc", "comm"},
    "runtime": {"base", "mesh", "dataset", "rendezvous", "launch", "comm", "schedule", "tensor", "sequence",
                "data", "pipeline", "model", "ckpt", "trace", "trace_torch", "resilience"},
    "standin": set(),  # libraries of their own: nothing of Convoy is inside
    "cli": {"base", "mesh", "dataset", "rendezvous", "launch", "schedule", "ckpt", "trace", "rpc", "sim", "resilience"},
    "python": {"base", "mesh", "dataset", "rendezvous", "launch", "resilience", "comm", "schedule", "tensor", "sequence",
               "data", "pipeline", "model", "runtime", "ckpt", "trace", "trace_torch"},
}
# Folders that must not see torch. comm/host is the torch-free engine inside comm; of ckpt only ckpt/torch/ sees torch.
TORCH_FREE = {"base", "http", "mesh", "dataset", "rpc", "trace", "sim", "schedule", "rendezvous", "launch", "resilience", "cli"}
TORCH_FREE_PATHS = ("src/comm/host/", "include/convoy/comm/host/", "src/standin/core/", "src/standin/cudart/", "src/standin/driver/",
                    "ckpt/manifest/", "ckpt/io/", "ckpt/store/", "ckpt/snapshot/", "ckpt/service/", "ckpt/restore/", "ckpt/formats/",
                    "ckpt/arrow/", "ckpt/cluster/", "ckpt/replica/")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)
TORCH = re.compile(r"^(ATen|c10|torch|caffe2)/")
SHADOWED = re.compile(r"^(spdlog|fmt)/|\.pb\.h$")


def module_of(path: str) -> str | None:
    """The module that a repository path or an include path belongs to."""
    parts = path.split("/")
    if re.match(r"(trace|include/convoy/trace|convoy/trace)/torch/", path):
        return "trace_torch"
    if path.startswith("include/convoy/"):
        parts = parts[1:]
    if parts[0] == "convoy" and len(parts) > 2:
        return parts[2] if parts[1] == "parallel" and len(parts) > 3 else parts[1]
    if parts[0] == "src" and len(parts) > 2 and parts[1] != "cmake":
        return parts[1]
    if parts[0] == "parallel" and len(parts) > 2:
        return parts[1]
    if parts[0] in ("ckpt", "trace") and len(parts) > 2:
        return parts[0]
    if parts[0] == "python":
        return "python"
    return None


def check(path: pathlib.Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    module = module_of(name)
    if module is None:
        return []
    if module not in ALLOWED:
        return [f"{name}: module '{module}' is not in the layer table of .ci/check_layers.py"]
    errors = []
    includes = INCLUDE.findall(path.read_text())
    for include in includes:
        target = module_of(include)
        if target is not None and target != module and target not in ALLOWED[module]:
            errors.append(f"{name}: '{module}' may not include '{target}' ({include})")
        if module == "ckpt" and target == "comm" and name.startswith(TORCH_FREE_PATHS):
            errors.append(f"{name}: of ckpt only torch/ may use comm ({include})")
        if TORCH.match(include) and (module in TORCH_FREE or name.startswith(TORCH_FREE_PATHS)):
            errors.append(f"{name}: torch-free code includes {include}")
    if any(TORCH.match(i) for i in includes) and any(SHADOWED.search(i) for i in includes):
        errors.append(f"{name}: includes torch together with fmt, spdlog or protobuf, which torch's folder shadows")
    return errors


def main() -> int:
    folders = ["src", "include", "parallel", "ckpt", "trace", "python"]
    files = [p for f in folders for p in sorted((ROOT / f).rglob("*")) if p.suffix in (".h", ".cc")]
    errors = [e for p in files for e in check(p)]
    print("\n".join(errors) if errors else f"layers: {len(files)} files, every include is allowed")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
