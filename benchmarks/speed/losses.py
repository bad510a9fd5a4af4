"""LOSSES: where the time of a step goes on the device, by kind of kernel, and how far products are from the ceiling."""

from __future__ import annotations

from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.tables import Table, number, share

# The first kind of which a kernel's name holds a part, in lower case.
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa", "softmax"),
    "AdamW": ("adam",),
    "averages, norm and clipping": ("multi_tensor", "foreach", "lerp", "linalg_vector_norm"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "aten::mm", "aten::addmm", "aten::bmm", "wgmma"),
    "copies and casts": ("memcpy", "memset", "copy"),
    "norms, modulation, GELU": ("triton", "elementwise", "reduce", "layer_norm", "gelu", "aten::mul", "aten::add"),
}
PRODUCTS, REST, IDLE = "matrix products", "the rest", "the device waits"
TOLD = 3


def profiler(device: str) -> profile:
    return profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")])


def by_kind(seen: profile, device: str, wall: float, steps: int) -> dict[str, Any]:
    """Seconds of a step by kind, and of the kernels that take longest. wall: seconds of all steps."""
    on_gpu = device == "cuda"
    kinds, kernels = {}, []
    for event in seen.key_averages():
        if on_gpu and event.device_type != DeviceType.CUDA:
            continue
        spent = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / steps
        kind = kind_of(event.key)
        kinds[kind] = kinds.get(kind, 0.0) + spent
        kernels.append([event.key[:80], kind, spent, event.count / steps])
    kinds[IDLE] = max(0.0, wall / steps - sum(kinds.values()))
    return {"wall": wall / steps, "kinds": kinds, "kernels": sorted(kernels, key=lambda each: -each[2])[:15]}


def kind_of(name: str) -> str:
    low = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in low for part in parts)), REST)


def tables(told: dict[str, Any], title: str, flops: float, rate: float) -> list[Table]:
    """flops: of a step; rate: FLOP/s of a plain product."""
    wall = told["wall"]
    rows = [
        [kind, number(1e3 * spent), share(spent / wall)]
        for kind, spent in sorted(told["kinds"].items(), key=lambda each: -each[1])
    ]
    least = flops / rate
    lost = {kind: spent for kind, spent in told["kinds"].items() if kind != PRODUCTS}
    lost["products below the ceiling"] = max(0.0, told["kinds"].get(PRODUCTS, 0.0) - least)
    largest = sorted(lost.items(), key=lambda each: -each[1])[:TOLD]
    notes = [
        f"At the ceiling the step would take {number(1e3 * least)} ms. Its {TOLD} largest losses: "
        + "; ".join(f"{kind} {number(1e3 * spent)} ms ({share(spent / wall)})" for kind, spent in largest)
        + "."
    ]
    kernels = [[name, kind, number(1e3 * spent), f"{count:g}"] for name, kind, spent, count in told["kernels"]]
    return [
        Table(f"Where a step goes, {title}", ["", "ms a step", "share"], rows, notes),
        Table(f"Kernels that take longest, {title}", ["kernel", "kind", "ms a step", "calls"], kernels),
    ]
