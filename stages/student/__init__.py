"""Stage student: a network of a megabyte learns from the pairs."""
