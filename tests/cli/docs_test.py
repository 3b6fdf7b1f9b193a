"""docs/launch.md holds the contract as `convoy env --markdown` prints it: docs_test.py CONVOY PAGE [--write]"""
import pathlib
import subprocess
import sys

BEGIN, END = "<!-- begin: convoy env --markdown -->\n", "<!-- end -->"

convoy, page = sys.argv[1], pathlib.Path(sys.argv[2])
table = subprocess.run([convoy, "env", "--markdown"], text=True, capture_output=True, check=True, timeout=60).stdout
head, rest = page.read_text().split(BEGIN)
shown, tail = rest.split(END, 1)
if "--write" in sys.argv:
    page.write_text(head + BEGIN + table + END + tail)
elif shown != table:
    sys.exit(f"{page} is out of date. Mend it with: python3 tests/cli/docs_test.py {convoy} {page} --write")
