"""Stage pair: photographs and a style set become curated pairs."""
