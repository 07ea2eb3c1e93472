"""A run with one or two workers, on a cluster that grows and shrinks under it.

A program, for a test: `python elastic_run.py <folder>`.
"""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import train_toys
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.train import ScalingConfig

from raymeta.runtime.ray_session import ray
from raymeta.train import train

STORE = {"object_store_memory": 80 << 20}
SETTINGS = {"outer_steps": 400, "checkpoint_every": 20}


def main(folder):
    cloudpickle.register_pickle_by_value(train_toys)
    slow = train_toys.config(**SETTINGS, family=train_toys.Points(step_s=0.05))
    lines = []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    def wait_for(said):
        while not any(said in line for line in lines):
            time.sleep(0.2)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **STORE})
    ray.init(cluster.address, log_to_driver=False)
    often = ScalingConfig(num_workers=(1, 2), elastic_resize_monitor_interval_s=3)
    place = {"name": "far", "storage": folder, "scaling": often, "progress": say}
    run = threading.Thread(target=train, args=[slow], kwargs=place)
    run.start()
    wait_for("begins on 1 process")
    node = cluster.add_node(num_cpus=1, **STORE)
    wait_for("on 2 processes")
    events = Path(folder, "far", "events.jsonl")
    while events.read_text().rpartition('"start"')[2].count('"checkpoint"') < 2:
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)
    run.join()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
