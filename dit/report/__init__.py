"""THE REPORT OF A SWEEP: its trials in one table and a few figures, whoever ran them."""

from dit.report.write import Report, write_report

__all__ = ["Report", "write_report"]
