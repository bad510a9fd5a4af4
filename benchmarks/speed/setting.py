"""What is asked for: the device, the models, how much of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """batch: pictures of a step; None on a GPU: the largest that fits. quick: as little as shows that it runs; nothing
    is compiled. folder: for what runs leave. say: a line of progress."""

    device: str
    models: list[str]
    batch: int | None
    rounds: int
    quick: bool
    folder: Path
    say: Callable[[str], None]

    @property
    def precisions(self) -> tuple[str, ...]:
        """On a GPU nobody trains in float32."""
        return ("bf16",) if self.device == "cuda" else ("fp32", "bf16")

    @property
    def pictures(self) -> int:
        """The batch where none is looked for."""
        return self.batch or (64 if self.device == "cuda" else 8)
