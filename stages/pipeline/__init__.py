"""From a command line to sealed artifacts."""
