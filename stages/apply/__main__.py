"""`python -m stages.apply`: the same as `stylize`."""

from stages.apply.cli import main

main()
