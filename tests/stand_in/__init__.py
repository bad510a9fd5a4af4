"""A stand-in for a GPU: shows on a CPU which tensors are on the wrong device, and where the host waits."""
