"""OF WHAT COMPUTES: versions that files and protocols tell."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch


def versions() -> dict[str, str]:
    """Of torch and of ditlab, which may run from a folder without being installed."""
    try:
        ours = version("ditlab")
    except PackageNotFoundError:
        ours = "not installed"
    return {"torch": str(torch.__version__), "ditlab": ours}
