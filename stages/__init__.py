"""tristyle: a mobile portrait stylizer in three stages (see README.md)."""
