"""Scores on real or held-out people: `python -m stages.evaluate COMMAND [options]`; each of `COMMANDS` has `--help`."""

from __future__ import annotations

import importlib
import sys

from stages.core.settings import TristyleError

COMMANDS = {
    "people": "what a model makes of people: scores, groups, sheets",
    "faces": "how well faces of photographs are found and aligned",
    "parser": "how well face parsers do on labelled portraits",
    "landmarks": "how near landmarks come to those of Face Mesh",
    "realism": "whether other networks read rendered portraits like photographs",
}


def main(arguments: list[str] | None = None) -> None:
    """Hand the rest of the command line to the command that is named."""
    words = sys.argv[1:] if arguments is None else arguments
    usage = "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())
    if not words or words[0] in ("-h", "--help"):
        print(f"python -m stages.evaluate COMMAND [options]\n\n{usage}")
        return
    if words[0] not in COMMANDS:
        print(f"evaluate: {words[0]!r} is not a command. Choose one of: {', '.join(COMMANDS)}.", file=sys.stderr)
        raise SystemExit(2)
    try:
        importlib.import_module(f"stages.evaluate.{words[0]}").main(words[1:])
    except TristyleError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
