"""Pictures of your own, made into a data artifact."""
