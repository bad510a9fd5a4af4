"""What a training checkpoint says of its own training: options that change its network, honoured or refused."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dit.diffusion import DiscreteVP, GaussianPath, LinearFlow, Trigonometric, VPContinuous

_T = TypeVar("_T")

# Where training scripts keep their options: DiT, SiT, REPA and JiT in a Namespace, LightningDiT in a nested dict.
_ENTRIES = ("args", "config")
_DEEPEST = 4  # groups of options inside each other

# Options of the published training scripts that change neither what the network computes nor what it means ...
_IRRELEVANT = """
data_path data_dir feature_path valid_path results_dir output_dir logging_dir log_dir exp_name epochs start_epoch
max_steps max_train_steps global_batch_size batch_size global_seed seed num_workers pin_mem log_every log_freq report_to
ckpt ckpt_path ckpt_every checkpointing_steps save_last_freq resume resume_step weight_init use_checkpoint wandb device
lr blr min_lr learning_rate lr_schedule warmup_epochs weight_decay beta2 adam_beta1 adam_beta2 adam_weight_decay
adam_epsilon max_grad_norm gradient_accumulation_steps mixed_precision allow_tf32 fused_attn ema_decay1 ema_decay2
attn_dropout proj_dropout loss_weight train_eps use_lognorm use_cosine_loss partitial_train partial_ratio shift_lg
weighting cfg_prob enc_type encoder_depth proj_coeff P_mean P_std world_size local_rank rank gpu distributed dist_on_itp
dist_url dist_backend vae model_name sample_every sampling_steps cfg_scale sample_eps t_eps mode sampling_method
num_sampling_steps atol rtol reverse likelihood per_proc_batch_size fid_num fid_reference_file cfg cfg_interval_start
timestep_shift interval_min interval_max num_images eval_freq online_eval evaluate_gen gen_bsz
"""
# ... and those that names and shapes of the weights tell already.
_IN_THE_WEIGHTS = """
image_size img_size resolution downsample_ratio in_chans qk_norm use_qknorm use_swiglu use_rmsnorm wo_shift learn_sigma
"""
_HARMLESS = frozenset((_IRRELEVANT + _IN_THE_WEIGHTS).split())
_PREFIXES = {"dit": "DiT-", "sit": "SiT-", "repa": "SiT-", "lightningdit": "LightningDiT-", "jit": "JiT-"}

_SIT_PATHS: dict[str, GaussianPath] = {
    "Linear": LinearFlow(time_scale=1.0, data_time=True),
    "GVP": Trigonometric(time_scale=1.0, data_time=True),
    "VP": VPContinuous(time_scale=1.0, data_time=True),
}
_SIT_KINDS = {"velocity": "velocity", "noise": "eps", "score": "score"}
_REPA_PATHS: dict[str, GaussianPath] = {"linear": LinearFlow(time_scale=1.0), "cosine": Trigonometric(time_scale=1.0)}


@dataclass(frozen=True)
class Meaning:
    """What a network means by the options it was trained with.

    path, kind: of what it predicts. arguments: of our `DiT`, where options tell more than shapes. num_classes: if said.
    scale: factor of latents, if said. dropout: the rate at which labels were dropped.
    """

    path: GaussianPath
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    scale: float | None = None
    dropout: float = 0.1

    @property
    def negated(self) -> bool:
        """Whether its velocity points from noise to data: the derivative in a time that is 1 at data."""
        return self.kind == "velocity" and getattr(self.path, "data_time", False)


class Options:
    """Options by name, as a training checkpoint holds them or a user gives them; remembers which were asked for."""

    def __init__(self, file: Path, found: Mapping[str, list[Any]]):
        self.file, self.found, self.asked = file, dict(found), set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def value(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        values = self.found.get(name, [default])
        if any(not _same(value, values[0]) for value in values[1:]):
            raise ValueError(f"{self.file} has more than one value of {name}; save its weights alone and give settings")
        return values[0]

    def choice(self, name: str, default: str, known: Mapping[str, _T]) -> _T:
        value = self.value(name, default)
        if not isinstance(value, str) or value not in known:
            raise self._refused(name, value, " or ".join(known))
        return known[value]

    def flag(self, name: str, default: bool | None) -> Any:
        value = self.value(name, default)
        if not isinstance(value, bool) and value is not default:
            raise self._refused(name, value, "true or false")
        return value

    def number(self, name: str, default: float, low: float, high: float, what: str) -> float:
        """In [low, high]."""
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._refused(name, value, what)
        return value

    def count(self, name: str) -> int | None:
        value = self.value(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise self._refused(name, value, "a whole number of at least 1")
        return value

    def unknown(self) -> list[str]:
        """Names that nothing is known of."""
        return [_short(name) for name in self.found if name not in self.asked and name not in _HARMLESS]

    def _refused(self, name: str, value: Any, allowed: str) -> ValueError:
        return ValueError(
            f"{self.file} was trained with {name}={_short(value)}, which cannot be imported; {allowed} can"
        )


def read_options(file: Path, contents: Mapping[str, Any], told: Mapping[str, Any] | None) -> Options:
    """The options of a training checkpoint, whatever groups they are in, and those that a user `told`.

    Raises ValueError if they are no named options, or if both say something else.
    """
    found: dict[str, list[Any]] = {}
    for entry in _ENTRIES:
        if contents.get(entry) is not None:
            _collect(file, entry, contents[entry], found)
    for name, value in (told or {}).items():
        if name in found and any(not _same(value, there) for there in found[name]):
            raise ValueError(f"settings.{name}={_short(value)} contradicts {file}, which says {_short(found[name][0])}")
        found[name] = [value]
    return Options(file, found)


def _collect(file: Path, entry: str, held: Any, found: dict[str, list[Any]], depth: int = 0) -> None:
    held = vars(held) if isinstance(held, argparse.Namespace) else held
    if not isinstance(held, dict) or depth > _DEEPEST:
        raise ValueError(f"{file} has {entry} that are no named options; save its weights alone and give settings")
    for name, value in held.items():
        if isinstance(value, dict | argparse.Namespace):
            _collect(file, entry, value, found, depth + 1)
        else:
            found.setdefault(str(name), []).append(value)


def read_meaning(source: str, options: Options, told: Mapping[str, Any] | None = None) -> tuple[Meaning, list[str]]:
    """What a network of `source` means by `options`; and what is to be warned of.

    Raises ValueError, naming option, value and what is supported, for what cannot be expressed here, and for an option
    in `told` that `source` does not have.
    """
    meaning = _MEANINGS[source](options)
    for name in told or {}:
        if name not in options.asked:
            raise ValueError(
                f"settings.{name} is no option of source={source}; it has {', '.join(sorted(options.asked))}"
            )
    model = options.value("model_type" if "model_type" in options else "model")
    warnings = []
    others = [prefix for prefix in _PREFIXES.values() if prefix != _PREFIXES[source]]
    if isinstance(model, str) and model.startswith(tuple(others)):
        warnings.append(f"{options.file} was trained with model={_short(model)}; is source={source} right?")
    if unknown := options.unknown():
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        warnings.append(
            f"{options.file} was trained with options that are not known here: {', '.join(unknown[:4])}{more}"
        )
    return meaning, warnings


def _dit(options: Options) -> Meaning:
    steps = options.count("diffusion_steps") or 1000
    paths = {
        # Betas are scaled so that a table of any length ends in about the same noise.
        "linear": partial(DiscreteVP.linear, steps, 0.1 / steps, 20 / steps),
        "squaredcos_cap_v2": partial(DiscreteVP.cosine, steps),
    }
    make_path = options.choice("noise_schedule", "linear", paths)
    kind = "x0" if options.flag("predict_xstart", False) else "eps"
    return Meaning(make_path(), kind, num_classes=options.count("num_classes"))


def _sit(options: Options) -> Meaning:
    path = options.choice("path_type", "Linear", _SIT_PATHS)
    kind = options.choice("prediction", "velocity", _SIT_KINDS)
    return Meaning(path, kind, num_classes=options.count("num_classes"))


def _repa(options: Options) -> Meaning:
    path = options.choice("path_type", "linear", _REPA_PATHS)
    kind = options.choice("prediction", "v", {"v": "velocity"})
    return Meaning(path, kind, num_classes=options.count("num_classes"))


def _lightningdit(options: Options) -> Meaning:
    path = options.choice("path_type", "Linear", _SIT_PATHS)
    kind = options.choice("prediction", "velocity", _SIT_KINDS)
    rope = options.flag("use_rope", None)
    arguments = {} if rope is None else {"position": "sincos_rope" if rope else "sincos"}
    scale = options.number("latent_multiplier", 0.18215, 1e-30, 1e30, "a positive number")
    # Normalised latents have a mean and deviation per channel, in a file of their own. So have the published ones; but
    # a configuration without the option means the multiplier alone.
    normalised = options.flag("latent_norm", "data_path" not in options)
    return Meaning(path, kind, arguments, options.count("num_classes"), None if normalised else scale)


def _jit(options: Options) -> Meaning:
    noise_scale = options.number("noise_scale", 1.0, 1e-30, 1e30, "a positive number")
    dropout = options.number("label_drop_prob", 0.1, 0.0, 1.0, "a number from 0 to 1")
    return Meaning(_jit_path(noise_scale), "x0", num_classes=options.count("class_num"), dropout=dropout)


def _jit_path(noise_scale: float) -> LinearFlow:
    return LinearFlow(time_scale=1.0, data_time=True, noise_scale=noise_scale)


def published_jit(file: Path, image_size: int) -> LinearFlow | None:
    """The path of a JiT of this size whose file does not say its noise_scale, where it is not 1. ValueError where none
    was published."""
    if image_size < 512:
        return None
    if image_size > 512:
        raise ValueError(
            f"{file} does not say its noise_scale, and none was published at {image_size} pixels; give settings"
        )
    return _jit_path(2.0)


_MEANINGS = {"dit": _dit, "sit": _sit, "repa": _repa, "lightningdit": _lightningdit, "jit": _jit}


def _same(a: Any, b: Any) -> bool:
    plain = (bool, int, float, str, type(None))
    return isinstance(a, plain) and isinstance(b, plain) and isinstance(a, bool) == isinstance(b, bool) and a == b


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, bool | int | float | str | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
