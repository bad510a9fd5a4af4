"""Train a DiT: `python train.py experiment=digits`, any key of configs/ overridable; see README.md."""

from operator import mul

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data import folder_classes
from dit.checkpoint import check_resume
from dit.cli import entry, finishing, plain
from dit.diffusion.prediction import check_kind
from dit.training import DiTModule, RenamedCheckpointIO


@entry(
    "train",
    whole={"seed": 0, "steps": 1, "validate_every": 1},
    resolvers={"count_classes": lambda root: len(folder_classes(root)), "product": mul},
)
def main(config: DictConfig) -> None:
    OmegaConf.resolve(config)
    if config.resume is not None:
        check_resume(config.resume, config.trainer.max_steps)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul_precision)
    data = instantiate(config.data)
    module = DiTModule(
        network=instantiate(config.model),
        path=instantiate(config.diffusion.path),
        kind=check_kind(config.diffusion.kind, "diffusion.kind"),
        times=instantiate(config.times),
        loss=instantiate(config.loss),
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler),
        ema=instantiate(config.ema),
        facts=data.facts,
        config=plain(config),
        seed=config.seed,
        compile=config.compile,
        validation=instantiate(config.validation),
    )
    trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.logger).values()),
        plugins=[RenamedCheckpointIO()],
    )
    with finishing(trainer.loggers):
        for logger in trainer.loggers:
            logger.log_hyperparams(plain(config))
        trainer.fit(module, data, ckpt_path=config.resume, weights_only=True)
    if trainer.is_global_zero:
        print(f"checkpoint: {config.callbacks.checkpoint.folder}/last.ckpt")


if __name__ == "__main__":
    main()
