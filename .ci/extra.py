"""Prints the requirements of one optional extra of pyproject.toml, one a line: `python .ci/extra.py mnn`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["optional-dependencies"][sys.argv[1]], sep="\n")
