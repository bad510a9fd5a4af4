"""Groups of configurations that only training has: their names are keys of other scripts."""
