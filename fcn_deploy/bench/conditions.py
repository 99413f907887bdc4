"""What the machine did meanwhile, as warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fcn_deploy.bench import conditions
from fcn_deploy.machine.sensors import LOCKED_CLOCKS, GpuReading

if TYPE_CHECKING:
    from fcn_deploy.bench.rows import Conditions, Row


class ConditionWatch:
    """What the machine was doing from here to :meth:`ended`."""

    def __init__(self, threads: int) -> None:
        from fcn_deploy.machine import sensors

        self._threads = threads
        self._load = sensors.system_load()
        self._gpus = sensors.read_gpus()
        self._cpu = sensors.read_cpu_times()

    def ended(self, rows: Sequence[Row], dropped: Sequence[str] = ()) -> Conditions:
        """Return it; call this right after the last figure, before a GPU's clocks fall."""
        from fcn_deploy.bench.rows import Conditions
        from fcn_deploy.machine import sensors
        from fcn_deploy.machine.description import usable_cores

        gpus = sensors.read_gpus()
        cpu = sensors.read_cpu_times()
        steal = sensors.steal_share(self._cpu, cpu)
        others = sensors.others_share(self._cpu, cpu)
        return Conditions(
            threads=self._threads,
            load_before=self._load,
            load_after=sensors.system_load(),
            steal_share=steal,
            others_share=others,
            gpu_before=tuple(gpu.to_json() for gpu in self._gpus),
            gpu_after=tuple(gpu.to_json() for gpu in gpus),
            warnings=(
                *dropped,
                *conditions.warnings_about(
                    load_before=self._load,
                    others=others,
                    cores=usable_cores(),
                    steal=steal,
                    gpus_after=gpus,
                    variation={row.label: row.variation for row in rows},
                ),
            ),
        )


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


def warnings_about(
    *,
    load_before: float | None,
    others: float | None,
    cores: int,
    steal: float | None,
    gpus_after: Sequence[GpuReading],
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
