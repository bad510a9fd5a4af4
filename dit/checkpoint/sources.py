"""Whose checkpoints are imported: by these names `python -m dit.checkpoint` is asked, before it loads PyTorch."""

SOURCES = ("dit", "sit", "repa", "lightningdit", "jit", "diffusers")
