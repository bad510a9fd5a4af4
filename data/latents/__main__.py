"""`python -m data.latents data=imagenet vae=FOLDER out=DIR` makes a cache, `verify=DIR` checks one; under torchrun or
srun the processes share the work. A run that was killed goes on where it stopped."""

import os
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dit.files import given_path
from dit.launch import entry, pick_device, plain, this_group
from dit.launch.options import Latents


@entry("latents", Latents, configs="../../configs")
def main(config: DictConfig) -> None:
    if config.verify is not None:
        check(config)
        return
    for key, meaning in {"data": "the pictures, data=imagenet", "vae": "the autoencoder", "out": "a folder"}.items():
        if key not in config or config[key] is None:
            raise ValueError(f"{key} must be given: {meaning}")
    import torch  # here, with all that loads it: `--help` and the refusal of a typo do not wait for it

    from data import pictures_spec
    from data.latents.encode import begin, encode, finish, make_plan, missing
    from dit.codec import Autoencoder

    options = plain(config)
    group = this_group()  # of torchrun or srun
    rank, world_size = (0, 1) if group is None else (group.rank, group.size)
    device = pick_device(options["device"])
    if device.type == "cuda" and device.index is None:
        place = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        device = torch.device("cuda", place % torch.cuda.device_count())  # srun may show each process one GPU only
    data, out = instantiate(config.data), given_path("out", options["out"])
    autoencoder = Autoencoder(options["vae"], options["slicing"], options["tiling"])
    data.prepare_data()
    data.setup()
    source = pictures_spec(options["data"])
    if source is not None and "root" in source:  # whoever verifies may stand elsewhere
        source["root"] = str(Path(source["root"]).expanduser().resolve())
    plan = make_plan(data, autoencoder, options["dtype"], options["shard_size"], source)
    begin(plan, data, out)
    todo = missing(plan, out, rank, world_size)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(TextColumn("{task.description}"), *columns, disable=rank > 0) as bar:
        share = f"encoding, process 1 of {world_size}" if world_size > 1 else "encoding"
        task = bar.add_task(share, total=sum(shard.count for shard in todo))
        for count in encode(todo, plan, data, autoencoder, out, options["batch_size"], device):
            bar.advance(task, count)
    made = finish(plan, out)
    if made is None:
        print(f"process {rank + 1} of {world_size} has made its shards; the last one to do so completes {out}")
        return
    counts = " and ".join(f"{count:,} for {split}" for split, count in plan.counts.items())
    print(f"{len(made.shards)} shards, pictures: {counts}, each with its mirror image: {out}")
    print(f"train on them: python train.py data=latents data.root={out}")


def check(config: DictConfig) -> None:
    from data import pictures_from_spec
    from data.latents.manifest import Manifest
    from data.latents.verify import verify
    from dit.codec import Autoencoder

    options, root = plain(config), given_path("verify", config.verify)
    plan = Manifest.read(root, "verify").plan
    data = pictures_from_spec(plan.source, options["data_root"])
    data.setup()
    autoencoder = Autoencoder(options["vae"] or plan.vae, fetch=options["vae"] is not None)
    said, picture = verify(root, data, autoencoder, options["shown"], pick_device(options["device"]))
    print(f"{said}\npictures, their latents decoded, and both of the mirror images: {picture}")


if __name__ == "__main__":
    main()
