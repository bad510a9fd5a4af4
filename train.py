"""Train a DiT: `python train.py experiment=digits`, any key of configs/ overridable; see README.md."""

from operator import mul

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data import folder_classes
from dit.checkpoint import check_resume, load
from dit.cli import adopt, entry, finishing, plain
from dit.training import DiTModule, RenamedCheckpointIO, start_from


@entry(
    "train",
    whole={"seed": 0, "steps": 1, "validate_every": 1},
    resolvers={"count_classes": lambda root: len(folder_classes(root)), "product": mul},
)
def main(config: DictConfig) -> None:
    if config.finetune_from is not None:
        start = load(config.finetune_from, key="finetune_from")
        adopt(config, start.passport)
    OmegaConf.resolve(config)
    if config.resume is not None:
        check_resume(config.resume, config.trainer.max_steps)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul_precision)
    data = instantiate(config.data)
    network = instantiate(config.model)
    said = start_from(network, start, data.facts) if config.finetune_from and not config.resume else ""
    module = DiTModule(
        network=network,
        **instantiate(config.diffusion, _convert_="all"),
        **{key: instantiate(config[key]) for key in ("times", "loss", "optimizer", "scheduler", "ema", "validation")},
        facts=data.facts,
        config=plain(config),
        seed=config.seed,
        compile=config.compile,
    )
    trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.logger).values()),
        plugins=[RenamedCheckpointIO()],
    )
    if trainer.is_global_zero and said:
        print(f"finetune_from={config.finetune_from}: {said}")
    with finishing(trainer.loggers):
        for logger in trainer.loggers:
            logger.log_hyperparams(plain(config))
        trainer.fit(module, data, ckpt_path=config.resume, weights_only=True)
    if trainer.is_global_zero:
        print(f"checkpoint: {config.callbacks.checkpoint.folder}/last.ckpt")


if __name__ == "__main__":
    main()
