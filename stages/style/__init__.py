"""Stage style: a generator in the style's look, and the pictures it draws."""
