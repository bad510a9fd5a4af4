"""k-diffusion is no requirement of the tests: what compares with it is not collected where it is missing."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("k_diffusion") else ["test_parity_k_diffusion.py"]
