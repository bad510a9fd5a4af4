"""The Lightning module: one training step, one validation step, one optimiser, and what a checkpoint holds."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dit.checkpoint import same_normalisation
from dit.diffusion import Denoiser, GaussianPath, Kind, Loss, TimeDistribution, spread
from dit.model import DiT, check_compile
from dit.training.draws import normals, uniforms
from dit.training.ema import Averages
from dit.training.nonfinite import Drawn, NonFinite, Stop
from dit.training.optimizer import parameter_groups
from dit.training.restored import check_optimizer, check_weights
from dit.training.resume import align, shared
from dit.training.sharding import FullySharded, gathered, scattered, shard, whole
from dit.training.trainer import check_precision
from dit.training.validation import LevelLoss


class Batch(Protocol):
    """A batch of any data: images [B, C, H, W] in model space, labels [B], their numbers [B] in the split, and how they
    were augmented [B, dim], if they were."""

    images: Tensor
    labels: Tensor
    index: Tensor
    augmentation: Tensor | None


class DiTModule(LightningModule):
    """Trains `network` to predict `kind` along `path`; sigma_data is that of the kind "edm".

    optimizer: groups of parameters -> Optimizer; scheduler: Optimizer -> LRScheduler, stepped every optimiser step.
    facts: what the checkpoint tells about the pictures; pictures: how to open them again; config: the run's
    configuration, for people to read; all in plain containers. seed: what is drawn for a picture is a function of
    (seed, its number in the run), whatever process it falls to. compile: a torch.compile backend for the blocks, or
    None. on_nonfinite: what to do where a loss or a gradient is no number.
    """

    def __init__(
        self,
        network: DiT,
        path: GaussianPath,
        kind: Kind,
        times: TimeDistribution,
        loss: Loss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        ema: Averages,
        facts: dict[str, Any],
        pictures: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        seed: int = 0,
        compile: str | None = None,
        validation: LevelLoss | None = None,
        on_nonfinite: NonFinite | None = None,
        sigma_data: float = 1.0,
    ):
        super().__init__()
        _check_fit(network, facts, loss)
        check_compile(compile)
        self.network = network
        self.denoiser = Denoiser(
            network,
            path,
            kind,
            network.trained_null_label,
            sigma_data=sigma_data,
            learned_variance=loss.learns_variance,
        )
        self.times, self.loss, self.ema, self.seed, self.compile_backend = times, loss, ema, seed, compile
        self.level_loss = validation or LevelLoss()
        self.level_loss.check(path)
        times.check(path)
        self._optimizer, self._scheduler = optimizer, scheduler
        self._on_nonfinite = on_nonfinite or Stop()
        self.drawn: list[Drawn] = []  # by this process for the optimiser step being made
        self.gradient_norm: Tensor | None = None  # of the last optimiser step, before clipping
        self.rollbacks = 0  # in this run
        self.validation_loss: float | None = None  # the last one
        self._resumed: dict[str, Any] | None = None  # a checkpoint on its way in
        self.passport: dict[str, Any] = {
            "model": network.arguments,
            "path": path.spec,
            "kind": kind,
            "sigma_data": sigma_data,
            "data": facts,
            "pictures": pictures,
            "config": config or {},
        }

    def setup(self, stage: str) -> None:
        check_precision(self.trainer.precision)
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ValueError("trainer.strategy=fsdp is PyTorch's first FSDP, which renames weights; use trainer=fsdp")
        if self.compile_backend is not None:
            self.network.compile_blocks(self.compile_backend)

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded):
            # A loss may have weights of its own, of which gradients must be averaged too.
            modules = (self.network, self.loss) if isinstance(self.loss, nn.Module) else (self.network,)
            shard(modules, self.network.blocks, strategy.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(parameter_groups(self))  # the network's, and those a loss may have
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Lightning takes a fused optimiser for one that scales gradients, and refuses to clip them in bfloat16.
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            assert self.gradient_norm is not None
            factor = float((gradient_clip_val / (self.gradient_norm + 1e-6)).clamp(max=1.0))
            if factor < 1 and (gradients := self._gradients()):  # most steps of a run need no pass over all gradients
                torch._foreach_mul_(gradients, factor)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        if self._resumed is not None:  # now there is an optimiser, which Lightning restores next
            check_optimizer(self._resumed, self.trainer, self._optimizer)
            self._resumed = None
        self.ema.attach(self.network)

    def training_step(self, pictures: Batch, batch_idx: int) -> Tensor:
        x0, index = pictures.images, pictures.index  # [B, C, H, W], [B]
        conditions = {} if pictures.augmentation is None else {"augment": pictures.augmentation}  # [B, dim]
        batch, accumulated = self.trainer.fit_loop.total_batch_idx, self.trainer.accumulate_grad_batches
        # The pictures of the run are numbered in the order of `EndlessOrder`: batch by batch, rank by rank.
        of_all = len(x0) * self.trainer.world_size  # pictures of one forward pass of all processes
        first = batch * of_all + self.global_rank * len(x0)
        t, eps, drop = self.draw(first + torch.arange(len(x0), device=x0.device), of_all * accumulated, x0)
        _seed(step_seed(self.seed, self.global_rank, batch), x0.device)
        losses = self.losses(x0, pictures.labels, t, eps, drop=drop, **conditions)  # [B]
        if batch % accumulated == 0:
            self.drawn = []
        self.drawn.append(Drawn(index, pictures.labels, t, losses.detach()))
        loss = losses.mean()
        self.log("train/loss", loss, sync_dist=True)  # of all processes
        # A loss that is not finite makes every gradient so, in all processes: they notice together, once a step.
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def draw(self, numbers: Tensor, batch_size: int, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times [B], noise [B, C, H, W] and whose labels to drop [B] of the pictures x0 [B, C, H, W] with these numbers
        in the run [B], int64, of which every `batch_size` make an optimiser step."""
        u = uniforms(self.seed, "time", numbers)  # [B]
        stratum = spread(batch_size).to(numbers.device)[numbers % batch_size]  # [B]
        t = self.times.at(u, stratum, batch_size, self.denoiser.path)  # [B]
        drop = uniforms(self.seed, "label", numbers) < self.network.class_dropout  # [B]
        return t, normals(self.seed, "noise", numbers, like=x0), drop

    def losses(self, x0: Tensor, labels: Tensor, t: Tensor, eps: Tensor, **conditions: Tensor) -> Tensor:
        """Loss of each sample [B] at given times t [B] and noise eps [B, C, H, W]; conditions: see `Denoiser`."""
        x = self.denoiser.path.interpolate(x0, eps, t)  # [B, C, H, W]
        return self.loss(self.denoiser(x, t, labels, **conditions), x0, eps)  # [B]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        norm = whole(nn.utils.get_total_norm(self._gradients()))
        self.log("train/gradient_norm", norm)
        self.gradient_norm = norm
        if not bool(norm.isfinite()):
            optimizer.zero_grad()  # without gradients nothing moves

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters() if p.grad is not None]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        assert self.gradient_norm is not None
        if bool(self.gradient_norm.isfinite()):
            self.ema.update(self.network)
        else:
            self._on_nonfinite.meet(self, self.drawn)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Weights, averages and optimiser of a checkpoint of this run, which was made at an earlier step."""
        strategy, steps = self.trainer.strategy, self.ema.steps + 1
        strategy.load_model_state_dict(checkpoint)
        strategy.load_optimizer_state_dict(checkpoint)
        self.ema.load_state_dict(scattered(checkpoint["ema"], dict(self.network.named_parameters())))
        self.ema.attach(self.network)
        self.ema.steps = steps

    def validation_step(self, pictures: Batch, batch_idx: int) -> None:
        x0, labels, index = pictures.images, pictures.labels, pictures.index  # [B, C, H, W], [B], [B]
        for name, weights in (("val", self.ema_weights()), ("val_raw", nullcontext())):
            with weights:
                losses = self.level_loss(self.denoiser, x0, labels, index)
            values = {f"{name}/{key}": value for key, value in self.level_loss.scalars(losses).items()}
            self.log_dict(values, batch_size=len(x0), sync_dist=True)

    def on_validation_end(self) -> None:
        self.validation_loss = float(self.trainer.callback_metrics["val/loss"])

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the network evaluates with the first average, in evaluation mode."""
        training = self.network.training
        self.network.eval()
        try:
            with self.ema.applied(self.network):
                yield
        finally:
            self.network.train(training)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = gathered(self.ema.state_dict())
        checkpoint["passport"] = self.passport
        checkpoint["run"] = {
            "shared": shared(self.trainer),
            "validation_loss": self.validation_loss,
            "rollbacks": self.rollbacks,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        theirs = {"sigma_data": 1.0, **checkpoint["passport"]}
        # What a DiT of an older version did not know yet is at its default.
        known = inspect.signature(DiT).parameters
        theirs["model"] = {key: known[key].default for key in self.passport["model"]} | theirs["model"]
        normalised = theirs["data"]["normalisation"], self.passport["data"]["normalisation"]
        if same_normalisation(*normalised):
            theirs["data"] = {**theirs["data"], "normalisation": normalised[1]}
        for key in ("model", "path", "kind", "sigma_data", "data"):
            if theirs[key] != self.passport[key]:
                raise ValueError(
                    f"cannot resume: the checkpoint's {key} is {theirs[key]}, the configuration's {self.passport[key]}"
                )
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


def _check_fit(network: DiT, facts: dict[str, Any], loss: Loss) -> None:
    """The configuration interpolates these from the data and the loss; whoever types them must type the same."""
    if type(network) is not DiT:
        raise ValueError(
            f"model must be a dit.model.DiT, got {type(network).__module__}.{type(network).__qualname__}: a checkpoint "
            "does not say which class it holds, so another one would be loaded as a plain DiT"
        )
    if network.arguments["learn_variance"] and not loss.learns_variance:
        raise ValueError("model.learn_variance=true needs loss=hybrid_vlb; no other trains that half of the output")
    if loss.learns_variance and not network.arguments["learn_variance"]:
        raise ValueError("loss=hybrid_vlb trains a variance and needs model.learn_variance=true; the output has none")
    for key in ("image_size", "channels", "num_classes"):
        given, allowed = network.arguments[key], [facts[key]] + ([0] if key == "num_classes" else [])
        if given not in allowed:
            shown = " or ".join(map(str, allowed))
            raise ValueError(f"model.{key} must be {shown}, as the pictures are, got {given}")
    given, told = network.arguments["augment_dim"], facts.get("augment_dim", 0)
    if given != told:
        raise ValueError(
            f"model.augment_dim must be {told}, as many numbers as data.augment tells of a picture, got {given}"
        )


def _seed(seed: int, device: torch.device) -> None:
    """For what a network draws by itself. torch.manual_seed would write down a stack trace for every kind of device
    that is not there: milliseconds a step."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def step_seed(seed: int, rank: int, batch: int) -> int:
    """63-bit seed of one training batch on one rank."""
    digest = hashlib.blake2b(f"train:{seed}:{rank}:{batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
