"""Results → figures and sentences as a person reads them, the same in every room that tells them.

    figures      number, percent, score, points       2.35   99.961%   63.2%   -0.004
    names        runner_name, speed_words             ort fp16 on cuda:0   a tie with …
    sentences    summary_lines                        one for each backend: masks first, then speed
    commands     verb_command, repeat_commands        what to type to make or repeat a result

A figure is never said better than it is: what is not all of it never reads ``100%``, a tie is
called a tie, and speed without proven masks is named as such.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePath

from fcn_deploy.core.run import DEFAULT_RUN, MODEL_SUFFIXES, command_suffix
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import Bench
from fcn_deploy.results.bisect import Bisection
from fcn_deploy.results.device import DeviceTier
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.results import Results
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Training

#: How result files call the built-in scenes, and the validation images of a folder.
SCENES, VALIDATION = "built-in synthetic scenes", " (val)"
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
    seen |= {bisection.candidate_precision for bisection in results.bisections}
    precisions = sorted(seen | {"fp32"})
    commands += [f"fcn-deploy export{run}{_precision_flag(p)}" for p in reversed(precisions)]
    proofs = _proof_commands(results, results.comparisons, results.benches, results.bisections)
    verbs = {command.split()[1] for command in proofs}
    if "parity" not in verbs:
        commands.append(f"fcn-deploy parity{run}")
    commands += proofs
    if "bench" not in verbs:
        commands.append(f"fcn-deploy bench{run}")
    return [*dict.fromkeys(commands), f"fcn-deploy report{run}"]


def _commands_of_files(results: Results) -> list[str]:
    commands: list[str] = []
    machines = {results.machine_of(entry): entry for entry in reversed(results.environments)}
    for machine, environment in reversed(machines.items()):

        def here(
            result: Training | Comparison | Bench | Bisection | DeviceTier, machine: int = machine
        ) -> bool:
            return results.machine_of(result.environment) == machine

        commands += [
            f"# on {_one_line(results.machine_label(environment))}",
            *(_train_command(t, _out_option(t)) for t in results.trainings if here(t)),
            *_proof_commands(
                results,
                [c for c in results.comparisons if here(c)],
                [b for b in results.benches if here(b)],
                [b for b in results.bisections if here(b)],
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
    comparisons: Iterable[Comparison],
    benches: Iterable[Bench],
    bisections: Iterable[Bisection],
) -> list[str]:
    commands = [_typed_parity(results, c) or _guessed_parity(results, c) for c in comparisons]
    commands += [_typed_parity(results, b) or _guessed_bisect(results, b) for b in bisections]
    commands += [_bench_command(results, bench) for bench in benches]
    return list(dict.fromkeys(commands))


def _typed_parity(results: Results, result: Comparison | Bisection) -> str | None:
    """Return the command that made a result of `parity`, as it was typed; None if not known."""
    if result.arguments is None or result.options is None:
        return None
    arguments = _shell_words(result.arguments)
    # Saved outputs and a single model file are no run: they stay as they were named.
    names_run = not any(word.endswith((*MODEL_SUFFIXES, ".json")) for word in result.arguments)
    if names_run and not results.files:  # it may lie elsewhere by now
        arguments = results.run_argument
    return f"fcn-deploy parity{arguments}{_shell_words(result.options)}"


def _guessed_parity(results: Results, comparison: Comparison) -> str:
    """Return the command of a file that does not say it, from what it holds."""
    candidate, reference = comparison.candidate, comparison.reference
    # Of outputs that were saved elsewhere the reference says nothing of this run.
    live = comparison.reference_machine is None
    run = _run_of(results, candidate.file, *([reference.file] if live else []))
    pictures = _pictures_option(comparison.source)
    return f"fcn-deploy parity{run}{_runner_options(candidate)}{pictures}"


def _guessed_bisect(results: Results, bisection: Bisection) -> str:
    """Return the command of a file that does not say it, from what it holds."""
    flag = _precision_flag(bisection.candidate_precision)
    flag = "" if bisection.candidate_precision == Precision.FP16 else flag  # it is --bisect's own
    return (
        f"fcn-deploy parity{_bisected(results, bisection)}{flag} --bisect"
        f"{_pictures_option(bisection.source)}"
    )


def _bisected(results: Results, bisection: Bisection) -> str:
    """Return the argument that names a bisection's candidate: the run's own file, or another."""
    file = PurePath(bisection.candidate_file)
    if file.name == f"model.{bisection.candidate_precision}.onnx":
        return _run_of(results, bisection.candidate_file)
    return f" {shlex.quote(str(file))}"


def _pictures_option(source: str) -> str:
    """Return the option that names pictures, from how a result file calls them."""
    if source.startswith(SCENES):
        return " --data synthetic"
    if source.endswith(VALIDATION):
        return f" --data {shlex.quote(source.removesuffix(VALIDATION))}"
    return f" --images {shlex.quote(source)}"


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
