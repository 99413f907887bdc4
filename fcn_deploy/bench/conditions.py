"""What the machine did while figures were taken, and why to doubt them, as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fcn_deploy.machine import sensors
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.machine.sensors import LOCKED_CLOCKS
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.results.conditions import Conditions, Sensor

#: Above this load per core before the run, other work has likely slowed the figures.
BUSY_LOAD_PER_CORE = 0.5
#: Above this share of the machine's CPU time, other programs' work has shaped the figures.
MAX_OTHERS_SHARE = 0.05
#: Above this share of stolen time, the hypervisor has shaped the figures.
MAX_STEAL_SHARE = 0.02
#: Above this coefficient of variation of its repeats, a row does not repeat itself.
MAX_VARIATION = 0.025
#: How many unsteady rows a warning names.
_MAX_NAMED_ROWS = 3


def read_gpus() -> tuple[Sensor, ...]:
    """Read the GPU that this project uses: CUDA's device 0, the only member.

    Empty where there is no GPU, or no ``nvidia-ml-py`` to ask it.
    """
    with sensors.first_gpu() as gpu:
        if gpu is None:
            return ()
        return (
            Sensor(
                name=gpu.name,
                sm_clock_mhz=gpu.sm_clock_mhz,
                memory_clock_mhz=gpu.memory_clock_mhz,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                throttle_reasons=gpu.throttle_reasons,
            ),
        )


class ConditionWatch:
    """What the machine was doing from here to :meth:`ended`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._load = sensors.system_load()
        self._gpus = read_gpus()
        self._cpu = sensors.read_cpu_times()

    def ended(self, rows: Sequence[BenchRow], warnings: Sequence[str] = ()) -> Conditions:
        """Return it; call this right after the last figure, before a GPU's clocks fall.

        Args:
            rows: what was measured meanwhile.
            warnings: sentences that stand before those about the machine.
        """
        gpus = read_gpus()
        cpu = sensors.read_cpu_times()
        steal = sensors.steal_share(self._cpu, cpu)
        others = sensors.others_share(self._cpu, cpu)
        about_machine = warnings_about(
            load_before=self._load,
            others=others,
            cores=usable_cores(),
            steal=steal,
            gpus_after=gpus,
            variation={_label(row): row.cv for row in rows},
        )
        return Conditions(
            threads=self._threads,
            load_before=self._load,
            load_after=sensors.system_load(),
            steal_share=steal,
            others_share=others,
            gpu_before=self._gpus,
            gpu_after=gpus,
            warnings=(*warnings, *about_machine),
        )


def _label(row: BenchRow) -> str:
    height, width = row.size
    return (
        f"{row.runner.backend} {row.runner.precision} {row.tier} {row.batch_size}×{height}×{width}"
    )


def warnings_about(
    *,
    load_before: float | None,
    others: float | None,
    cores: int,
    steal: float | None,
    gpus_after: Sequence[Sensor],
    variation: Mapping[str, float],
) -> list[str]:
    """Return what a reader of the figures must know, as sentences; empty where all was calm.

    Args:
        load_before: load average before the run; it counts where ``others`` is not known.
        others: share of others' work during the run, 0 to 1; see :func:`others_share`.
        cores: CPU cores that this process may use.
        steal: share of stolen time during the run, 0 to 1; see :func:`steal_share`.
        gpus_after: read right after the last figure, before the GPU's clocks fall.
        variation: label of a row → coefficient of variation of its repeats.
    """
    warnings = []
    if others is not None:
        if others > MAX_OTHERS_SHARE:
            warnings.append(
                f"other programs took {100 * others:.1f} % of this machine's CPU time meanwhile; "
                "stop them, or read the ratios only"
            )
    elif load_before is not None and load_before > BUSY_LOAD_PER_CORE * cores:
        plural = "s" if cores > 1 else ""
        warnings.append(
            f"other work ran on this machine in the minute before: load {load_before:.1f} on "
            f"{cores} core{plural}; stop it, or read the ratios only"
        )
    if steal is not None and steal > MAX_STEAL_SHARE:
        warnings.append(
            f"the hypervisor gave {100 * steal:.1f} % of this machine's CPU time to other "
            "machines; measure where the cores are its own, or read the ratios only"
        )
    for gpu in gpus_after:
        # Clocks that somebody has locked are what steady figures are made of.
        held = [word for word in gpu.throttle_reasons or () if word != LOCKED_CLOCKS]
        if held:
            warnings.append(
                f"the clocks of {gpu.name or 'the GPU'} were held back when the run ended: "
                f"{', '.join(held)}; lock them lower with `nvidia-smi -lgc` for steady figures, "
                "or read the ratios only"
            )
    if unsteady := _unsteady(variation):
        warnings.append(unsteady)
    return warnings


def _unsteady(variation: Mapping[str, float]) -> str | None:
    beyond = {label: cv for label, cv in variation.items() if cv > MAX_VARIATION}
    if not beyond:
        return None
    worst_first = sorted(beyond, key=beyond.__getitem__, reverse=True)
    named = [f"{label}: {100 * beyond[label]:.1f} %" for label in worst_first[:_MAX_NAMED_ROWS]]
    if len(beyond) > _MAX_NAMED_ROWS:
        named.append(f"and {len(beyond) - _MAX_NAMED_ROWS} more")
    rows = "1 row" if len(beyond) == 1 else f"{len(beyond)} rows"
    return (
        f"the repeats of {rows} vary by more than {100 * MAX_VARIATION:g} % (coefficient of "
        f"variation): {'; '.join(named)}; measure longer with --seconds, on a quiet machine"
    )
