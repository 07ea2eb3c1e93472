"""`raymeta diagnose`."""

import argparse
import json
from dataclasses import asdict, dataclass

from raymeta.cli import config, output
from raymeta.cli.settings import setting


@dataclass(frozen=True, kw_only=True)
class DiagnoseSettings:
    """Settings of `raymeta diagnose`."""

    task: str = setting("quadratic", "task, by name, or your own as path.py:Name")
    seed: int = setting(0, "seeds the task's sample")
    step: float = setting(0.03, "how far runs go, in log units of a positive λ")
    coordinates: bool | None = setting(
        None, "look along each coordinate, 2 runs each; automatic: along all at once"
    )
    precision: bool | None = setting(
        None,
        "look at float64 and bfloat16; automatic: at E in float64, if 6 runs allow",
    )
    json: bool = setting(False, "print the record as JSON, and nothing else")
    name: str = setting("diagnose", "folder of the results; overwritten")
    storage: str = setting("results", "where the folder is")


def run(arguments: argparse.Namespace) -> None:
    """Diagnose a task; print the checks and the verdict, write record and figure.

    The exit code is 0 whatever the verdict: it is a result, and 2 is for bad input.
    """
    settings = config.read(arguments, DiagnoseSettings)
    from raymeta import analysis, tasks
    from raymeta.outer.diagnose import diagnose
    from raymeta.results.mirror import address
    from raymeta.results.run_folder import RunFolder, run_name

    task = tasks.get(settings.task)
    name = run_name(settings.storage, settings.name, [])
    kept = {k: v for k, v in asdict(settings).items() if k not in ("storage", "json")}
    with RunFolder.open(
        settings.storage, name, "diagnosis", kept, resume=False
    ) as folder:
        folder.record_run(tasks.loading.sources([task.name]))
        with output.progress(arguments, as_json=settings.json):
            found = diagnose(
                task,
                seed=settings.seed,
                step=settings.step,
                coordinates=settings.coordinates,
                precision=settings.precision,
            )
        folder.note(found=found.record)
        figure = analysis.draw_diagnosis(found.record)
        files = analysis.save(figure, folder.path / "diagnosis")
    if settings.json:
        print(json.dumps(found.record, indent=2))
        return
    table = found.frame.to_string(
        index=False, na_rep="", float_format=lambda x: f"{x:.4g}"
    )
    spent = f"{found.gradient_evals:,g} gradient evaluations"
    print(f"raymeta: {found.task} at its start, for {spent}\n{table}")
    for path in files:
        print(f"drawn: {address(path)}")
    print("\n".join([*found.reasons[1:], found.line]))
