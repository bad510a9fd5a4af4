"""Asking a run to stop: signals are noted, and heeded by all processes together between two optimiser steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

from lightning import Trainer

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signals:
    """From `listen` to `ignore`, SIGTERM, SIGUSR1 and the first SIGINT only set a mark. Lightning's own handlers, which
    would save elsewhere, talk to other processes from within a handler, and end a run that has not begun with exit
    code 0, are out of the way."""

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[int, Any] = {}

    def listen(self, trainer: Trainer) -> None:
        # It would put its own in place of these before the first step; there is no setting for that.
        trainer._signal_connector.register_signal_handlers = lambda: None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}

    def ignore(self) -> None:
        """Signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def agreed(self, trainer: Trainer) -> int:
        """The number of a signal that one of the processes has received, or 0. All must ask together."""
        if trainer.world_size == 1:
            return self._received
        # One collective a step: Lightning has one for the same purpose, which asks the first process only.
        someone = not trainer.strategy.reduce_boolean_decision(not self._received, all=True)
        return (self._received or signal.SIGTERM) if someone else 0

    def _note(self, number: int, frame: Any) -> None:
        self._received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second one stops at once
