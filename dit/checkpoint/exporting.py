"""Ours, for others: one safetensors file with its metadata, or a folder that diffusers' DiTPipeline loads."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from dit.checkpoint import diffusers
from dit.checkpoint.loading import Model
from dit.checkpoint.stored import StoredMetadata
from dit.files import check_out, replaced, write_json
from dit.model import DiT
from dit.tensors import save_tensors

_PIPELINE_NULL_LABEL = 10**3  # written into DiTPipeline, whatever its network


def export_safetensors(loaded: Model, out: str | Path) -> None:
    """Writes the weights of `loaded`, with the metadata, which of them they are and their step as JSON in its header,
    to `out`, which `load` reads.

    Raises ValueError where `out` is there already, is in no folder, or does not end in .safetensors.
    """
    check_out(out, ".safetensors")
    save_tensors(out, loaded.network.state_dict(), _stored(loaded).header, key="out")


def export_diffusers(loaded: Model, out: str | Path, vae: str | Path | None = None) -> None:
    """Writes a pipeline folder: transformer, a DDIMScheduler, class names, and a copy of the folder `vae`, if given;
    without one, `DiTPipeline.from_pretrained(out, vae=...)` has to be told. Importing it gives `loaded` back.

    Warns where diffusers will compute something else than we do: its sinusoid of time has other frequencies than
    networks without `time_endpoint` learned, and its pipeline guides with a fixed label for "no class".

    Raises ValueError where `out` is there already or in no folder, `vae` is no such folder, or its classes cannot
    compute the network, path or kind.
    """
    check_out(out)
    if not isinstance(loaded.network, DiT):
        raise ValueError(f"to=diffusers takes a dit, this is a {loaded.metadata.network['name']}")
    arguments = loaded.network.arguments
    diffusers.check_fits(loaded.metadata, arguments)
    if vae is not None and not (Path(vae) / diffusers.CONFIG).exists():
        raise ValueError(f"vae={vae} is no folder of diffusers: it has no {diffusers.CONFIG}")
    if not arguments["time_endpoint"]:
        warnings.warn(
            "diffusers tells time by other frequencies than the network was trained with (model.time_endpoint=false), "
            "so its predictions will differ from ours by some percent",
            stacklevel=2,
        )
    if arguments["num_classes"] != _PIPELINE_NULL_LABEL:
        warnings.warn(
            f"DiTPipeline takes label {_PIPELINE_NULL_LABEL} for no class whatever the network, so its guidance is "
            f"wrong or fails with {arguments['num_classes']} classes; give it guidance_scale=1, or sample with ours",
            stacklevel=2,
        )
    if loaded.denoiser.null_label is None:
        warnings.warn(
            "the network was trained without dropping labels (dropout.class=0), which DiTPipeline does not know: "
            "guidance there would follow a row that nothing trained; give it guidance_scale=1",
            stacklevel=2,
        )
    with replaced(out, "out") as folder:
        for name in ("transformer", "scheduler"):
            (folder / name).mkdir(parents=True)
        tensors = diffusers.to_diffusers(loaded.network.state_dict(), arguments)
        save_tensors(folder / "transformer" / diffusers.WEIGHTS, tensors, _stored(loaded).header)
        write_json(folder / "transformer" / diffusers.CONFIG, diffusers.transformer_config(arguments))
        scheduler = diffusers.scheduler_config(loaded.metadata.path, loaded.metadata.kind)
        write_json(folder / "scheduler" / diffusers.SCHEDULER_CONFIG, scheduler)
        write_json(folder / diffusers.INDEX, diffusers.pipeline_index(loaded.class_names))
        if vae is not None:
            shutil.copytree(vae, folder / "vae")


def _stored(loaded: Model) -> StoredMetadata:
    return StoredMetadata(loaded.metadata, loaded.weights, loaded.step)
