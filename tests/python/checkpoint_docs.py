#!/usr/bin/env python3
"""The Python code in docs/checkpoints.md is real: checkpoint_docs.py CONVOY_COMMAND

Method: runs the page's ```python blocks one after the other, as one program, in an empty folder with an agent.
"""
import os
import pathlib
import re

from checkpoint import agent, place

page = pathlib.Path(__file__).resolve().parents[2] / "docs/checkpoints.md"
blocks = re.findall(r"(?<=^```python\n)(.*?)(?=^```$)", page.read_text(), re.M | re.S)
assert len(blocks) >= 2, blocks
with place() as folder, agent():
    os.chdir(folder)
    names: dict = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    names["checkpointer"].close()
    os.chdir("/")
print(f"{len(blocks)} blocks: ok")
