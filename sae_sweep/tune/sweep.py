"""A sweep from validated settings to recorded outcomes."""

import itertools
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch

from sae_sweep import activations, evaluate
from sae_sweep.config import ExecutorConfig, RunConfig, Trial
from sae_sweep.errors import BadInput, CutShort, NoStore, without_passwords
from sae_sweep.evaluate import probing
from sae_sweep.inputs import note
from sae_sweep.records import FINAL, Status, TrialRecord
from sae_sweep.records.metrics import BY_PROBE
from sae_sweep.records.names import RESERVED_NAMES
from sae_sweep.records.store import NOTES, ClaimLost, Reader, Store, default_url
from sae_sweep.remote import fetch, local_folder, remote_of
from sae_sweep.rules.dominance import pareto
from sae_sweep.search import LISTED, definition, read_objective
from sae_sweep.train import require_device
from sae_sweep.tune import inline_executor, orphans
from sae_sweep.tune.driver import Driver, Extracted
from sae_sweep.tune.environment import git_commit, versions
from sae_sweep.tune.estimate import disk_bytes, require_disk
from sae_sweep.tune.expansion import Expansion
from sae_sweep.tune.progress import SweepDisplay, follow_extraction
from sae_sweep.tune.proposals import STATE, Proposals, take_up
from sae_sweep.tune.stopping import Stopping, ended
from sae_sweep.tune.trial_folder import in_the_way
from sae_sweep.tune.trials import Trials
from sae_sweep.tune.watching import Watcher

NAMED = 10
"""Lost trials that are named; of further ones only the number is given."""

RERUN = {
    "failed": ("failed", "oom"),
    "diverged": ("diverged",),
    "weights": ("done",),
    "all": tuple(FINAL | {"stopped"}),
}


class Result(NamedTuple):
    """How a run of a sweep ended."""

    counts: Counter[Status]
    """Trials by status."""
    trained: bool
    """Whether this run had anything to train or continue."""
    interrupted: bool
    """Whether it was asked to stop before the end."""
    notes: list[str]
    """Notes of a search."""
    without_weights: list[str]
    """Trials whose weights are missing or damaged, by folder, and which it is."""
    lost: str | None
    """Why another driver has taken over, where that is so, and what it has taken."""
    unfinished: bool
    """Whether that driver has not ended yet: a search may have trials to come."""


class Start(NamedTuple):
    """One start of a sweep: what its parts work with."""

    store: Store
    run: int
    """Its number in the store."""
    expansion: Expansion
    config: RunConfig
    outputs: Path

    @property
    def trials(self) -> Trials:
        """The folders of trials."""
        return Trials(self.outputs)

    def records(self) -> dict[str, TrialRecord]:
        """The store's current records of its trials, by uid."""
        return self.store.trials([trial.uid for trial in self.expansion.trials])


def run(
    expansion: Expansion,
    config: RunConfig,
    outputs: Path,
    command: str,
    also: Sequence[Watcher] = (),
) -> Result:
    """Train what is not done, record it, and notify the watchers in `also`.

    Raises:
        BadInput: before any trial starts.
        CutShort: the store or the disk has failed on the way.
    """
    url = config.store.url or default_url(outputs)
    with Store(url) as store:
        take_up(store, expansion, config)
        run_id = store.start_run(
            config.sweep.name,
            question=config.sweep.question,
            config=_shown_settings(config),
            command=command,
            git=git_commit(),
            versions=versions(),
        )
        orphans.end(store.owners())
        start = Start(store, run_id, expansion, config, outputs)
        todo: list[Trial] = []
        notes: list[str] = []
        interrupted, lost = False, None
        try:
            proposals = Proposals(store, run_id, expansion, config)
            notes = proposals.notes
            todo = _enlist(start, proposals)
            if not todo and not Stopping(store, run_id, config).closed:
                todo = proposals.ask(1)
            with _mirrored(start) as mirrors:
                interrupted = bool(todo) and _train(start, todo, proposals, [*mirrors, *also])
        except ClaimLost as error:
            lost = _what_is_lost(start, todo, error)
        finally:
            store.finish_run(run_id)
        unfinished = lost is not None and store.unfinished(config.sweep.name)
        records = start.records()
        done = {uid for uid, record in records.items() if record.status == "done"}
        kept = done if config.store.weights == "all" else set()
        if config.store.weights == "front" and not (interrupted or lost):
            kept = _keep_front(records, store.trained_by(config.sweep.name), start.trials)
    counts = Counter(record.status for record in records.values())
    lacking = start.trials.without_weights([records[uid] for uid in sorted(kept)])
    return Result(counts, bool(todo), interrupted, notes, lacking, lost, unfinished)


def _what_is_lost(start: Start, todo: list[Trial], error: ClaimLost) -> str:
    """List the trials that this run lost to another driver, with their status."""
    ended_here = start.store.ended_by(start.run)
    records = start.records()
    left = [records[trial.uid] for trial in todo if trial.uid not in ended_here]
    statuses = Counter(record.status for record in left)
    stand = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())) or "none"
    names = "".join(f"\n  {record.folder}: {record.status}" for record in left[:NAMED])
    more = f"\n  and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"{error}; trials lost to it: {stand}. Nothing was written to them since{names}{more}"


def finished_trials(config: RunConfig, uids: Sequence[str], outputs: Path) -> set[str]:
    """Which trials the store holds as ended, without creating a store."""
    try:
        with Reader(config.store.url or default_url(outputs)) as reader:
            return ended(reader.trials(uids).values(), config, reader.states)
    except NoStore:
        return set()


def _shown_settings(config: RunConfig) -> dict[str, Any]:
    settings = json.loads(config.model_dump_json(by_alias=True))
    if config.store.url is not None:
        settings["store"]["url"] = without_passwords(config.store.url)
    return settings


def _enlist(start: Start, proposals: Proposals) -> list[Trial]:
    """Record every trial as a member of the run; returns those not done and reports the others."""
    store, trials, rerun = start.store, start.expansion.trials, start.config.rerun
    members = [
        (TrialRecord(trial.uid, trial.label, "queued", trial.record), assignment)
        for trial, assignment in start.expansion.members
    ]
    store.enlist(start.run, members)
    known = start.records()
    again: list[Trial] = []
    if rerun is not None:
        chosen = [trial for trial in trials if known[trial.uid].status in RERUN[rerun]]
        if rerun == "weights":
            chosen = [one for one in chosen if start.trials.damaged(one.folder)]
        numbers = store.reset(start.run, [trial.uid for trial in chosen])
        again = [trial for trial in chosen if trial.uid in numbers]
        for trial in again:
            start.trials.empty(trial.folder, numbers[trial.uid])
        known = start.records()
    anew = {uid for uid, record in known.items() if record.status == "queued"}
    Stopping(store, start.run, start.config).restart(anew | {trial.uid for trial in again})
    over = ended(known.values(), start.config, store.states)
    todo = [trial for trial in trials if trial.uid not in over]
    # before the minutes of extraction: another driver would train them meanwhile
    store.claim(start.run, [trial.uid for trial in todo])
    # only now: a start that is killed before leaves the search to the one before it
    sought = definition(start.config.sweep, start.config.search)
    if sought is not None:
        store.keep(start.run, STATE, sought)
    for trial in trials:
        if trial.uid in over:
            proposals.ended(trial, known[trial.uid].outcome)
    _clear_after(start, {uid: known[uid].status for uid in over})
    return todo


def _clear_after(start: Start, over: Mapping[str, Status]) -> None:
    """Finish what killed starts left undone: clear the folders of ended trials."""
    ours = start.store.trained_by(start.config.sweep.name)
    numbers = start.store.claim_numbers(list(over))
    folders = start.trials
    unsettled = folders.unsettled()
    for trial in start.expansion.trials:
        if trial.uid in over and (unsettled is None or trial.folder in unsettled):
            wanted = start.config.store.weights != "none" or trial.uid not in ours
            number, status = numbers[trial.uid], over[trial.uid]
            try:
                folders.settle(trial.folder, number, status, keep_weights=wanted)
            except OSError as error:
                raise CutShort(in_the_way(folders.root / trial.folder, error)) from None


@contextmanager
def _mirrored(start: Start) -> Iterator[list[Watcher]]:
    """Further watchers of the sweep: the Optuna study, for a search or on request."""
    asked = start.config.store.optuna_mirror
    if not (start.config.search.kind not in LISTED if asked is None else asked):
        yield []
        return
    # imported here: Optuna's tables take a second that others need not spend
    from sae_sweep.tune.optuna_mirror import OptunaMirror

    name, expansion = start.config.sweep.name, start.expansion
    path = start.outputs / "optuna.db"
    objective = read_objective(start.config.search)
    mirror = OptunaMirror(
        name, expansion.members, start.records(), path, objective, expansion.examples
    )
    try:
        yield [mirror]
    finally:
        mirror.close()


def _train(start: Start, todo: list[Trial], proposals: Proposals, also: list[Watcher]) -> bool:
    """Extract what is missing, then run the driver; returns whether it was interrupted."""
    config, outputs, expansion = start.config, start.outputs, start.expansion
    coming = expansion.planned[len(expansion.members) :]
    if config.executor.address is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for trial in [*todo, *coming]:
            require_device(trial, device)
    require_disk(disk_bytes(expansion, [*todo, *coming], config, outputs), outputs)
    if config.executor.kind == "ray":
        _require_cluster(config)
    passes = _passes(start, [*todo, *coming])
    for one in itertools.chain(*passes):
        evaluate.require(config.search.objective or [], one)
    planned = len(expansion.members) + len(coming)
    with _extractors(config.executor, passes, outputs) as end_extractors:
        bounded = _extract(start, passes)
        if not bounded:
            end_extractors()
        with _executor(start) as execute:
            extracted = Extracted(bounded, *_verify(start, passes))
            records = start.records()
            with SweepDisplay(config.sweep.name, planned, expansion.trials, records) as display:
                watchers = [display, *also]
                driver = Driver(start.store, start.run, outputs, config, watchers, extracted)
                driver.add(todo)
                driver.take_from(proposals)
                with _stopping_on_signals(driver, display):
                    execute(driver)
    if driver.trouble is not None:
        raise CutShort(f"{driver.trouble}; the same command continues")
    if driver.lost is not None:
        raise ClaimLost(driver.lost)
    return driver.interrupted


@contextmanager
def _extractors(
    config: ExecutorConfig, passes: list[list[activations.Wanted]], outputs: Path
) -> Iterator[Callable[[], None]]:
    """Run extractors beside training, where configured; yields what stops them early."""
    if not config.extractors:
        yield lambda: None
        return
    from sae_sweep.tune import ray_executor

    with ray_executor.cluster(config) as started:
        started.result()
        with ray_executor.extracting(config, passes, outputs) as end:
            yield end


def _passes(start: Start, trials: list[Trial]) -> list[list[activations.Wanted]]:
    """The sources of trials, in groups that one pass of the model serves."""
    needed = {trial.source.fingerprint: trial.source for trial in trials}
    configs = start.expansion.resolver.activations
    return activations.passes(
        [activations.Wanted(configs[name], source) for name, source in needed.items()]
    )


def _extract(
    start: Start, passes: list[list[activations.Wanted]]
) -> dict[str, list[activations.Wanted]]:
    """Write what is missing of the activations that trials need.

    Returns:
        By fingerprint, the sources whose shards a cache bounds, each followed by those that the
        same pass of the model can serve.
    """
    bounded: dict[str, list[activations.Wanted]] = {}
    for together in passes:
        for one in together:
            if activations.cache_bytes(one) is not None:
                others = [other for other in together if other is not one]
                bounded[one.source.fingerprint] = [one, *others]
        for one in together:  # another machine may have them
            fetch(start.outputs, _name(one))
        what = f"extracting activations {', '.join(one.source.fingerprint for one in together)}"
        follow_extraction(activations.prepare(together, start.outputs), what)
    return bounded


def _verify(
    start: Start, passes: list[list[activations.Wanted]]
) -> tuple[dict[str, evaluate.Source], dict[str, int]]:
    """Verify the activations, and write missing clean passes.

    Activations that passed are published where outputs are remote.

    Returns:
        By fingerprint, the sources on which trials are evaluated in the model, and how many
        documents probes take of those whose rows have labels.
    """
    everything = list(itertools.chain(*passes))
    notes = list(start.expansion.resolver.notes)
    for one in everything:
        notes += activations.verify(one.folder(start.outputs), start.outputs)
    _publish(everything, start.outputs)
    probed = _probed(start, everything, notes)
    if notes:
        start.store.keep(start.run, NOTES, list(dict.fromkeys(notes)))
    windows = start.config.evaluate.windows
    evaluated = {
        one.source.fingerprint: evaluate.Source(one, windows, start.outputs)
        for one in everything
        if windows and evaluate.can_evaluate(one)
    }
    for source in evaluated.values():
        evaluate.prepare(source)
    return evaluated, probed


def _probed(start: Start, everything: list[activations.Wanted], notes: list[str]) -> dict[str, int]:
    """The sources whose labels are probed for; notes why others with labels are not.

    Raises:
        BadInput: a search's objective is measured by probes, and there can be none.
    """
    documents, found = start.config.evaluate.probe_documents, {}
    objectives = [one for one in start.config.search.objective or () if one in BY_PROBE]
    for one in everything if documents else ():
        opened = activations.open_activations(one.folder(start.outputs))
        why = probing.obstacle(opened, one.config.group, documents)
        if why is None:
            found[one.source.fingerprint] = documents
        elif objectives:
            raise BadInput(f"search.objective={objectives[0]} is measured by probes: {why}")
        elif one.config.group is not None or len(opened.group_names) > 1:
            note(f"{why}, or set evaluate.probe_documents=0")
            notes.append(why)
    return found


def _publish(sources: list[activations.Wanted], outputs: Path) -> None:
    """Upload complete activations so that all slots' machines can read them."""
    remote = remote_of(outputs)
    if remote is None:
        return
    with activations.checksums(outputs) as checksum:
        for one in sources:
            # of a bounded set, what training begins with: each machine computes the rest
            if activations.cache_bytes(one) is None or remote.index(_name(one)) is None:
                remote.publish(_name(one), checksum=checksum)


def _name(one: activations.Wanted) -> str:
    return f"activations/{one.source.fingerprint}"


@contextmanager
def _executor(start: Start) -> Iterator[Callable[[Driver], None]]:
    """The executor; Ray starts here, in parallel with the remaining preparation."""
    config = start.config.executor
    if config.kind == "inline":
        yield inline_executor.execute
        return
    # imported here: a sweep with nothing to train must not pay for Ray
    from sae_sweep.tune import ray_executor

    scratch = start.outputs / "cache" / f"ray-{start.run}"
    with ray_executor.cluster(config) as started:
        yield partial(ray_executor.execute, config=config, scratch=scratch, started=started)


def _require_cluster(config: RunConfig) -> None:
    """Fail before extraction if no cluster answers or can be started."""
    from sae_sweep.tune import ray_executor

    ray_executor.require_threads(config.executor)
    if config.executor.address is not None:
        with ray_executor.cluster(config.executor) as started:
            started.result()


@contextmanager
def _stopping_on_signals(driver: Driver, display: SweepDisplay) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into an orderly end, the second into an abrupt one."""

    def stop(number: int, _frame: FrameType | None) -> None:
        if driver.interrupted:
            raise KeyboardInterrupt
        driver.interrupt()
        display.say(
            f"{signal.Signals(number).name}: trials are being checkpointed; "
            "once more to leave at once"
        )

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _keep_front(records: Mapping[str, TrialRecord], ours: set[str], trials: Trials) -> set[str]:
    """Remove the weights off the Pareto front (fvu, l0) of trials that this sweep trained.

    Returns:
        Those whose weights stay.
    """
    done = [one for one in records.values() if one.status == "done"]
    ranked = [one for one in done if not one.worse_than_mean]
    points = np.array([[one.final["fvu"], one.final["l0"]] for one in ranked], dtype=float)
    front = pareto(points.reshape(-1, 2), ["down", "down"])
    kept = {one.uid for one, on_front in zip(ranked, front, strict=True) if on_front}
    trials.drop_weights([one.folder for one in done if one.uid in ours - kept])
    return kept


def outputs_folder(config: RunConfig) -> Path:
    """The folder of all outputs on this machine and what stands in it, absolute and there.

    Raises:
        BadInput: a file stands in the place of a folder, or one cannot be made; remote outputs
            cannot be written, read or listed.
    """
    if "?" in config.outputs:
        raise BadInput(
            f"outputs={config.outputs} has a ? in it, which a database URL cannot have: "
            "choose another"
        )
    outputs = local_folder(config.outputs).absolute()
    for folder in (outputs, *(outputs / name for name in RESERVED_NAMES if "." not in name)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise BadInput(
                f"outputs={config.outputs}: {folder} is a file, not a folder: remove it or choose "
                "another outputs"
            ) from None
        except OSError as error:
            raise BadInput(
                f"outputs={config.outputs}: {folder} cannot be made ({error.strerror}): choose "
                "another outputs"
            ) from None
    remote = remote_of(outputs)
    if remote is not None:
        remote.require_rights()
    return outputs
