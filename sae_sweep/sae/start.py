"""Weights that a trial starts from in place of random ones: `sae.init_from`."""

from pathlib import Path
from typing import NamedTuple

import torch

from sae_sweep.config import Trial
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.sae.base import AbstractSae, Normalisation
from sae_sweep.sae.factory import build
from sae_sweep.sae.published import find, read, renormalised, to_unit_rows


class Start(NamedTuple):
    """Name and checksum of the weights that a trial starts from."""

    name: str
    """Their path or name."""
    kind: str
    d: int
    n_latents: int
    transcoder: bool
    skip: bool
    checksum: str
    """Sha256 of the file."""

    @classmethod
    def read(cls, name: str) -> "Start":
        """Read the weights' settings.

        Raises:
            BadInput: there are none, they cannot be read, or no training can go on from them.
        """
        with edge(f"sae.init_from={name}", "give a folder with an autoencoder's weights"):
            try:
                found = read(find(name))
                to_unit_rows(found.sae)
            except BadInput as error:
                raise BadInput(f"sae.init_from={name}: {error}") from None
        config = found.sae.config
        m, d = found.sae.w_dec.shape
        return cls(name, config.kind, d, m, config.transcoder, config.skip, found.checksum)

    def checked(self, given: str | None) -> str:
        """The checksum, which is the one that was given, if any was.

        Raises:
            BadInput: it is another.
        """
        if given not in (None, self.checksum):
            raise BadInput(
                f"sae.init_sha256={given}: the weights of sae.init_from={self.name} have "
                f"{self.checksum}; give that, or leave it out"
            )
        return self.checksum

    def require(self, trial: Trial) -> None:
        """Check that a trial can start from them.

        Raises:
            BadInput: they are of another kind or size.
        """
        sae = trial.sae
        for setting, wanted, there in (
            ("sae.kind", sae.kind, self.kind),
            ("activations.d", trial.source.d, self.d),
            ("sae.n_latents", trial.n_latents, self.n_latents),
            ("sae.transcoder", sae.transcoder, self.transcoder),
            ("sae.skip", sae.skip, self.skip),
        ):
            if wanted != there:
                raise BadInput(
                    f"{setting}={str(wanted).lower()}, but the weights of sae.init_from="
                    f"{self.name} have {str(there).lower()}: set {setting}={str(there).lower()} "
                    "or start from others"
                )


def found_at(name: str) -> str:
    """Where weights lie, wherever a process runs: a folder's whole path, or a name on the hub."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


@torch.no_grad()
def started(trial: Trial, inputs: Normalisation, outputs: Normalisation | None) -> AbstractSae:
    """The module that a trial with `sae.init_from` starts with, on the CPU.

    Args:
        trial: its settings; what was checked when it was planned still holds.
        inputs: normalisation of its activations.
        outputs: that of a transcoder's targets.

    Raises:
        BadInput: the weights have changed since.
    """
    name = trial.sae.init_from
    assert name is not None
    found = read(find(name))
    if found.checksum != trial.sae.init_sha256:
        raise BadInput(
            f"sae.init_from={name}: its weights have changed since the trial was planned: run the "
            "sweep again, which makes another trial of them"
        )
    theirs = renormalised(found.sae, inputs, outputs)
    to_unit_rows(theirs)
    sae = build(trial.sae, found.d, seed=0)
    sae.load_state_dict(theirs.state_dict())
    return sae
