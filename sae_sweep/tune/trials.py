"""The folders of all trials, in outputs on this disk or in remote ones.

On a disk that all slots see, a claim's folder is renamed from holder to holder (`trial_folder`).
Remote outputs have the same layout, and each slot works in its own machine's mirror:

    URL/trials/<label>-<uid>/claim-<number>/   the latest checkpoint; results when complete
    URL/trials/<label>-<uid>/                  results, once the store has accepted the outcome

What a slot finds in its mirror of a trial is never gone on from: only what was uploaded is.
"""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from sae_sweep.errors import BadInput, CutShort
from sae_sweep.records import FINAL, Status, TrialRecord
from sae_sweep.remote import fetch, remote_of
from sae_sweep.sae import WEIGHTS_FILE, wrong_with
from sae_sweep.train import checkpoint
from sae_sweep.tune import trial_folder
from sae_sweep.tune.trial_folder import claim_folder, remove

OF_CLAIM = re.compile(r"claim-(\d+)/(.+)")
"""A file of a claim, relative to the trial's folder."""


class Trials:
    """Operations on trial folders for slots and the driver.

    Methods raise CutShort where a remote place does not answer.
    """

    def __init__(self, outputs: Path) -> None:
        """Use those of a folder of outputs on this machine."""
        self._outputs = outputs
        self.root = outputs / "trials"
        """Below it every trial has its folder on this machine."""
        self._remote = remote_of(outputs)

    # -- a slot's ------------------------------------------------------------------------------

    def take_over(self, name: str, number: int) -> Path:
        """Make the folder of a claim, with the latest checkpoint of the trial in it.

        Args:
            name: of the trial's folder.
            number: of the claim.

        Raises:
            BadInput: a later claim has the trial.
            OSError: the folder cannot be made.
        """
        if self._remote is None:
            return trial_folder.take_over(self.root / name, number)
        remove(self.root / name)
        mine = claim_folder(self.root / name, number)
        mine.mkdir(parents=True)
        files = self._remote.names(f"trials/{name}")
        saved = [each for each, file in _of_claims(files) if file == checkpoint.STATE_FILE]
        latest = max(saved, default=None)
        if latest is not None and latest > number:
            raise BadInput(f"{name} has a checkpoint under claim {latest}, later than {number}")
        if latest is not None:
            state = f"trials/{name}/claim-{latest}/{checkpoint.STATE_FILE}"
            with suppress(FileNotFoundError):  # its holder has just ended the trial
                self._remote.get(state, mine / checkpoint.STATE_FILE)
        return mine

    def save(self, folder: Path, uid: str, state: checkpoint.State) -> None:
        """Save a checkpoint so that this or another machine can resume from it.

        Args:
            folder: of the claim.
            uid: the trial's.
            state: of its training.

        Raises:
            OSError: it cannot be written.
        """
        checkpoint.save(folder, uid, state)
        if self._remote is not None:
            path = folder / checkpoint.STATE_FILE
            self._remote.put(path, self._name(path))

    def hand_in(self, folder: Path) -> None:
        """Make the results in a claim's folder available to the driver."""
        if self._remote is not None:
            for name in checkpoint.FILES:
                remove(folder / name)
            self._remote.publish(self._name(folder))

    def release(self, folder: Path) -> None:
        """Free what this machine holds of a trial that has left it."""
        if self._remote is not None:
            remove(folder.parent)

    # -- the driver's --------------------------------------------------------------------------

    def settle(self, name: str, number: int, status: Status, *, keep_weights: bool) -> None:
        """Put in place what an ended trial leaves, and delete what nobody wants any more.

        May be repeated: a driver that was killed after it had recorded an end has not come so far.

        Args:
            name: of the trial's folder.
            number: of the claim under which the store has accepted the outcome.
            status: the outcome's.
            keep_weights: whether the sweep wants them.

        Raises:
            OSError: it cannot be put in place.
        """
        if self._remote is None:
            folder = self.root / name
            trial_folder.settle(folder, number, status, keep_weights=keep_weights)
            return
        place = f"trials/{name}"
        if status == "done":
            unwanted = () if keep_weights else (WEIGHTS_FILE,)
            self._remote.move(f"{place}/claim-{number}", place, unwanted)
        if status in FINAL:
            claims = {each for each, _ in _of_claims(self._remote.names(place))}
            for each in sorted(one for one in claims if one <= number):
                self._remote.remove(f"{place}/claim-{each}")
        if status == "stopped" or (status == "done" and not keep_weights):
            self._remote.drop(place, WEIGHTS_FILE)

    def unsettled(self) -> set[str] | None:
        """Names of folders in which `settle` may find something to do; None: look into each."""
        if self._remote is None:
            return None
        files = self._remote.names("trials")
        return {file.partition("/")[0] for file in files if "/claim-" in file}

    def empty(self, name: str, number: int) -> None:
        """Delete all that earlier claims than this one have left, so that a trial starts afresh."""
        if self._remote is None:
            trial_folder.empty(self.root / name, number)
            return
        remove(self.root / name)
        self._remote.remove(f"trials/{name}")

    def drop_weights(self, names: Collection[str]) -> None:
        """Delete the weights of trials, by names of their folders."""
        for name in names:
            (self.root / name / WEIGHTS_FILE).unlink(missing_ok=True)
        if self._remote is not None:
            there = self._remote.names("trials")
            for name in names:
                if f"{name}/{WEIGHTS_FILE}" in there:
                    self._remote.drop(f"trials/{name}", WEIGHTS_FILE)

    def without_weights(self, records: Sequence[TrialRecord]) -> list[str]:
        """Which trials lack their weights, by folder, and what is wrong with them."""
        if self._remote is not None:
            files = self._remote.names("trials") if records else set()
            names = [one.folder for one in records]
            return [f"{name} (gone)" for name in names if f"{name}/{WEIGHTS_FILE}" not in files]
        found = [(one, wrong_with(self.root / one.folder)) for one in records]
        return [f"{one.folder} ({wrong})" for one, wrong in found if wrong]

    def damaged(self, name: str) -> bool:
        """Whether a trial's weights are gone, or a byte of them is not the one that was written."""
        if self._remote is not None:
            remove(self.root / name)  # this machine's copy may be whole
        try:
            return wrong_with(fetch(self._outputs, f"trials/{name}"), every_byte=True) is not None
        except CutShort:
            raise
        except BadInput:
            return True

    def _name(self, path: Path) -> str:
        return path.relative_to(self._outputs).as_posix()


def _of_claims(files: set[str]) -> list[tuple[int, str]]:
    """Number of the claim and name of each file of a claim."""
    return [(int(found[1]), found[2]) for one in files if (found := OF_CLAIM.fullmatch(one))]
