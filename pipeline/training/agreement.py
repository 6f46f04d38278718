"""Agreement: before their first step, ranks make sure that all of them train the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy.typing import NDArray

from pipeline.data import batches
from pipeline.data.batches import Batch
from pipeline.distributed.channel import Channel
from pipeline.recipe.schema import Recipe
from pipeline.runs.machine import package_versions
from pipeline.runs.record import RunIdentity
from pipeline.training.state import WEIGHTS, Arrays, numbered
from pipeline.utils.errors import RunFailure
from pipeline.utils.hashing import sha256_of_bytes

# What may differ between machines: it changes results by rounding only.
_OF_A_MACHINE = ("device", "threads")


def refuse_disagreement(
    channel: Channel,
    recipe: Recipe,
    identity: RunIdentity,
    versions: Mapping[str, str],
    fingerprints: Mapping[str, str | None],
    plans: Sequence[Sequence[Batch]],
    steps_done: int,
    weights_digest: str,
) -> None:
    """Raise UserError, with who differs in what, unless all ranks have the same.

    `versions` are those of the framework, `plans` have the batches of each epoch, and `weights_digest` is of the
    weights from which the training goes on, or of all arrays of the training checkpoint.
    """
    packages = package_versions() | {name: value for name, value in versions.items() if name not in _OF_A_MACHINE}
    channel.agree({
        **{f"the {name}": str(value) for name, value in identity.model_dump().items()},
        "the digest of the settings": recipe.digest(),
        **{f"the version of {name}": str(version) for name, version in packages.items()},
        **{f"the fingerprint of the {name}": str(value) for name, value in fingerprints.items()},
        "the digest of the batch plan": batches.digest(*plans),
        "the number of steps done": str(steps_done),
        "the digest of the weights": weights_digest,
    })  # fmt: skip


def refuse_drift(channel: Channel, weights: Sequence[NDArray], epoch: int) -> None:
    """Raise RunFailure unless all ranks have the same weights, to the bit."""
    digests = channel.all(digest(numbered(WEIGHTS, weights)))
    others = [str(rank) for rank, own in enumerate(digests) if own != digests[0]]
    if others:
        raise RunFailure(
            f"after epoch {epoch} the weights of rank {' and '.join(others)} are not those of rank 0, though all took "
            "the same steps: memory or processor of a machine may be faulty. The training checkpoints before it are "
            "kept"
        )


def digest(state: Arrays) -> str:
    """Sixteen hex digits of arrays."""
    return sha256_of_bytes(value.tobytes() for _, value in sorted(state.items()))[:16]
