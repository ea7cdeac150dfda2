"""Stage export: a network as files for phones and browsers."""
