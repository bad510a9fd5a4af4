"""SIDE-BY-SIDE MEASUREMENTS: ratios between two ways to do the same work, in one run on one machine."""
