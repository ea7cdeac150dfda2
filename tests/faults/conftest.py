"""The command line, called in this process: a process costs seconds of import."""

import re
import sys
from typing import NamedTuple

import pytest

PROGRESS = re.compile("[━╌]{20} ")


class Outcome(NamedTuple):
    """How a command ended: exit code, and what it said to the user."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of the refusal, after checking that it is one and is no traceback."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        said = [line for line in self.err.splitlines() if line and not PROGRESS.search(line)]
        assert len(said) == 1, self.err
        return said[0]


@pytest.fixture
def tristyle(tmp_path, monkeypatch, capsys):
    """Call the command line in `tmp_path`; returns an Outcome."""
    from stages.pipeline.cli import main

    def call(*arguments: str) -> Outcome:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tristyle", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return Outcome(int(code or 0) if isinstance(code, int | None) else 1, said.out, said.err)

    return call
