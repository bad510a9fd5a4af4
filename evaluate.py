"""Score a checkpoint: `python evaluate.py checkpoint=PATH scales=[1,1.5]`, a row a guidance scale."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from data import codec_from_spec
from dit.checkpoint import load
from dit.cli import entry, pick_device, plain
from dit.evaluation import protocol_line, score_images, score_sampler, table, train_classifier


@entry("evaluate", whole={"images": 1, "real_images": 1, "steps": 1, "seed": 0, "batch_size": 1})
def main(config: DictConfig) -> None:
    options = plain(config)
    device = pick_device(options["device"])
    sampler = instantiate(config.sampler)
    loaded = load(options["checkpoint"], options["weights"], device)
    pictures = loaded.pictures
    if not 0 < loaded.network.num_classes <= options["images"]:
        raise ValueError(f"images={options['images']} must be at least one for each of 1 or more classes of the model")
    labels = loaded.labels(None, options["images"] // loaded.network.num_classes)
    assert labels is not None
    codec = codec_from_spec(loaded.passport["data"]["normalisation"])
    scales = options["scales"] if isinstance(options["scales"], list) else [options["scales"]]
    guidances = [sampler.guidance if scale is None else sampler.guidance.with_scale(scale) for scale in scales]
    for weak in sampler.guidance.networks.values():
        weak.network.to(device)
    for guidance in guidances:
        guidance.check(loaded.denoiser, torch.tensor(labels))

    moved = {"root": options["data_root"]} if options["data_root"] is not None else {}
    data = instantiate({**pictures, **moved})
    if data.facts != loaded.passport["data"]:
        raise ValueError(f"data_root={options['data_root']} holds other pictures than the checkpoint was trained on")
    data.prepare_data()
    data.setup()
    train, held_out = (split.tensors(options["real_images"]) for split in (data.train, data.validation))
    classifier = train_classifier(train, held_out, data.num_classes, Path(options["cache"]))
    scores = [score_images("real pictures", *train, held_out[0], classifier)]
    for guidance in guidances:
        ours = loaded.denoiser, replace(sampler, guidance=guidance), labels, loaded.shape, codec.decode
        scores.append(score_sampler(*ours, held_out[0], classifier, device))
    line = protocol_line(classifier, len(labels), len(held_out[0]), sampler.seed, loaded.weights, sampler.grid)
    Console(highlight=False, width=100).print(table(scores), line, sep="\n")
    if options["out"] is not None:
        out = Path(options["out"])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"protocol": line, "scores": [asdict(s) for s in scores]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
