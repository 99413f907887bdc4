"""What result files say, as frozen values: figures as they were written, never computed anew.

    Results ─┬─ training     Training (epochs, splits)
             ├─ parity_files ParityFile ─▶ Comparison (checks, flips, pictures)
             ├─ evaluations  EvaluationFile ─▶ Evaluation (scores, confusion)
             ├─ benches      Bench ─▶ BenchRow (one measured case), ColdStart, Conditions
             ├─ bisect_files BisectFile ─▶ Bisection ─▶ Layer
             ├─ devices      DeviceTier ─▶ DeviceRow
             └─ preview      Path

All of them newest last.  Each knows its `Environment`: which file of which machine it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.results.bench import Bench
from fcn_deploy.results.bisect import BisectFile, Bisection
from fcn_deploy.results.device import DeviceTier
from fcn_deploy.results.environment import IDENTITY, Environment
from fcn_deploy.results.evaluation import EvaluationFile
from fcn_deploy.results.parity import Comparison, ParityFile
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Training

_PREFIX = {"python": "Python "}
_UNIT = {"memory_gib": " GiB"}


@dataclass(frozen=True)
class Results:
    """Everything that result files say: those of a run, or several of anywhere.

    Attributes:
        name: of the run, for the title.
        run_argument: the RUN argument as typed in a shell, with a leading space, or empty.
        out_option: the same as an option of ``train``.
        files: where single files were given: these, as given; empty for a run.
        trainings: newest last; a run has one at most.
        preview: the grid image | prediction | truth, if there.
        parity_files: newest last.
        evaluations: newest last.
        benches: newest last.
        bisect_files: newest last.
        devices: newest last.
        checkpoint_digest: of the checkpoint that lies in the run now, if there is one.
    """

    name: str
    run_argument: str = ""
    out_option: str = ""
    files: tuple[str, ...] = ()
    trainings: tuple[Training, ...] = ()
    preview: Path | None = None
    parity_files: tuple[ParityFile, ...] = ()
    evaluations: tuple[EvaluationFile, ...] = ()
    benches: tuple[Bench, ...] = ()
    bisect_files: tuple[BisectFile, ...] = ()
    devices: tuple[DeviceTier, ...] = ()
    checkpoint_digest: str | None = None

    @property
    def training(self) -> Training | None:
        """The newest training, if there is one."""
        return self.trainings[-1] if self.trainings else None

    @property
    def compared(self) -> tuple[tuple[ParityFile, Comparison], ...]:
        """Every comparison with the file that it stands in."""
        return tuple((file, one) for file in self.parity_files for one in file.comparisons)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every comparison, those of the newest file last."""
        return tuple(comparison for _file, comparison in self.compared)

    @property
    def bisections(self) -> tuple[Bisection, ...]:
        """Every bisection, the newest last."""
        return tuple(file.bisection for file in self.bisect_files)

    @property
    def environments(self) -> tuple[Environment, ...]:
        """Of every file that was read, each file once."""
        found = [training.environment for training in self.trainings]
        found += [file.environment for file in self.parity_files]
        found += [file.environment for file in self.evaluations]
        found += [bench.environment for bench in self.benches]
        found += [file.environment for file in self.bisect_files]
        found += [device.environment for device in self.devices]
        return tuple({environment.file: environment for environment in found}.values())

    @property
    def proving_environments(self) -> tuple[Environment, ...]:
        """Of the files that masks and speed come from, each file once: training may be anywhere."""
        found = [file.environment for file in self.parity_files]
        found += [bench.environment for bench in self.benches]
        return tuple({environment.file: environment for environment in found}.values())

    @property
    def runners(self) -> tuple[RunnerDescription, ...]:
        """Every mention of one: of each comparison its reference and candidate, then the rows."""
        compared = [r for c in self.comparisons for r in (c.reference, c.candidate)]
        evaluated = [row.runner for file in self.evaluations for row in file.rows]
        measured = [row.runner for bench in self.benches for row in bench.rows]
        return (*compared, *evaluated, *measured)

    @property
    def several_machines(self) -> bool:
        """Whether masks and speed come from more than one machine, or Python."""
        return len({self.machine_of(entry) for entry in self.proving_environments}) > 1

    def machine_of(self, environment: Environment) -> int:
        """Return a number that is the same for all environments of one machine and Python."""
        return next(
            number
            for number, entry in enumerate(self.environments)
            if entry.same_machine(environment)
        )

    def machine_label(self, environment: Environment) -> str:
        """Return a machine's name, with what tells it from another one of the same name."""
        alike = [e for e in self.proving_environments if e.machine_name == environment.machine_name]
        telling = [
            f"{_PREFIX.get(name, '')}{environment.property(name)}{_UNIT.get(name, '')}"
            for name in IDENTITY
            if environment.property(name) and len({entry.property(name) for entry in alike}) > 1
        ]
        return ", ".join([environment.machine_name, *telling])

    def is_stale(self, runner: RunnerDescription) -> bool:
        """Whether a figure belongs to another checkpoint than the one in the run."""
        current = self.checkpoint_digest
        return current is not None and runner.checkpoint_digest != current
