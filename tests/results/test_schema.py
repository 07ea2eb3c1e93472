"""Tables that one process writes while another reads."""

import multiprocessing
from pathlib import Path

import pandas as pd

from raymeta.results.integrity import read_parquet
from raymeta.results.run_folder import write_frame


def _write(file: Path, stop) -> None:
    rows = 0
    while not stop.is_set():
        rows = rows % 200 + 40
        write_frame(pd.DataFrame({"a": range(rows), "b": [str(rows)] * rows}), file)


def test_a_table_is_read_whole_while_another_process_replaces_it(tmp_path):
    file = tmp_path / "frame.parquet"
    write_frame(pd.DataFrame({"a": [0], "b": ["1"]}), file)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=_write, args=(file, stop))
    writer.start()
    try:
        seen = set()
        while len(seen) < 4:
            frame = read_parquet(file)
            assert set(frame["b"]) == {str(len(frame))}
            seen.add(len(frame))
    finally:
        stop.set()
        writer.join()
