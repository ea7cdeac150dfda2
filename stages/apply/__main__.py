"""`python -m stages.apply`: the same as `stylize`."""

from stages.apply.cli import main

if __name__ == "__main__":
    main()
