"""RayEngine: a job's pictures on the workers of a Ray cluster, one actor for each device.

Ray restarts and retries nothing: that is decided in :mod:`fcn_deploy.predict.dispatch`.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import BackendError, FcnDeployError, InputError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.predict.dispatch import ATTEMPTS_ALONE, WorkerLostError, dispatched
from fcn_deploy.predict.engine import Engine, Found, LocalEngine, Outcome, Record, Work, failed
from fcn_deploy.predict.items import FileItem, Item
from fcn_deploy.predict.masks_on_disk import MasksOnDisk
from fcn_deploy.predict.stream import Failed, FiniteCheck
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Runner

#: Opens a runner in a worker, with so many CPU threads; the stack closes what else is opened.
Opener = Callable[[ExitStack, int | None], tuple[Runner, FiniteCheck]]
#: Seconds for which the first worker waits for its place.
_START_SECONDS = 600
#: A local cluster's object store, near its least size: pictures and masks never go through it.
_STORE_BYTES = 80_000_000


def require_ray() -> None:
    """Import Ray, its telemetry off, or say what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require_extra("--engine ray", "ray", "ray")


def require_files(items: Sequence[Item]) -> None:
    """Refuse pictures that a worker could not open by their names, such as members of archives."""
    for item in items:
        if type(item) is not FileItem:
            raise InputError(
                f"{item.name} is no file of its own, and --engine ray takes such alone",
                "unpack the archive, or share the work out with --shard I/N",
            )


def plan(
    nodes: Sequence[Mapping[str, float]], workers: int | None = None, gpu: bool | None = None
) -> tuple[int, int, int]:
    """Return how many workers there are, and of each its CPUs and its GPUs.

    Args:
        nodes: each of so many ``CPU`` and ``GPU``.
        workers: how many; None: one for each GPU, or for each node where none is used.
        gpu: whether each has a GPU; None: where there are any.
    """
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
    gpu = bool(with_gpu) if gpu is None else gpu
    kind = "GPU" if gpu else "CPU"
    nodes = with_gpu if gpu else [node for node in nodes if node.get("CPU", 0) >= 1]
    room = sum(int(node[kind]) for node in nodes)
    if not room:
        raise BackendError(f"the Ray cluster has no {kind}", "choose another --backend")
    workers = workers or (room if gpu else len(nodes))
    if workers > room:
        raise InputError(
            f"--workers {workers} is too many for {room} {kind}s", f"give at most {room}"
        )
    cpus = min(int(node.get("CPU", 0)) for node in nodes) // -(-workers // len(nodes))
    return workers, max(1, cpus), int(gpu)


class _Actor:
    """The worker on its node; errors are returned, since Ray changes those that are raised."""

    def name(self) -> str:
        """Return what it is called, once it has its place."""
        return f"{platform.node()}-{os.getpid()}"

    def open(
        self, opener: Opener, folder: Path, threads: int | None, batch_size: int
    ) -> tuple[ModelSpec, RunnerDescription] | FcnDeployError:
        """Open the runner."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        self._stack = ExitStack()
        try:
            os.chdir(folder)  # names of files are those that were typed
            runner, check = opener(self._stack, threads)
            self._engine = LocalEngine(runner, batch_size, check)
            return runner.spec, runner.describe()
        except (OSError, FcnDeployError) as error:
            return self._sent(error)

    def outcomes(self, work: Work) -> list[Outcome] | FcnDeployError:
        """Do a block."""
        own = work.unfinished / self.name()
        try:
            own.mkdir(exist_ok=True)
            return list(self._engine.outcomes(replace(work, unfinished=own), lambda outcome: None))
        except (OSError, FcnDeployError) as error:
            return self._sent(error)

    def _sent(self, error: OSError | FcnDeployError) -> BackendError:
        """Return the error as one that can be sent."""
        if isinstance(error, FcnDeployError):
            return BackendError(f"worker {self.name()}: {error.message}", error.repair)
        return BackendError(
            f"worker {self.name()} does not find {error.filename} ({error.strerror})",
            "start predict in a folder that all nodes share, with --out in such a one",
        )


class RayEngine(Engine, AbstractContextManager["RayEngine"]):
    """Workers on a Ray cluster; once entered, the first of them is open.

    Args:
        opener: is sent to the workers, which import what it names.
        address: of the cluster; None: one is started here, and ended with the job.
        workers, gpu: see :func:`plan`.
        threads: CPU threads of each worker; None: its share of the CPUs.
        batch_size: most pictures to segment at once.
    """

    def __init__(
        self,
        opener: Opener,
        address: str | None,
        workers: int | None,
        gpu: bool | None,
        threads: int | None,
        batch_size: int,
    ) -> None:
        self._opener, self._address = opener, address
        self._asked = workers, gpu
        self._threads, self._batch_size = threads, batch_size
        self._actors: set[Any] = set()
        self.lost: list[str] = []

    def __enter__(self) -> RayEngine:
        require_ray()
        import ray

        self._ray: Any = ray
        self._connect()
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.plan = plan(nodes, *self._asked)
            self._first: _Worker | None = self._started()
            if not ray.wait([self._first.placed], timeout=_START_SECONDS)[0]:
                raise _no_room()
            opened = self.answer_of(self._first)
            if isinstance(opened, FcnDeployError):
                raise opened
            self.spec = opened[0]
            self._description: RunnerDescription = opened[1]
        except WorkerLostError as lost:
            self.__exit__()
            raise BackendError(f"no worker lives: {lost}", "look into Ray's logs") from lost
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end_workers()
        self._ray.shutdown()

    def _end_workers(self) -> None:
        while self._actors:
            self._ray.kill(self._actors.pop())

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        try:
            if self._address is not None and "://" in self._address:
                raise ValueError("that is for clients outside the cluster")
            self._ray.init(address=self._address or "local", **options)
        except Exception as error:  # of many kinds
            raise BackendError(
                f"no Ray cluster at {self._address or 'this machine'} ({str(error)[:200]})",
                "give --address HOST:PORT of `ray start --head`, or auto on one of its nodes",
            ) from error

    def describe(self) -> RunnerDescription:
        """Describe the first worker's runner."""
        return self._description

    def _started(self) -> _Worker:
        _, cpus, gpus = self.plan
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = self._ray.remote(_Actor).options(scheduling_strategy="SPREAD", **options).remote()
        self._actors.add(actor)
        placed, threads = actor.name.remote(), self._threads or (None if gpus else cpus)
        opening = actor.open.remote(self._opener, Path.cwd(), threads, self._batch_size)
        return _Worker(self, actor, placed, opening)

    def answer_of(self, worker: _Worker) -> Any:
        """Return what a worker's last call gave.

        Raises:
            WorkerLostError: it has died.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            return self._ray.get(worker.answer)
        except RayTaskError:  # a bug
            raise
        except RayError as error:
            raise self.lost_with(worker, _how(error)) from error

    def lost_with(self, worker: _Worker, how: str) -> WorkerLostError:
        """End a worker for good, and return the error that tells of it."""
        self.lost.append(how)
        self._actors.discard(worker.actor)
        self._ray.kill(worker.actor)
        return WorkerLostError(how)

    def outcomes(self, work: Work, record: Record, found: Found) -> Generator[Outcome, None, None]:
        """Do the work; outcomes come in no order, and are recorded here."""
        self.work = work
        sink = MasksOnDisk(work.out, work.masks, self.spec.palette)

        def start() -> _Worker:
            first, self._first = self._first, None
            return first or self._started()

        def wait(workers: Sequence[_Worker]) -> _Worker:
            answers = {worker.answer: worker for worker in workers}
            while not (ready := self._ray.wait(list(answers), timeout=_START_SECONDS)[0]):
                # One that computes has its place; a cluster that lost its nodes has none for any.
                if not self._ray.wait([worker.placed for worker in workers], timeout=0)[0]:
                    raise _no_room()
            return answers[ready[0]]

        def killed(place: int, how: str) -> Outcome:
            error = BackendError(
                f"{work.items[place].name} ended its worker {ATTEMPTS_ALONE} times while no other "
                f"picture was in work ({how})",
                "shrink or replace the picture, or give the worker more memory",
            )
            sink.write_or_fail(Failed(place, error))  # removes a mask of an earlier run
            return failed(place, work.items[place], error)

        try:
            for outcome in dispatched(
                len(work.items), self.plan[0], start, wait, found, killed
            ):  # fmt: skip
                record(outcome)
                yield outcome
        finally:
            self._end_workers()
            for folder in work.unfinished.glob("*/"):  # of workers
                shutil.rmtree(folder, ignore_errors=True)


def _no_room() -> BackendError:
    return BackendError(
        f"the Ray cluster had no room for a worker in {_START_SECONDS} seconds",
        "look at `ray status`, or give another number of --workers; --resume goes on",
    )


class _Worker:
    """An actor as the dispatch asks it."""

    def __init__(self, engine: RayEngine, actor: Any, placed: Any, opening: Any) -> None:
        self._engine = engine
        self.actor = actor
        self.placed, self.answer = placed, opening
        self._places: Sequence[int] | None = None

    def begin(self, places: Sequence[int]) -> None:
        work, self._places = self._engine.work, places
        items, masks = [work.items[p] for p in places], [work.masks[p] for p in places]
        self.answer = self.actor.outcomes.remote(replace(work, items=items, masks=masks))

    def result(self) -> Sequence[Outcome]:
        answer = self._engine.answer_of(self)
        if self._places is None:  # of one node alone: the others go on
            if isinstance(answer, FcnDeployError):
                raise self._engine.lost_with(self, answer.message)
            if answer[1].digest != self._engine.describe().digest:
                raise self._engine.lost_with(self, f"its {answer[1].file} is another one")
            return ()
        if isinstance(answer, FcnDeployError):
            raise answer
        return [replace(outcome, place=self._places[outcome.place]) for outcome in answer]


def _how(error: Exception) -> str:
    """Return in a few words how a worker ended, of Ray's many."""
    lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
    told = dict(line.split(": ", 1) for line in lines if line.startswith(("pid: ", "ip: ")))
    if "pid" in told:
        return f"process {told['pid']} on {told.get('ip')} died"
    return lines[-1 if getattr(error, "actor_init_failed", False) else 0]
