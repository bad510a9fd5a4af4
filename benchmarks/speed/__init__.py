"""SPEED: what a training step, a training run and sampling cost, beside diffusers doing the same work."""
