"""Ray Tune places the slots: on cores, on GPUs, on a cluster. The only reader of Ray.

One Ray Tune trial is one slot. Identity, queue, retries and records are the driver's: Tune's own
loggers, schedulers, checkpoints and `Tuner.restore` are not used.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sae_sweep.activations import Supplier, Wanted
from sae_sweep.config import ExecutorConfig
from sae_sweep.errors import BadInput, CutShort
from sae_sweep.inputs import edge
from sae_sweep.process import collect_rarely, startable_threads
from sae_sweep.records.store import owner
from sae_sweep.tune import orphans
from sae_sweep.tune.channel import Item, Job, Orders
from sae_sweep.tune.driver import Driver

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # at Ray's 15, slots starve beside any other work on the machine
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""Read by Ray when it is imported."""

PRIVATE_SETTINGS = {
    # Tune's actors do not use the processes that Ray starts in advance, one for each core
    "RAY_prestart_worker_first_driver": "0",
    # Tune would start its next slot only when the one before has loaded everything
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
}
"""Of a cluster of our own; on another, slots that wait for their turn would keep trials waiting."""

LOOPBACK = "127.0.0.1"

FOLDER, OWNER = "sae-ray-", "owner.json"
"""How the names of private folders begin, and the file in them that says whose they are."""

THREADS = 200
THREADS_PER_CORE = 40
"""What a local Ray starts, threads and processes together, with some to spare."""

ANSWER_SECONDS = 300.0
"""How long Ray may take to start its first slot; on a busy machine it takes a minute."""

SECONDS_BETWEEN_LOOKS = 0.2
"""How often an extractor looks for work."""

REMIND_SECONDS = 0.5
"""How often an interrupted sweep repeats its orders to leave."""


def _prepare_environment(address: str | None) -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None:
        # a token of our own keeps others out and nothing is written to the home folder
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: loopback only
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        for name, value in PRIVATE_SETTINGS.items():
            os.environ.setdefault(name, value)
        orphans.mark()


def require_threads(config: ExecutorConfig) -> None:
    """Check that process limits let Ray start: at a limit it would wait for ever.

    Raises:
        BadInput: a limit of the user, or of the container, is too low.
    """
    if config.address is not None:
        return
    need = THREADS + THREADS_PER_CORE * _cores(config)
    allowed = startable_threads(need)
    if allowed < need:
        raise BadInput(
            f"executor.kind=ray: Ray starts some {need} threads and processes, and no more than "
            f"{allowed} can be started here: raise the limit (ulimit -u, or the container's), or "
            "train in this process with executor=inline"
        )


def _cores(config: ExecutorConfig) -> int:
    """Of a private cluster."""
    needed = (config.slots or 1) + (0 if config.extractor_gpus else config.extractors)
    return max(len(os.sched_getaffinity(0)), needed)


@contextmanager
def cluster(config: ExecutorConfig) -> Iterator[Future[None]]:
    """Start a private cluster, or join the one at executor.address, and leave it at the end.

    It starts in a thread, beside what the caller does meanwhile; the result of the future waits for
    it, and raises BadInput where no cluster is at the address, or none can be started here.
    Within another `cluster` it is that one.
    """
    _prepare_environment(config.address)
    import ray

    if ray.is_initialized():
        started: Future[None] = Future()
        started.set_result(None)
        yield started
        return
    # from another thread Ray leaves Ctrl-C and SIGTERM as they are, and would warn of it
    logging.getLogger("ray").setLevel(logging.ERROR)
    # the thread stays until Ray is left: Linux kills Ray's processes with the thread they are of
    with (
        ThreadPoolExecutor(1, "ray") as thread,
        _private_folder() if config.address is None else nullcontext() as folder,
    ):
        started = thread.submit(_connect, config, folder)
        try:
            yield started
        finally:
            wait([started])
            ray.shutdown()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for a cluster's sockets and logs that nobody else can enter.

    Ray opens its own to everybody, so it stands inside one of mode 0700. Sockets have paths of at
    most 107 bytes, of which Ray's own part takes some 65: a long TMPDIR is not used.
    """
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    place = place if len(place) <= 20 else "/tmp"
    _remove_abandoned(Path(place))
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=place))
    try:
        (folder / OWNER).write_text(json.dumps(owner.current_owner()))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    """Delete the folders of this user's drivers that were killed."""
    for folder in place.glob(f"{FOLDER}*"):
        # it goes at this moment, is another user's, or has no owner yet
        with suppress(OSError, ValueError):
            mine = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            found = json.loads((folder / OWNER).read_text()) if mine else None
            if isinstance(found, dict) and owner.state(found, 0.0) == "dead":
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def extracting(
    config: ExecutorConfig, passes: Sequence[Sequence[Wanted]], outputs: Path
) -> Iterator[Callable[[], None]]:
    """Run the extractors beside what is done meanwhile; gives what ends them sooner.

    One that dies is started again, and meanwhile the others have its shards, or whoever needs them.

    Args:
        config: how many, and what each takes.
        passes: sources, in groups that a pass of the model serves.
        outputs: folder below which all lies.

    Raises:
        BadInput: the cluster has too little for them.
    """
    import ray

    each, unit = (config.extractor_gpus, "GPU") if config.extractor_gpus else (1, "CPU")
    there = ray.cluster_resources().get(unit, 0)
    if there - config.extractors * each < 1:
        raise BadInput(
            f"executor.extractors={config.extractors} with executor.extractor_gpus="
            f"{config.extractor_gpus:g} on a cluster with {there:g} {unit}s leaves none to train "
            "on: lower them, or executor.extractor_gpus=0 for a core each"
        )
    needs = {f"num_{unit.lower()}s": each}
    kind = ray.remote(max_restarts=-1, max_task_retries=-1, **needs)(Extractor)
    actors = [kind.remote(passes, outputs) for _ in range(config.extractors)]
    ray.get([actor.ready.remote() for actor in actors])
    for actor in actors:
        actor.run.remote()

    def end() -> None:
        while actors:
            ray.kill(actors.pop())

    try:
        yield end
    finally:
        end()


class Extractor:
    """Computes shards until it is ended; an actor."""

    def __init__(self, passes: Sequence[Sequence[Wanted]], outputs: Path) -> None:
        self._suppliers = [Supplier(wanted, outputs) for wanted in passes]

    def ready(self) -> None:
        """Answer once readers know that this extractor serves them."""

    def run(self) -> None:
        """Compute the shards that training starts with, then the later ones."""
        try:
            for supplier in self._suppliers:
                for _ in supplier.prepare():
                    pass
            while True:
                if not any(supplier.supply() for supplier in self._suppliers):
                    time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:  # what is wrong with the rows, whoever needs them finds and says
            for supplier in self._suppliers:
                supplier.close()


def execute(driver: Driver, config: ExecutorConfig, scratch: Path, started: Future[None]) -> None:
    """Run the driver's slots on the cluster until it has no more.

    Args:
        driver: what to run; its slots are set from the cluster.
        config: how many slots; one per GPU, else one per core, where it does not say.
        scratch: folder for Tune's own files, removed at the end.
        started: the cluster's start.
    """
    import ray
    from ray import tune  # takes as long as the cluster does to start

    started.result()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray has put handlers of its own over them
        signal.signal(number, signal.getsignal(number))
    resources = ray.cluster_resources()
    cores = len(os.sched_getaffinity(0)) if config.address is None else int(resources["CPU"])
    extractors = config.extractors if driver.bounded else 0  # else they have done their work
    gpus = int(resources.get("GPU", 0) - extractors * config.extractor_gpus)
    if not config.extractor_gpus:
        cores = max(1, cores - extractors)
    driver.slots = config.slots or gpus or cores
    mailbox, answer = Mailbox(), Answer(there=config.address is not None)
    # Tune logs tracebacks of files that nobody needs; what befalls a slot the driver hears and says
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(mailbox.name), {"GPU": 1} if gpus else {"CPU": 1}),
            tune_config=tune.TuneConfig(
                search_alg=_slot_starter(driver, mailbox, answer), num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="slots",
                storage_path=str(scratch),
                callbacks=[_listener(driver, mailbox, answer)],
                verbose=0,
            ),
        )
        tuner.fit()
    except (OSError, EOFError):
        # Tune's own files are beside those of trials: where these find no room, it stumbles too
        if driver.trouble is None:
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        mailbox.clear()


def _connect(config: ExecutorConfig, folder: Path | None) -> None:
    import ray

    address = config.address
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        assert folder is not None
        way_out = "mend that, or train in this process with executor=inline"
        with _without_services(), edge("executor.kind=ray: Ray", way_out, "does not start here"):
            ray.init(
                address="local",
                num_cpus=_cores(config),
                include_dashboard=False,
                _node_ip_address=LOOPBACK,  # what listens, listens there only
                _temp_dir=str(folder / "ray"),
                **quiet,
            )
        return
    way_out = "start one with `ray start --head`, or leave the setting out for a private one"
    with edge(f"executor.address={address}: no Ray cluster", way_out, "answers there"):
        _knock(address)
        ray.init(address=address, **quiet)


@contextmanager
def _without_services() -> Iterator[None]:
    """Start a cluster without dashboard, autoscaler and reader of logs, which nobody asks here.

    Each is a Python process that takes a second of processor time, and Ray waits for the first. Ray
    has no setting for it: where a version names these methods otherwise, it starts as it does.
    """
    from ray._private.node import Node

    services = ("start_api_server", "start_monitor", "start_log_monitor")
    found = {name: vars(Node)[name] for name in services if name in vars(Node)}
    for name in found:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in found.items():
            setattr(Node, name, method)


def _knock(address: str) -> None:
    """Check within seconds that something listens at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=5).close()


class Answer:
    """Waits for Ray to start the first slot, with a time limit."""

    def __init__(self, *, there: bool) -> None:
        """Wait for none where it is `there`: on another's cluster a slot may wait for its turn."""
        self.there = there
        self._since: float | None = None

    def asked(self) -> None:
        """A slot was asked for."""
        self._since = self._since or time.monotonic()

    def require(self) -> None:
        """Give up after `ANSWER_SECONDS`.

        Raises:
            CutShort: then.
        """
        if self.there or self._since is None or time.monotonic() - self._since < ANSWER_SECONDS:
            return
        raise CutShort(
            f"executor.kind=ray: Ray has started no slot for {ANSWER_SECONDS:.0f} s: look for "
            "limits of memory or processes, or use executor=inline; the same command continues"
        )


class Mailbox:
    """The driver's messages to its slots: numbered for each, in the key-value store of the cluster.

    A slot is inside Tune while it trains, where no call reaches it. The values are pickled as Ray
    pickles what is given to an actor.
    """

    def __init__(self) -> None:
        self.name = f"sae_sweep-{secrets.token_hex(8)}"
        self._sent: Counter[int] = Counter()

    def put(self, slot: int, message: Job | Orders) -> None:
        """Add a message to those not fetched yet."""
        from ray import cloudpickle
        from ray.experimental import internal_kv

        key = f"{slot}-{self._sent[slot]}"
        internal_kv._internal_kv_put(key, cloudpickle.dumps(message), namespace=self.name)
        self._sent[slot] += 1

    def clear(self) -> None:
        """Remove what nobody has fetched."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del("", del_by_prefix=True, namespace=self.name)


class RayChannel:
    """A slot's side: rows go up as Tune results, messages come down through the mailbox."""

    def __init__(self, mailbox: str, slot: int) -> None:
        self._mailbox = mailbox
        self._slot = slot
        self._read = 0

    def next(self) -> Any:
        """Fetch the next message, None where there is none."""
        from ray import cloudpickle
        from ray.experimental import internal_kv

        key = f"{self._slot}-{self._read}"
        message = internal_kv._internal_kv_get(key, namespace=self._mailbox)
        if message is None:
            return None
        internal_kv._internal_kv_del(key, namespace=self._mailbox)
        self._read += 1
        return cloudpickle.loads(message)

    def push(self, items: list[Item]) -> None:
        """Report; Tune resumes the slot after the driver has acted."""
        from ray import tune

        tune.report({"items": items})

    def pull(self) -> Orders:
        """Fetch orders."""
        orders = Orders([], [])
        while (more := self.next()) is not None:
            orders = Orders(
                orders.stop + more.stop, orders.add + more.add, orders.drop or more.drop
            )
        return orders


def _trainable(mailbox: str) -> Any:
    def slot(config: dict[str, Any]) -> None:
        collect_rarely()
        from sae_sweep.tune.slot import train_slot

        channel = RayChannel(mailbox, config["slot"])
        train_slot(channel.next(), channel)

    return slot


def _deliver(driver: Driver, mailbox: Mailbox, *slots: int) -> None:
    """Put slots' orders into the mailbox before they continue."""
    for slot in slots:
        orders = driver.pull(slot)
        if orders.stop or orders.add or orders.drop:
            mailbox.put(slot, orders)


def _slot_starter(driver: Driver, mailbox: Mailbox, answer: Answer) -> Any:
    from ray.tune.search import Searcher

    class SlotStarter(Searcher):  # type: ignore[misc]  # Ray is not followed
        """Gives Tune a new trial whenever the driver has work for another slot."""

        def suggest(self, _trial_id: str) -> dict[str, Any] | str | None:
            job = driver.next_job()
            if job is None:
                return Searcher.FINISHED if driver.finished else None
            answer.asked()
            mailbox.put(job.slot, job)
            _deliver(driver, mailbox, job.slot)
            return {"slot": job.slot}

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            """The listener hears of it."""

        def save(self, checkpoint_path: str) -> None:
            """Tune's own snapshots are not used."""

        def restore(self, checkpoint_path: str) -> None:
            """Tune's own snapshots are not used."""

        def __reduce__(self) -> tuple[Any, ...]:
            return (Searcher, ())

    return SlotStarter()


def _listener(driver: Driver, mailbox: Mailbox, answer: Answer) -> Any:
    from ray.tune import Callback

    class Listener(Callback):  # type: ignore[misc]
        """Passes slots' reports to the driver, and its answers back."""

        def __init__(self) -> None:
            self._reminded = 0.0

        def on_trial_start(self, **_: Any) -> None:
            answer.there = True

        def on_trial_result(self, **info: Any) -> None:
            slot, items = info["trial"].config["slot"], info["result"].get("items")
            if items:
                driver.push(slot, items)
                _deliver(driver, mailbox, slot)

        def on_trial_complete(self, **info: Any) -> None:
            driver.left(info["trial"].config["slot"])

        def on_trial_error(self, **info: Any) -> None:
            _slot_died(driver, info["trial"])

        def on_step_begin(self, **_: Any) -> None:
            answer.require()
            if driver.leaving and time.monotonic() - self._reminded > REMIND_SECONDS:
                self._reminded = time.monotonic()
                _deliver(driver, mailbox, *driver.open_slots)

        def __reduce__(self) -> tuple[Any, ...]:
            return (Callback, ())

    return Listener()


def _slot_died(driver: Driver, trial: Any) -> None:
    """Report the death of a slot's process to the driver."""
    text = trial.get_error() or "the process died"
    memory = "OutOfMemory" in text or "low on memory" in text
    driver.died(trial.config["slot"], _reason(text), out_of_memory=memory)


def _reason(text: str) -> str:
    """The most informative line of a Ray error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and ":" in line]
    return (named or lines)[-1][:500]
