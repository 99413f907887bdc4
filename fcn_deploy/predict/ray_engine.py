"""RayEngine: a job's pictures on the workers of a Ray cluster, one actor for each device.

An actor opens one runner and runs our own pipeline on each block of pictures.  Ray restarts and
retries nothing: what a worker's death means is decided by :mod:`fcn_deploy.predict.dispatch`.
Ray's telemetry and its dashboard are off.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, BackendError, FcnDeployError, InputError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.predict.dispatch import (
    ATTEMPTS_ALONE,
    Crew,
    WorkerLostError,
    block_size,
    dispatched,
)
from fcn_deploy.predict.engine import Engine, Found, LocalEngine, Outcome, Record, Work, failed
from fcn_deploy.predict.items import FileItem, Item
from fcn_deploy.predict.masks_on_disk import MasksOnDisk
from fcn_deploy.predict.stream import Failed, FiniteCheck
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Runner

#: Opens a runner in a worker, with so many CPU threads; the stack closes what else is opened.
Opener = Callable[[ExitStack, int | None], tuple[Runner, FiniteCheck]]
#: Seconds for which a worker collects outcomes before it sends them.
_ANSWER_SECONDS = 0.5
#: Seconds that the first worker may wait for its place in the cluster.
_START_SECONDS = 600.0
#: Bytes of a local cluster's object store, about its least: pictures and masks never go through it.
_STORE_BYTES = 80_000_000


def require_ray() -> None:
    """Import Ray.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require_extra("--engine ray", "ray", "ray")


def require_files(items: Sequence[Item]) -> None:
    """Refuse pictures that a worker could not open by their names.

    Raises:
        InputError: one is a member of an archive, for example.
    """
    for item in items:
        if type(item) is not FileItem:
            raise InputError(
                f"{item.name} is no file of its own, and --engine ray takes such alone",
                "unpack the archive, or share the work out with --shard I/N",
            )


@dataclass(frozen=True)
class RayOptions:
    """Which cluster, and how much of it.

    Attributes:
        address: of a cluster that runs already, ``auto`` for the one of this machine; None: a
            cluster of this machine alone is started, and ended with the job.
        workers: how many; None: one for each GPU, or for each node where none is used.
        gpu: whether each worker has a GPU; None: where the cluster has any.
        threads: CPU threads of each worker; None: its share of the CPUs.
        batch_size: most pictures to segment at once.
    """

    address: str | None = None
    workers: int | None = None
    gpu: bool | None = None
    threads: int | None = None
    batch_size: int = 1


@dataclass(frozen=True)
class _Opened:
    """A worker's runner."""

    spec: ModelSpec
    description: RunnerDescription

    @property
    def model(self) -> tuple[str, str, str]:
        """What has to be the same in all workers."""
        found = self.description
        return found.backend, found.precision, found.digest


class _Actor:
    """The worker on its node."""

    def __init__(self, opener: Opener, folder: str, threads: int | None, batch_size: int) -> None:
        self._opener = opener
        self._folder = folder
        self._threads = threads
        self._batch_size = batch_size
        self._stack = ExitStack()

    def where(self) -> str:
        """Return a name of the process, unlike that of any other."""
        return f"{os.uname().nodename}-{os.getpid()}"

    def open(self) -> _Opened | FcnDeployError:
        """Open the runner; what is wrong is returned, since errors may be changed on their way."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            try:
                os.chdir(self._folder)  # names of files are those that were typed
            except OSError as error:
                raise ArtifactError(
                    f"the folder {self._folder} is not there ({error.strerror})",
                    "start predict in a folder that all nodes have",
                ) from error
            runner, finite = self._opener(self._stack, self._threads)
            self._engine = LocalEngine(runner, self._batch_size, finite)
            return _Opened(runner.spec, runner.describe())
        except FcnDeployError as error:
            return BackendError(f"worker {self.where()}: {error.message}", error.repair)

    def outcomes(
        self, work: Work, places: Sequence[int]
    ) -> Iterator[Sequence[Outcome] | FcnDeployError]:
        """Do a block; what concerns all pictures comes last."""
        own = work.unfinished / self.where()
        some: list[Outcome] = []
        sent = time.monotonic()
        try:
            _make_folder(own)
            block = replace(work, unfinished=own)
            with closing(self._engine.outcomes(block, lambda outcome: None)) as outcomes:
                for outcome in outcomes:
                    some.append(replace(outcome, place=places[outcome.place]))
                    if time.monotonic() - sent > _ANSWER_SECONDS:
                        yield some
                        some, sent = [], time.monotonic()
            yield some
        except FcnDeployError as error:
            yield some
            yield _that_travels(error)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"worker {folder.name} does not find {folder.parent.parent} as it is on the node where "
            f"predict was started ({error.strerror})",
            "choose an --out on a file system that all nodes share",
        ) from error


def _that_travels(error: FcnDeployError) -> FcnDeployError:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its arguments are not those that it was made with
        return FcnDeployError(error.message, error.repair)
    return error


class RayEngine(Engine, AbstractContextManager["RayEngine"]):
    """Workers on a Ray cluster; entered, it has joined the cluster and its first worker is open.

    Args:
        opener: opens a runner; it is sent to the workers, which import what it names.
        options: which cluster, and how much of it.
        say: is told what is waited for.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: there is no such cluster, or no worker can be opened.
        InputError: the cluster has no room for so many workers.
    """

    def __init__(self, opener: Opener, options: RayOptions, say: Callable[[str], None]) -> None:
        self._opener = opener
        self._options = options
        self._say = say
        self._ours = False
        self._actors: set[Any] = set()
        self._stopped = False
        self._lock = threading.Lock()
        self._deaths: list[str] = []

    def __enter__(self) -> RayEngine:
        require_ray()
        import ray

        self._ray: Any = ray
        self._connect()
        try:
            self._plan()
            self._first: tuple[Any, _Opened] | None = self._start()
            self._opened = self._first[1]
        except WorkerLostError as lost:
            self.__exit__()
            raise BackendError(
                f"no worker can be started: {lost}", "look into Ray's logs"
            ) from lost
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._ours:
            self._ray.shutdown()

    def _connect(self) -> None:
        address, ray = self._options.address, self._ray
        if address is not None and "://" in address:
            raise InputError(
                f"--address {address} is that of a client outside the cluster",
                "start predict on a node of the cluster, with --address auto",
            )
        if ray.is_initialized():
            return
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            quiet |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        try:
            ray.init(address=address or "local", **quiet)
        except Exception as error:  # of many kinds
            raise BackendError(
                f"there is no Ray cluster at {address}"
                if address
                else f"Ray cannot be started ({' '.join(str(error).split())[:200]})",
                "start one with `ray start --head`, or drop --address",
            ) from error
        self._ours = True

    def _plan(self) -> None:
        """Decide how many workers there are, and what each takes of its node."""
        options = self._options
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
        self._gpu = options.gpu or (options.gpu is None and bool(with_gpu))
        nodes = with_gpu if self._gpu else [node for node in nodes if node.get("CPU", 0) >= 1]
        kind = "GPU" if self._gpu else "CPU"
        room = sum(int(node[kind]) for node in nodes)
        if not room:
            raise BackendError(f"the Ray cluster has no {kind}", "choose another --backend")
        self.workers = options.workers or (room if self._gpu else len(nodes))
        if self.workers > room:
            raise InputError(
                f"--workers {self.workers} is too many for {room} {kind}s", f"give at most {room}"
            )
        on_a_node = -(-self.workers // len(nodes))
        share = min(
            int(node.get("CPU", 0)) // (int(node["GPU"]) if self._gpu else on_a_node)
            for node in nodes
        )
        self._cpus = max(0 if self._gpu else 1, share)
        self._threads = options.threads or (None if self._gpu else self._cpus)
        self._say(
            f"ray: workers {self.workers}, CPUs of each {self._cpus}, GPUs of each "
            f"{int(self._gpu)}, nodes {len(nodes)}"
        )

    def _start(self) -> tuple[Any, _Opened]:
        """Bring a worker to life.

        Raises:
            WorkerLostError: it has died, or all were stopped.
        """
        ray = self._ray
        arguments = self._opener, os.getcwd(), self._threads, self._options.batch_size  # noqa: PTH109
        kind = ray.remote(_Actor).options(
            num_cpus=self._cpus,
            num_gpus=int(self._gpu),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        with self._lock:
            if self._stopped:
                raise WorkerLostError("all were stopped")
            actor = kind.remote(*arguments)
            self._actors.add(actor)
        is_first = not hasattr(self, "_opened")
        with self.losses(actor):
            try:
                ray.get(actor.where.remote(), timeout=_START_SECONDS if is_first else None)
            except ray.exceptions.GetTimeoutError as error:
                raise BackendError(
                    f"the Ray cluster had no room for a worker in {_START_SECONDS:.0f} seconds",
                    "look at `ray status`, or give another number of --workers",
                ) from error
            opened = ray.get(actor.open.remote())
        if not is_first and isinstance(opened, _Opened) and opened.model != self._opened.model:
            opened = BackendError(
                f"a worker has opened {opened.model} in place of {self._opened.model}",
                "give all nodes the same run",
            )
        if isinstance(opened, FcnDeployError):
            self.lost(actor, opened.message)
            raise opened
        return actor, opened

    def losses(self, actor: Any) -> AbstractContextManager[None]:
        """Return a block in which Ray's errors mean that a worker was lost; it is ended then."""
        return _Losses(self, actor)

    def lost(self, actor: Any, reason: str) -> None:
        """Make sure that a worker has ended, and count it."""
        with self._lock:
            self._actors.discard(actor)
            if not self._stopped:
                self._deaths.append(reason)
        with suppress(Exception):
            self._ray.kill(actor)

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            self._stopped = True
            actors, self._actors = self._actors, set()
        for actor in actors:
            with suppress(Exception):  # it has ended
                self._ray.kill(actor)

    @property
    def spec(self) -> ModelSpec:
        """That of the first worker."""
        return self._opened.spec

    def describe(self) -> RunnerDescription:
        """Describe the first worker's runner."""
        return self._opened.description

    def notes(self) -> list[str]:
        """Say how many workers were lost."""
        lost = self._deaths
        return [f"{len(lost)} workers were lost, the last: {lost[-1]}"] if lost else []

    def outcomes(self, work: Work, record: Record, found: Found) -> Generator[Outcome, None, None]:
        """Do the work; outcomes come in no order, and are recorded here."""
        sink = MasksOnDisk(work.out, work.masks, self.spec.palette)

        def start() -> _RayWorker:
            with self._lock:
                first, self._first = self._first, None
            try:
                return _RayWorker(self, (first or self._start())[0], work)
            except FcnDeployError as error:  # of one node: the others go on
                raise WorkerLostError(error.message) from error

        def killed(place: int, reason: str) -> Outcome:
            error = BackendError(
                f"{work.items[place].name} ended its worker {ATTEMPTS_ALONE} times while no other "
                f"picture was in work ({reason})",
                "shrink or replace the picture, or give the worker more memory",
            )
            sink.write_or_fail(Failed(place, error))  # removes a mask of an earlier run
            return failed(place, work.items[place], error)

        size = block_size(len(work.items), self.workers, self._options.batch_size)
        crew = Crew(self.workers, start, self.stop)
        try:
            with closing(dispatched(len(work.items), size, crew, found, killed)) as outcomes:
                for outcome in outcomes:
                    record(outcome)
                    yield outcome
        finally:
            for folder in work.unfinished.glob("*/"):  # of workers
                shutil.rmtree(folder, ignore_errors=True)


class _Losses(AbstractContextManager[None]):
    def __init__(self, engine: RayEngine, actor: Any) -> None:
        self._engine = engine
        self._actor = actor

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        from ray.exceptions import RayError, RayTaskError

        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            reason = _reason(error)
            self._engine.lost(self._actor, reason)
            raise WorkerLostError(reason) from error


def _reason(error: BaseException) -> str:
    """Return in a few words how a worker died, of Ray's many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if getattr(error, "actor_init_failed", False):
        return lines[-1]  # of a traceback
    told = dict(line.split(": ", 1) for line in lines if line.startswith(("pid: ", "ip: ")))
    place = f"process {told['pid']} on {told.get('ip')} " if "pid" in told else ""
    if "memory" in type(error).__name__.lower():
        return f"{place}took more memory than its node has"
    return f"{place}ended unexpectedly" if place else lines[0]


class _RayWorker:
    """An actor as the dispatch asks it."""

    def __init__(self, engine: RayEngine, actor: Any, work: Work) -> None:
        self._engine = engine
        self._actor = actor
        self._work = work

    def outcomes(self, places: Sequence[int]) -> Iterator[Sequence[Outcome]]:
        """Do a block on the node."""
        import ray

        items = [self._work.items[place] for place in places]
        masks = [self._work.masks[place] for place in places]
        block = replace(self._work, items=items, masks=masks)
        with self._engine.losses(self._actor):
            for answer in self._actor.outcomes.remote(block, list(places)):
                some: Sequence[Outcome] | FcnDeployError = ray.get(answer)
                if isinstance(some, FcnDeployError):
                    raise some
                yield some
