"""The Lightning module: one training step, one validation step, one optimiser, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dit.checkpoint import Metadata
from dit.diffusion import Denoiser, GaussianPath, Kind, TimeDistribution, spread
from dit.model import Network, blocks_of, check_compile
from dit.model.adapters import Adapter
from dit.objectives import Loss, Losses, Objective, as_objective
from dit.training.agreement import check_dropout, check_fit, check_graphs
from dit.training.draws import normals, uniforms
from dit.training.ema import Averages
from dit.training.nonfinite import BatchRecord, NonFinite, Stop, Verdict
from dit.training.optimizer import parameter_groups
from dit.training.restored import check_optimizer, check_weights
from dit.training.resume import align, shared
from dit.training.seeding import seed_all, step_seed
from dit.training.sharding import FullySharded, full, gathered, scattered, shard
from dit.training.trainer import check_precision
from dit.training.validation import LevelLoss


class Batch(Protocol):
    """A batch of any data: images [B, C, H, W] in model space, labels [B], their numbers [B] in the split, and what
    else the network is told of each, [B, ...] by name."""

    images: Tensor
    labels: Tensor
    index: Tensor
    conditions: Mapping[str, Tensor]


class Randomness(NamedTuple):
    """What is drawn for pictures: times t [B], noise eps [B, C, H, W], and by name of what they are told whether it is
    dropped [B]."""

    t: Tensor
    eps: Tensor
    dropped: Mapping[str, Tensor]


_DROPOUT: Mapping[str, float] = MappingProxyType({"class": 0.1})
_PURPOSES = {"class": "label"}  # of the draws, which older runs go on with


class DiTModule(LightningModule):
    """Trains `network` to predict `kind` along `path`; sigma_data is that of the kind "edm".

    loss: how predictions are compared, or an objective that owns the forward pass. dropout: share of pictures of which
    the network is not told the class ("class"), or a condition, by name. adapter: changes the network first.

    optimizer: groups of parameters -> Optimizer; lr_schedule: Optimizer -> LRScheduler, stepped every optimiser step.
    facts: what the checkpoint tells about the pictures; pictures: how to open them again; config: the run's
    configuration, for people to read; all in plain containers. seed: what is drawn for a picture is a function of
    (seed, its number in the run), whatever process it falls to. compile: a torch.compile backend, or None;
    compile_mode: see `check_compile`. on_nonfinite: what to do where a loss or a gradient is no number.
    """

    def __init__(
        self,
        network: Network,
        path: GaussianPath,
        kind: Kind,
        times: TimeDistribution,
        loss: Loss | Objective,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        lr_schedule: Callable[[Optimizer], LRScheduler],
        ema: Averages,
        facts: dict[str, Any],
        pictures: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        seed: int = 0,
        compile: str | None = None,
        compile_mode: str | None = None,
        validation: LevelLoss | None = None,
        on_nonfinite: NonFinite | None = None,
        sigma_data: float = 1.0,
        dropout: Mapping[str, float] = _DROPOUT,
        adapter: Adapter | None = None,
    ):
        super().__init__()
        if adapter is not None:
            adapter.apply(network)
        objective = as_objective(loss)
        check_fit(network, facts, objective)
        check_dropout(dropout, facts["conditions"])
        check_compile(compile, compile_mode)
        self.network = network
        self.metadata = Metadata(
            network=network.spec,
            path=path.spec,
            kind=kind,
            sigma_data=sigma_data,
            **facts,
            dropout=dict(dropout),
            adapters=[] if adapter is None else [adapter.spec],
            pictures=pictures,
            config=config or {},
        )
        self.denoiser = Denoiser(
            network,
            path,
            kind,
            self.metadata.null_label(network),
            sigma_data=sigma_data,
            learned_variance=objective.learns_variance,
            optional=self.metadata.optional(network),
        )
        self.times, self.loss, self.ema, self.seed = times, objective, ema, seed
        self.compile_backend, self.compile_mode = compile, compile_mode
        self.level_loss = validation or LevelLoss()
        self.level_loss.check(path)
        times.check(path)
        self._optimizer, self._lr_schedule = optimizer, lr_schedule
        self._on_nonfinite = on_nonfinite or Stop()
        self.drawn: list[BatchRecord] = []  # by this process for the optimiser step being made
        self.gradient_norm: Tensor | None = None  # of the last optimiser step, before clipping
        self._verdict: Verdict | None = None  # on that step, not read so far
        self.rollbacks = 0  # in this run
        self.validation_loss: float | None = None  # the last one
        self._resumed: dict[str, Any] | None = None  # a checkpoint on its way in
        objective.check(self.denoiser)

    def setup(self, stage: str) -> None:
        check_precision(self.trainer.precision)
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ValueError("trainer.strategy=fsdp is PyTorch's first FSDP, which renames weights; use trainer=fsdp")
        check_graphs(self.compile_mode, self.trainer.accumulate_grad_batches)
        if self.compile_backend is not None:
            self.network.compile_in_place(self.compile_backend, self.compile_mode)

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded):
            # A loss may have weights of its own, of which gradients must be averaged too.
            modules = (self.network, self.loss) if isinstance(self.loss, nn.Module) else (self.network,)
            shard(modules, blocks_of(self.network), strategy.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(parameter_groups(self))  # the network's, and those a loss may have
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._lr_schedule(optimizer), "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Lightning takes a fused optimiser for one that scales gradients, and refuses to clip them in bfloat16.
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            assert self.gradient_norm is not None
            factor = (gradient_clip_val / (self.gradient_norm + 1e-6)).clamp(max=1.0)
            if gradients := self._gradients():  # times 1 changes no bit; to ask whether it is 1 waits for the device
                torch._foreach_mul_(gradients, factor)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        if self._resumed is not None:  # now there is an optimiser, which Lightning restores next
            check_optimizer(self._resumed, self.trainer, self._optimizer)
            self._resumed = None
        self.ema.attach(self.network)

    def training_step(self, pictures: Batch, batch_idx: int) -> Tensor:
        numbers, batch_size = self._numbers(pictures.images)
        drawn = self.draw(numbers, batch_size, pictures.images)
        losses = self._seeded_losses(pictures, drawn)
        # The verdict on the last step is read while the device is busy with this forward pass.
        if self._verdict is not None and not self._verdict.finite():
            del losses  # and the activations behind them, before a checkpoint is read
            self.settle()
            losses = self._seeded_losses(pictures, drawn)  # of the weights gone back to
        self.settle()
        self._remember(BatchRecord(pictures.index, pictures.labels, drawn.t, losses.per_sample.detach()))
        loss = losses.per_sample.mean()
        parts = {f"train/loss/{name}": part.detach().mean() for name, part in losses.parts.items()}
        for name, value in {"train/loss": loss.detach(), **parts}.items():
            # Of all processes in a row of the log: their reduction waits for the device.
            shown = self.trainer.strategy.reduce(value.clone(), reduce_op="mean") if self._writes_row() else value
            self.log(name, shown)  # type: ignore[arg-type]
        # A loss that is not finite makes every gradient so, in all processes: they notice together, once a step.
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def _seeded_losses(self, pictures: Batch, drawn: Randomness) -> Losses:
        seed_all(step_seed(self.seed, self.global_rank, self.trainer.fit_loop.total_batch_idx), pictures.images.device)
        return self.losses(pictures.images, pictures.labels, drawn, pictures.conditions)

    def _numbers(self, images: Tensor) -> tuple[Tensor, int]:
        """The numbers [B] of these pictures in the run, in the order of `EndlessOrder`: batch by batch, rank by rank;
        and how many make an optimiser step."""
        batch, of_all = self.trainer.fit_loop.total_batch_idx, len(images) * self.trainer.world_size
        first = batch * of_all + self.global_rank * len(images)
        numbers = first + torch.arange(len(images), device=images.device)  # [B]
        return numbers, of_all * self.trainer.accumulate_grad_batches

    def _remember(self, drawn: BatchRecord) -> None:
        if self.trainer.fit_loop.total_batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.drawn = []
        self.drawn.append(drawn)

    def draw(self, numbers: Tensor, batch_size: int, x0: Tensor) -> Randomness:
        """What is random about the pictures x0 [B, C, H, W] with these numbers in the run [B], int64, of which every
        `batch_size` make an optimiser step."""
        uniform = uniforms(self.seed, "time", numbers)  # [B]
        stratum = spread(batch_size).to(numbers.device, non_blocking=True)[numbers % batch_size]  # [B]
        t = self.times.at(uniform, stratum, batch_size, self.denoiser.path)  # [B]
        dropped = {
            name: uniforms(self.seed, _PURPOSES.get(name, f"drop:{name}"), numbers) < rate  # [B]
            for name, rate in self.metadata.dropout.items()
        }
        return Randomness(t, normals(self.seed, "noise", numbers, like=x0), dropped)

    def losses(self, x0: Tensor, labels: Tensor, drawn: Randomness, conditions: Mapping[str, Tensor]) -> Losses:
        """Loss of each picture x0 [B, C, H, W], of which the network is told labels [B] and conditions [B, ...], but
        for what was drawn to be dropped."""
        absent = {name: drawn.dropped[name] for name in conditions if self.metadata.dropout.get(name, 0) > 0}
        if self.metadata.dropout.get("class", 0) > 0:
            labels = torch.where(drawn.dropped["class"], self.network.null_label, labels)  # [B]
        return self.loss(self.denoiser, x0, drawn.eps, drawn.t, labels, conditions, absent)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        norm = full(nn.utils.get_total_norm(self._gradients()))
        self.log("train/gradient_norm", norm)
        self.gradient_norm = norm
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # fused ones, by the contract of torch's GradScaler
            optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # where 1, nothing moves
        elif not bool(norm.isfinite()):  # waits for the device, in every step
            optimizer.zero_grad()  # without gradients nothing moves

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters() if p.grad is not None]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        assert self.gradient_norm is not None
        self._verdict = Verdict(self.global_step, self.gradient_norm, self.drawn)
        if self._writes_row():
            self.settle()  # it is of a step that was made

    def _writes_row(self) -> bool:
        """Whether the optimiser step being made writes a row of the log."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def settle(self) -> None:
        """Read the verdict on the last optimiser step, if that has not happened: move the averages, or where the
        gradient was not finite do as `on_nonfinite` says. All processes must call it together.

        Whoever reads or writes weights or averages between two steps calls it first; the module itself does so in the
        next step, before the log is written, before the averages are used, in `state_dict` and when training ends.
        """
        verdict, self._verdict = self._verdict, None
        if verdict is None:
            return
        if verdict.finite():
            self.ema.update(self.network)
        else:
            self._on_nonfinite.meet(self, verdict)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As that of any module; a checkpoint never holds a step whose verdict is not known."""
        self.settle()
        return super().state_dict(*args, **kwargs)

    def on_train_end(self) -> None:
        self.settle()

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Weights, averages and optimiser of a checkpoint of this run, which was made at an earlier step."""
        strategy, steps = self.trainer.strategy, self.ema.steps + 1
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in strategy.optimizers]
        strategy.load_model_state_dict(checkpoint)
        strategy.load_optimizer_state_dict(checkpoint)
        for optimizer, before in zip(strategy.optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, before, strict=True):
                group["lr"] = rate  # of the step being made: the schedule is not rewound
        self.ema.load_state_dict(scattered(checkpoint["ema"], dict(self.network.named_parameters())))
        self.ema.attach(self.network)
        self.ema.steps = steps

    def validation_step(self, pictures: Batch, batch_idx: int) -> None:
        x0, labels, index = pictures.images, pictures.labels, pictures.index  # [B, C, H, W], [B], [B]
        for name, weights in (("val", self.ema_weights()), ("val_raw", nullcontext())):
            with weights:
                losses = self.level_loss(self.denoiser, x0, labels, index, pictures.conditions)
            values = {f"{name}/{key}": value for key, value in self.level_loss.scalars(losses).items()}
            self.log_dict(values, batch_size=len(x0), sync_dist=True)

    def on_validation_end(self) -> None:
        self.validation_loss = float(self.trainer.callback_metrics["val/loss"])

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the network evaluates with the first average, in evaluation mode."""
        self.settle()
        training = self.network.training
        self.network.eval()
        try:
            with self.ema.applied(self.network):
                yield
        finally:
            self.network.train(training)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = gathered(self.ema.state_dict())
        checkpoint["metadata"] = self.metadata.to_dict()
        checkpoint["run"] = {
            "shared": shared(self.trainer),
            "validation_loss": self.validation_loss,
            "rollbacks": self.rollbacks,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for key, mine, theirs in self.metadata.differences(Metadata.in_checkpoint(checkpoint)):
            raise ValueError(f"cannot resume: the checkpoint's {key} is {theirs}, the configuration's {mine}")
        weights = [
            {key.removeprefix("loss.") for key in state if key.startswith("loss.")}
            for state in (checkpoint["state_dict"], self.state_dict())
        ]
        if weights[0] != weights[1]:
            theirs_has, mine_has = (", ".join(sorted(names)) or "none" for names in weights)
            raise ValueError(
                f"cannot resume: weights of the checkpoint's loss are {theirs_has}, of the configuration's {mine_has}"
            )
        check_weights(checkpoint, self)
        states = checkpoint["optimizer_states"] if isinstance(checkpoint["optimizer_states"], list) else []
        if [
            len(s["param_groups"]) if isinstance(s, dict) and isinstance(s.get("param_groups"), list) else 0
            for s in states
        ] != [2]:
            raise ValueError(
                "cannot resume: the checkpoint's optimiser does not tell matrices from other parameters, as those of "
                "older versions did not; finetune_from begins a new run with its weights"
            )
        align(checkpoint, self.trainer)
        run = checkpoint.get("run", {})
        self.validation_loss, self.rollbacks = run.get("validation_loss"), run.get("rollbacks", 0)
        self.ema.load_state_dict(scattered(checkpoint["ema"], dict(self.network.named_parameters())))
        self._resumed = checkpoint
