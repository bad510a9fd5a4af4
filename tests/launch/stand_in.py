"""A script like train.py, without the training: says who ran it, in its output directory, and returns a + b."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import distributed

from dit.launch import entry


@dataclass
class Options:
    a: Annotated[int, Ge(0)]


@entry("stand_in", Options, configs="configs", trainer="trainer")
def main(config: DictConfig) -> float:
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    folder = Path(HydraConfig.get().runtime.output_dir)
    with (folder / "runs").open("a") as file:
        file.write(f"{rank} of {size}, devices {config.trainer.devices}, pid {os.getpid()}, {config.stamp}\n")
    if rank in config.fail:
        raise ValueError("this rank was told to fail")
    total = torch.tensor([float(config.a + config.b)])
    if config.hang and rank == 1:
        time.sleep(600)
    if size > 1:
        distributed.init_process_group("gloo", rank=rank, world_size=size)
        distributed.all_reduce(total)
    time.sleep(config.seconds)
    if rank == 0:
        (folder / "result").write_text(f"{total.item() / size}\n")
    return total.item() / size


if __name__ == "__main__":
    main()
