"""Chaos: real runs that are killed, stopped and starved, resumed, and compared.

`python -m jobs.experiments.chaos --out FOLDER` injects every fault of `FAULTS`.
"""

# Ray brings psutil, on a path of its own.
import raymeta.runtime.ray_session  # noqa: F401
