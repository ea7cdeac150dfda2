"""What a run made, on one page."""
