"""The study of guidance rules and solvers behind docs/guidance.md: `python -m benchmarks.guidance`."""
