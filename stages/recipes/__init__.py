"""How the networks in data/ were made."""
