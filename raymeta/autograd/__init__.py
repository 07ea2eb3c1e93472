"""Which derivative a stopped gradient, or a hook on one, takes part in."""
