#!/usr/bin/env python3
"""Compiles each public header alone, with the flags of the build folder given: check_headers.py BUILD_DIR.

Headers that need torch are skipped when the build has no torch. Results are cached by ccache where present.
"""
import concurrent.futures
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def flags_of(build: pathlib.Path, marker: str) -> list[str] | None:
    """Include and define flags of the first source whose command mentions `marker`."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if marker in entry["command"]:
            words = shlex.split(entry["command"])
            keep, i = [], 0
            while i < len(words):
                if words[i] in ("-isystem", "-I"):
                    keep += words[i:i + 2]
                    i += 1
                elif words[i].startswith(("-I", "-D", "-std")):
                    keep.append(words[i])
                i += 1
            return keep
    return None


def needs_torch(header: pathlib.Path) -> bool:
    seen, todo = set(), [header]
    while todo:
        text = todo.pop().read_text()
        if re.search(r"#include <(ATen|c10|torch)/", text):
            return True
        for name in re.findall(r"#include <(convoy/[^>]+)>", text):
            path = ROOT / "include" / name
            if path not in seen and path.exists():
                seen.add(path)
                todo.append(path)
    return False


def main() -> int:
    build = pathlib.Path(sys.argv[1])
    core, torch = flags_of(build, "src/base/status.cc"), flags_of(build, "convoy.dir")
    compiler = ([shutil.which("ccache")] if shutil.which("ccache") else []) + ["g++"]

    def compile_one(header: pathlib.Path) -> str | None:
        flags = torch if needs_torch(header) else core
        if flags is None:
            return None
        # ccache keeps objects only, so -fsyntax-only would be compiled again each time.
        with tempfile.NamedTemporaryFile(suffix=".o") as out:
            command = compiler + flags + ["-c", "-O0", "-Wall", "-x", "c++", str(header), "-o", out.name]
            done = subprocess.run(command, capture_output=True, text=True)
        return None if done.returncode == 0 else f"{header.relative_to(ROOT)} does not compile alone:\n{done.stderr}"

    headers = sorted((ROOT / "include").rglob("*.h"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        errors = [e for e in pool.map(compile_one, headers) if e]
    print("\n".join(errors) if errors else f"headers: {len(headers)} compile alone")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
