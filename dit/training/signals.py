"""Asking a run to stop: signals are noted, and heeded by all processes together between two optimiser steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from lightning import Trainer

from dit.training.arriving import Arriving

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signals:
    """From `listen` to `ignore`, SIGTERM, SIGUSR1 and the first SIGINT only set a mark. Lightning's own handlers, which
    would save elsewhere, talk to other processes from within a handler, and end a run that has not begun with exit
    code 0, are out of the way."""

    def __init__(self) -> None:
        self._received = 0
        self._asked: Arriving | None = None
        self._before: dict[int, Any] = {}

    def listen(self, trainer: Trainer) -> None:
        # It would put its own in place of these before the first step; there is no setting for that.
        trainer._signal_connector.register_signal_handlers = lambda: None
        # Nothing is left to broadcast then, for which it would wait for the device before every batch.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}

    def ignore(self) -> None:
        """Signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def agreed(self, trainer: Trainer) -> int:
        """The number of a signal that one of the processes has received, or 0; of several processes, before all last
        asked. All must ask together."""
        if trainer.world_size == 1:
            return self._received
        # One collective a step, whose answer is read in the next: by then it is there, and nobody waits for the device.
        asked, mine = self._asked, torch.full((), self._received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX)
        self._asked = Arriving(mine)
        return (self._received or signal.SIGTERM) if asked is not None and int(asked.read()) else 0

    def _note(self, number: int, frame: Any) -> None:
        self._received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second one stops at once
