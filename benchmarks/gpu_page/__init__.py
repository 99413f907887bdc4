"""What was measured on a GPU, as pages: ``docs/gpu-checks.md`` and a table in the README.

    benchmarks/results ──results──▶ GpuResults ─┬─ checks, findings ──page──▶ docs/gpu-checks.md
                                                └─ table ──▶ README.md, docs/benchmarks.md

``benchmarks/gpu_checks.py`` is the command.
"""
