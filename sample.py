"""Sample a checkpoint: `python sample.py checkpoint=PATH classes=[3,7] per_class=8 guidance.scale=2 out=DIR`."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from dit.checks import printable
from dit.files import given_path
from dit.launch import entry, pick_device, plain
from dit.launch.options import Sample


@entry("sample", Sample)
def main(config: DictConfig) -> None:
    options = plain(config)
    import torch  # here, with all that loads it: `--help` and the refusal of a typo do not wait for it

    from dit.checkpoint import load
    from dit.diffusion import Denoiser
    from dit.metrics import networks_named
    from dit.output import check_out, write_samples
    from dit.solvers.sample import describe
    from dit.versions import versions

    device = pick_device(options["device"])
    check_out(out := given_path("out", options["out"]))
    sampler = instantiate(config.sampler)
    loaded = load(options["checkpoint"], options["weights"], device)
    loaded = loaded.computing(*(options[key] for key in ("precision", "compile", "compile_mode")))
    for weak in [each for each in sampler.guidance.networks.values() if isinstance(each, Denoiser)]:
        weak.network.to(device)
    codec = loaded.codec(*(options[key] for key in ("vae", "vae_slicing", "vae_tiling")))
    labels = loaded.labels(options["classes"], options["per_class"])
    count = len(labels) if labels is not None else options["per_class"]
    batches = list(sampler.batches(loaded.denoiser, labels, loaded.shape, count, device))
    images = torch.cat([codec.decode(batch.x0).cpu() for batch in batches])
    protocol = {
        **batches[0].spec,
        "evaluations": batches[0].nfe.evaluations,
        "network_rows_per_image": batches[0].nfe.rows,
        "spacing": describe(sampler.grid),
        "seed": sampler.seed,
        "labels": labels,
        "class_names": loaded.class_names,
        "checkpoint": str(options["checkpoint"]),
        "checkpoint_step": loaded.step,
        "weights": loaded.weights,
        **networks_named(sampler.guidance, options["guidance"]),
        "normalisation": codec.spec,
        **{key: options[key] for key in ("precision", "compile", "compile_mode", "batch_size")},
        "device": device.type,
        **versions(),
    }
    written = write_samples(out, images, labels, options["per_class"], protocol, options["format"])
    print(printable(f"{count} images: {written[0]}"))


if __name__ == "__main__":
    main()
