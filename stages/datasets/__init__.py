"""Stage data: people painted or rendered, or pictures from folders."""
