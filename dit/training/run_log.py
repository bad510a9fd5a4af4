"""The scalars of a run in one CSV file, however often the run was interrupted."""

from __future__ import annotations

import csv
import io
from itertools import takewhile
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.csv_logs import CSVLogger, ExperimentWriter

from dit.files import replaced


class RunLog(CSVLogger):
    """`save_dir`/`name`/version_0/metrics.csv. A resumed run goes on with it, as if it had never stopped."""

    def __init__(self, save_dir: str, name: str = "csv", flush_logs_every_n_steps: int = 100):
        super().__init__(
            str(Path(save_dir).expanduser()), name, version=0, flush_logs_every_n_steps=flush_logs_every_n_steps
        )

    @property
    def experiment(self) -> ExperimentWriter:  # type: ignore[override]
        if self._experiment is None and rank_zero_only.rank == 0:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Writer(self.log_dir)
        return super().experiment  # type: ignore[return-value]

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Leaves out what an interrupted run logged of the optimiser steps after `step`: they are made again."""
        writer = self.experiment
        assert isinstance(writer, _Writer)
        writer.keep(step)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning's removes the file."""

    def keep(self, step: int) -> None:
        file = Path(self.metrics_file_path)
        if not file.exists():
            return
        # A line that was being written when the run was killed has no end.
        lines = [line for line in file.read_bytes().decode().splitlines(keepends=True) if line.endswith("\n")]
        rows = csv.DictReader(io.StringIO("".join(lines), newline=""))
        # Steps are in order and count from 0. Lines that a full disk garbled come after the first one to leave out.
        kept = list(takewhile(lambda row: (row["step"] or "").isdigit() and int(row["step"]) < step, rows))
        if not kept:
            file.unlink()
            return
        self.metrics_keys = list(rows.fieldnames or [])
        self._replace(kept)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            self._replace(list(csv.DictReader(file)))

    def _replace(self, rows: list[dict[str, str]]) -> None:
        """As a whole: a run that is killed now has the old file or the new one."""
        with replaced(self.metrics_file_path) as unfinished, unfinished.open("w", newline="") as out:
            writer = csv.DictWriter(out, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
