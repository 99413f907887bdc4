"""The shell commands that make results, or make them again: as they were typed, in order.

Every result file says which words were typed; one that a program wrote, and no command, gets a
note in their place.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePath

from fcn_deploy.core.run import DEFAULT_RUN, MODEL_SUFFIXES, command_suffix
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import Bench
from fcn_deploy.results.bisect import BisectFile
from fcn_deploy.results.device import DeviceTier
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.evaluation import EvaluationFile
from fcn_deploy.results.parity import ParityFile
from fcn_deploy.results.results import Results
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Training

#: What stands for the RUN argument where it is not known: an engine lies among those of other
#: runs, and does not say which one it stems from.
_UNKNOWN_RUN = "RUN"
_ENGINE_SUFFIX = ".plan"


def verb_command(verb: str, results: Results, runner: RunnerDescription) -> str:
    """Return the shell command that runs ``parity`` or ``bench`` for one runner."""
    return f"fcn-deploy {verb}{_run_of(results, runner.file)}{_runner_options(runner)}"


def _runner_options(runner: RunnerDescription) -> str:
    return f" --backend {shlex.quote(runner.backend)}{_precision_flag(runner.precision)}"


def _shell_words(words: Iterable[str]) -> str:
    """Return words as they are typed, each led by a space."""
    return "".join(f" {shlex.quote(word)}" for word in words)


def _run_of(results: Results, *files: str) -> str:
    """Return the RUN argument: of a lone result file, the folder of its model as it was there.

    Args:
        results: where it is asked for.
        files: model files of the run; the first that is no engine says where it lies.
    """
    if not results.files:
        return results.run_argument
    models = [PurePath(file) for file in files if PurePath(file).suffix != _ENGINE_SUFFIX]
    if not models:
        return f" {_UNKNOWN_RUN}"
    return command_suffix(models[0].parent)


def _precision_flag(precision: str) -> str:
    known = {known.value: known.flag for known in Precision}
    return known.get(precision, f" --{precision}")


def repeat_commands(results: Results) -> list[str]:
    """Return the shell commands that make all of this again, in order; notes begin with ``#``."""
    if results.files:
        return _commands_of_files(results)
    run = results.run_argument
    out, training = results.out_option, results.training
    commands = [f"fcn-deploy train{out}" if training is None else _train_command(training, out)]
    seen = {runner.precision for runner in results.runners}
    seen |= {bisection.candidate.precision for bisection in results.bisections}
    precisions = sorted(seen | {"fp32"})
    commands += [f"fcn-deploy export{run}{_precision_flag(p)}" for p in reversed(precisions)]
    proofs = _proof_commands(results, _compared(results), results.benches)
    verbs = {command.split()[1] for command in proofs}
    if "parity" not in verbs:
        commands.append(f"fcn-deploy parity{run}")
    commands += proofs
    if "bench" not in verbs:
        commands.append(f"fcn-deploy bench{run}")
    return [*dict.fromkeys(commands), f"fcn-deploy report{run}"]


def _compared(results: Results) -> list[ParityFile | BisectFile | EvaluationFile]:
    return [*results.parity_files, *results.bisect_files, *results.evaluations]


def _commands_of_files(results: Results) -> list[str]:
    commands: list[str] = []
    machines = {results.machine_of(entry): entry for entry in reversed(results.environments)}
    for machine, environment in reversed(machines.items()):

        def here(
            result: Training | ParityFile | EvaluationFile | Bench | BisectFile | DeviceTier,
            machine: int = machine,
        ) -> bool:
            return results.machine_of(result.environment) == machine

        commands += [
            f"# on {_one_line(results.machine_label(environment))}",
            *(_train_command(t, _out_option(t)) for t in results.trainings if here(t)),
            *_proof_commands(
                results,
                [file for file in _compared(results) if here(file)],
                [b for b in results.benches if here(b)],
            ),
            *(_device_command(d) for d in results.devices if here(d)),
        ]
    files = "".join(f" {shlex.quote(file)}" for file in results.files)
    return [*commands, "# wherever these files are", f"fcn-deploy report{files}"]


def _device_command(device: DeviceTier) -> str:
    file, precision = shlex.quote(str(device.environment.file)), device.runner.precision
    return f"python benchmarks/gpu/device_tier.py {_UNKNOWN_RUN} {precision} {file}"


def _out_option(training: Training) -> str:
    return f" --out {shlex.quote(str(PurePath(training.environment.file).parent))}"


def _one_line(text: str) -> str:
    # A note in a shell ends with its line: what follows would be run.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _proof_commands(
    results: Results,
    compared: Iterable[ParityFile | BisectFile | EvaluationFile],
    benches: Iterable[Bench],
) -> list[str]:
    commands = [_comparing_command(results, file) for file in compared]
    commands += [_bench_command(results, bench) for bench in benches]
    return list(dict.fromkeys(commands))


def _comparing_command(results: Results, file: ParityFile | BisectFile | EvaluationFile) -> str:
    if file.arguments is None or file.options is None:
        return _note(file.environment)
    arguments = _shell_words(file.arguments)
    # Saved outputs and a single model file are no run: they stay as they were named.
    names_run = not any(word.endswith((*MODEL_SUFFIXES, ".json")) for word in file.arguments)
    if names_run and not results.files:  # it may lie elsewhere by now
        arguments = results.run_argument
    verb = "evaluate" if isinstance(file, EvaluationFile) else "parity"
    return f"fcn-deploy {verb}{arguments}{_shell_words(file.options)}"


def _note(environment: Environment) -> str:
    return f"# {_one_line(environment.file)} was written by a program, not by a command"


def _train_command(training: Training, out_option: str) -> str:
    return f"fcn-deploy train{out_option}{_shell_words(training.options)}"


def _bench_command(results: Results, bench: Bench) -> str:
    files = [row.runner.file for row in bench.rows]
    run = _run_of(results, *files) if files else results.run_argument
    if any(row.is_peer for row in bench.rows):
        command = f"make bench RUN={run.strip() or DEFAULT_RUN}"
        # Read by make, where a dollar begins a variable, then by its shell.
        flags = shlex.join(bench.options).replace("$", "$$")
        return f"{command} BENCH_FLAGS={shlex.quote(flags)}" if flags else command
    return f"fcn-deploy bench{run}{_shell_words(bench.options)}"
