"""THE KEYS OF EVERY COMMAND and what each may be; of a part, its constructor says the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval

from dit.checks import Count, Seed, Share
from dit.launch.schema import Node, Part

_Steps = Annotated[int, Interval(ge=1, le=1_000_000)]
_Images = Annotated[int, Interval(ge=2, le=100_000_000)]
_Rows = Annotated[int, Interval(ge=1, le=1_000_000)]  # of a batch


@dataclass
class Train:
    """configs/train.yaml"""

    seed: Seed
    dropout: Mapping[str, Share]
    steps: _Steps
    resume: str | None
    imports: Sequence[str] | None
    finetune_from: str | None
    compile: str | None
    compile_mode: str | None
    matmul_precision: Literal["highest", "high", "medium"]
    validate_every: Count
    trainer: Annotated[Any, Part("lightning.Trainer")]  # first of the parts: others read its keys
    data: Annotated[Any, Part("data.Pictures")]
    model: Annotated[Any, Part("torch.nn.Module")]
    diffusion: Diffusion
    times: Annotated[Any, Part("dit.diffusion.TimeDistribution")]
    loss: Annotated[Any, Part("dit.objectives.Loss", "dit.objectives.Objective")]
    optimizer: Annotated[Any, Part("torch.optim.Optimizer")]
    lr_schedule: Annotated[Any, Part("torch.optim.lr_scheduler.LRScheduler")]
    ema: Annotated[Any, Part("dit.training.ema.Averages")]
    validation: Annotated[Any, Part("dit.training.LevelLoss")]
    adapter: Annotated[Any, Part("dit.model.adapters.Adapter", null=True)]
    on_nonfinite: Annotated[Any, Part("dit.training.NonFinite", null=True)]
    solver: Annotated[Any, Part("dit.solvers.Solver")]
    grid: Annotated[Any, Part("dit.solvers.Grid")]
    guidance: Annotated[Any, Part("dit.solvers.Guidance")]
    sampler: Annotated[Any, Part("dit.solvers.Sampler")]
    callbacks: Mapping[str, Annotated[Any, Part("lightning.Callback", null=True)]] | None
    logger: Mapping[str, Annotated[Any, Part("lightning.pytorch.loggers.Logger", null=True)]] | None


@dataclass
class Diffusion(Node):
    path: Annotated[Any, Part("dit.diffusion.GaussianPath")]
    kind: Annotated[Any, Part("dit.diffusion.prediction.Kind")]
    sigma_data: float


@dataclass
class Sampling:
    """What configs/sample.yaml and configs/evaluate.yaml share."""

    imports: Sequence[str] | None
    weights: str | float
    steps: _Steps
    seed: Seed
    batch_size: _Rows
    vae: str | None
    device: str
    precision: str
    compile: str | None
    compile_mode: str | None
    solver: Annotated[Any, Part("dit.solvers.Solver")]
    grid: Annotated[Any, Part("dit.solvers.Grid")]
    guidance: Annotated[Any, Part("dit.solvers.Guidance")]
    sampler: Annotated[Any, Part("dit.solvers.Sampler")]


@dataclass
class Sample(Sampling):
    """configs/sample.yaml"""

    checkpoint: str
    classes: Sequence[int | str] | int | str | None
    per_class: Annotated[int, Interval(ge=1, le=10_000_000)]
    vae_slicing: bool
    vae_tiling: bool
    format: Literal["png", "npz"]
    out: str


@dataclass
class Processes(Node):
    """How many processes share the work, where there is no Lightning trainer."""

    accelerator: str
    devices: int | str | Sequence[int]
    num_nodes: Count
    strategy: str


@dataclass
class Evaluate(Sampling):
    """configs/evaluate.yaml"""

    checkpoint: str | None
    fake: str | None
    real: str | None
    split: Literal["validation", "train"]
    guidance_scales: Sequence[float] | None
    images: _Images
    labels: Literal["balanced", "random"]
    metrics: Sequence[str] | str | None
    judge: bool
    replicates: Annotated[int, Interval(ge=2, le=1_000_000)]
    shown: Annotated[int, Interval(ge=1, le=10_000)]
    real_images: _Images
    data_root: str | None
    cache: str
    trainer: Processes
    data: Annotated[Any, Part("data.Pictures", null=True)]
    features: Annotated[Any, Part("dit.metrics.Extractor", null=True)]


@dataclass
class Latents:
    """configs/latents.yaml"""

    vae: str | None
    out: str | None
    verify: str | None
    data_root: str | None
    shown: Annotated[int, Interval(ge=1, le=10_000)]
    dtype: Literal["float16", "float32"]
    batch_size: _Rows
    shard_size: Count
    slicing: bool
    tiling: bool
    device: str
    seed: Seed
    data: Annotated[Any, Part("data.Pictures", null=True)]


@dataclass
class Inspect:
    """configs/inspect.yaml"""

    limit: Count | None
    classes_shown: Annotated[int, Interval(ge=1, le=10_000)]
    samples: Annotated[int, Interval(ge=1, le=10_000)]
    seed: Seed
    out: str
    data: Annotated[Any, Part("data.Pictures")]
