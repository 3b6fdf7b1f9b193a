#!/usr/bin/env python3
"""The runbook knows what operators can meet: runbook_test.py

Method: the texts of all warnings and errors of recovery (supervisor, lines between machines, launcher's side, the runtime's part of it)
are cut out of the sources; a piece of each must stand in docs/recovery.md. And each message that the two tables there quote must
still be in the sources.
"""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [*sorted((ROOT / "src/resilience").rglob("*.cc")), *sorted((ROOT / "src/launch").glob("*.cc")), *sorted((ROOT / "src/cli").glob("*.cc")), *sorted((ROOT / "src/runtime").glob("*.cc"))]
TOLD = [path for path in FILES if {"supervisor", "line", "member"} & set(path.parts) or path.name in ("crew.cc", "rejoin.cc")]
CALL = re.compile(r"(?:CONVOY_LOG\((?:Warn|Error)\) <<|\bsay\(|terminal_\.say\()(.*?);", re.S)
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
PIECE = 14  # letters of it that nothing else would have
MARKS = re.compile(r"\b(?:NODE|HOST|WHY|HOW|N|M|FAILED CHECKS|\d+\w*)\b|[…:,;]")


def words(text: str) -> str:
    """Without marks, so that line ends and quotes don't matter."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def messages(path: pathlib.Path) -> list[str]:
    found = []
    for call in CALL.findall(path.read_text()):
        pieces = [words(piece) for piece in LITERAL.findall(call)]
        pieces = [piece for piece in pieces if len(piece) >= PIECE]
        if pieces:
            found.append(max(pieces, key=len).removeprefix("convoy "))
    return found


def main() -> None:
    page = (ROOT / "docs/recovery.md").read_text()
    known = words(page)
    missing = [(path.name, text) for path in TOLD for text in messages(path) if text[:30].rsplit(" ", 1)[0] not in known]
    assert not missing, "docs/recovery.md does not say what to do about:\n" + "\n".join(f"  {name}: {text}" for name, text in missing)
    # In C++ a literal may go on in the next line.
    sources = " ".join(words("".join(LITERAL.findall(path.read_text()))) for path in FILES)
    tables = page[page.index("## What ends a job"):page.index("## Spares")]
    quoted = [part for line in tables.splitlines() if line.startswith("| `") for part in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    assert len(quoted) > 30, quoted
    for text in quoted:
        pieces = [words(piece) for piece in MARKS.split(text)]
        assert any(len(piece) >= 7 and piece in sources for piece in pieces), f"nobody says '{text}': {pieces}"
    print(f"  {sum(len(messages(path)) for path in TOLD)} messages of the sources are in the runbook, its {len(quoted)} are in the sources")


if __name__ == "__main__":
    main()
