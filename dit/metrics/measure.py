"""One measurement: features, classifier and reference that do not change, and the images that do."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.files import read_json, write_json
from dit.metrics.cache import kept
from dit.metrics.classifier import Classifier
from dit.metrics.features import Extractor, Features, check_pictures
from dit.metrics.generation import GeneratedImages, Generation
from dit.metrics.identity import check_told, network_of
from dit.metrics.intervals import Estimate
from dit.metrics.manifold import DENSITY_NEIGHBOURS
from dit.metrics.reference import Reference
from dit.metrics.scores import SCORES, score
from dit.metrics.table import Row, rule, scale_of
from dit.solvers import Denoise, Sampler
from dit.solvers.sample import describe
from dit.versions import versions

_log = logging.getLogger(__name__)
_LEAST = {  # images that a score needs
    "frechet": 2,
    "spatial_frechet": 2,
    "kid": 2,
    "inception_score": 10,
    **dict.fromkeys(("precision", "recall", "density", "coverage"), DENSITY_NEIGHBOURS + 1),
}


@dataclass(frozen=True)
class Share:
    """Which of `size` processes this is, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class Source:
    """Where images come from: a model, what makes pictures of what it makes, and a name for the lot.

    labels: "balanced" or "random"; shape: (C, H, W) of the model's space; decode: from it to uint8 [B, C, H, W];
    weights, step: of the checkpoint; identity: digests of all weights involved, in plain containers.
    """

    denoiser: Denoise
    labels: str
    num_classes: int
    shape: tuple[int, int, int]
    decode: Callable[[Tensor], Tensor]
    weights: str
    step: int
    identity: Any


@dataclass(frozen=True)
class Measure:
    """Scores of images in the features of `extractor` against `reference`; class accuracy is what `classifier` says,
    which may be the extractor too. names: the scores wanted; replicates: of the bootstrap."""

    extractor: Extractor
    reference: Reference
    classifier: Classifier | None = None
    names: Sequence[str] = SCORES
    replicates: int = 999

    def see(self, images: Tensor) -> dict[str, Tensor]:
        """What scores need of uint8 images [B, C, H, W]."""
        features = self.extractor(images)
        seen = {"pooled": features.pooled, "spatial": features.spatial, "logits": features.logits}
        if self.classifier not in (None, self.extractor):
            seen["judged"] = self.classifier(images).logits
        return {name: tensor for name, tensor in seen.items() if tensor is not None}

    def of_pictures(self, name: str, batches: Iterable[Tensor], labels: Tensor | None) -> Row:
        """Of pictures that are there: uint8 batches [B, C, H, W], labels [N] or None."""
        parts = []
        for images in batches:
            check_pictures(images, name, sum(len(part["pooled"]) for part in parts))
            parts.append({key: tensor.cpu() for key, tensor in self.see(images).items()})
        if not parts:
            raise ValueError(f"{name} has no pictures: a score needs at least 2")
        seen = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return self._row(name, seen, labels)

    def of_kept(
        self, name: str, digest: str, batches: Callable[[], Iterable[Tensor]], labels: Tensor | None, cache: Path
    ) -> Row:
        """`of_pictures`, once: the scores are kept in `cache` under all they depend on. digest: of the pictures."""
        judge = None if self.classifier is None else self.classifier.spec
        content = [digest, self.reference.digest, self.extractor.spec, judge, list(self.names), self.replicates]
        file = cache / f"scores-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.json"

        def load(file: Path) -> Row:
            content = read_json(file, sealed=True)
            scores = {key: None if score is None else Estimate(**score) for key, score in content["scores"].items()}
            return Row(name, content["images"], scores)

        def save(row: Row, file: Path) -> None:
            content = {key: value for key, value in row.plain().items() if key in ("images", "scores")}
            write_json(file, content, sealed=True)

        return kept(file, load, lambda: self.of_pictures(name, batches(), labels), save)

    def of_samples(
        self, source: Source, sampler: Sampler, count: int, cache: Path, share: Share, shown: int = 0, own: bool = False
    ) -> tuple[Row, Tensor] | None:
        """The scores of images 0 ... count - 1, and the first `shown` of them, uint8 [shown, C, H, W]; to be called by
        all processes, None in all but the first. What was made is kept in `cache`: see `Generation`.

        own: no other command finds `cache`. Else samples of what `check_told` cannot tell apart are not kept, and
        ValueError is raised if several processes should share them.
        """
        with ExitStack() as stack:
            if not own and not check_told(sampler, share.size):
                _log.warning("samples of a function or a class of your own are not kept: nothing tells it from another")
                cache.mkdir(parents=True, exist_ok=True)
                cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="once-", dir=cache)))
            made = self._generation(source, sampler, shown).run(count, cache, share.rank, share.size, share.device)
        if made is None:
            return None
        images = made.seen.pop("images")
        guidance = describe(sampler.guidance)
        labels = torch.tensor(made.labels) if made.labels is not None and sampler.guidance.uses_labels else None
        row = replace(
            self._row(rule(guidance), made.seen, labels),
            step=source.step,
            weights=source.weights,
            guidance=guidance,
            scale=scale_of(guidance),
            solver=describe(sampler.solver),
            steps=sampler.steps,
            grid=describe(sampler.grid),
            **_cost(made),
        )
        return row, images

    def protocol(self, source: Source | None, images: int, seed: int | None) -> dict[str, Any]:
        """What the scores of all rows have in common, in plain containers."""
        sampled = {} if source is None else {"labels": source.labels, "weights": source.weights, "step": source.step}
        reference = {key: getattr(self.reference, key) for key in ("name", "images", "digest")}
        judged = {} if self.classifier in (None, self.extractor) else {"classifier": self.classifier.spec}
        return {
            "images": images,
            **sampled,
            "seed": seed,
            "reference": reference,
            "features": self.extractor.spec,
            **judged,
            **versions(),
        }

    def _generation(self, source: Source, sampler: Sampler, shown: int) -> Generation:
        fixed = {key: describe(value) for key, value in vars(sampler).items()}
        judges = [self.extractor.spec, None if self.classifier is None else self.classifier.spec]
        identity = {
            "source": source.identity,
            "path": source.denoiser.path.spec,
            "sampler": fixed,
            "networks": {name: network_of(each) for name, each in sampler.guidance.networks.items()},
            "versions": versions(),
            "labels": [source.labels, source.num_classes],
            "judges": judges,
            "shown": shown,
        }

        def see(images: Tensor) -> dict[str, Tensor]:
            return {**self.see(images), "images": images}

        parts = source.labels, source.num_classes, source.shape, source.decode, see, identity
        return Generation(source.denoiser, sampler, *parts, shown={"images": shown})

    def _row(self, name: str, seen: dict[str, Tensor], labels: Tensor | None) -> Row:
        features = Features(seen["pooled"], seen.get("spatial"), seen.get("logits"))
        judged = features.logits if self.classifier is self.extractor else seen.get("judged")
        scores = score(features, self.reference, labels, judged, self.names, replicates=self.replicates)
        return Row(name, len(features), scores)


def _cost(made: GeneratedImages) -> dict[str, Any]:
    return {"evaluations": made.evaluations, "rows": made.rows, "seconds": made.seconds}


def check_enough(names: Sequence[str], count: int, what: str) -> None:
    """ValueError where one of the scores `names` needs more images. what: which images they are."""
    hungry = max(names, key=lambda name: _LEAST.get(name, 1))
    if count < _LEAST.get(hungry, 1):
        raise ValueError(
            f"{count} {what} are too few: {hungry} needs at least {_LEAST[hungry]}; metrics=[...] drops it"
        )


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """One process at a time: what the first has put into `cache` the others read.

    Raises ValueError where no folder can be made there, or written to.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise ValueError(f"cache must be a folder that can be written to, got {cache} ({error.strerror})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
