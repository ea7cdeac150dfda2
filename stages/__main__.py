"""`python -m stages`: the same as `tristyle`, for `torchrun -m stages`."""

from stages.pipeline.cli import main

if __name__ == "__main__":
    main()
