"""Clusters without a cloud: a mocked AWS, and machines that are processes here."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_ports(count):
    """Ports that nobody listens to now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(happens, seconds, what):
    """Wait until a function returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := happens()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)
    return value


def listens(port):
    """Whether someone does, on this port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def client(url):
    """Arguments of a boto3 client of the mocked AWS."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return {"endpoint_url": url, **keys}


def aws_environment(url):
    """What makes boto3 and pyarrow turn to the mocked AWS."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def worker_groups():
    """The groups of cluster.yaml but the head's, by name."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    groups = config["available_node_types"]
    return {name: g for name, g in groups.items() if name != config["head_node_type"]}


class Simulation:
    """A home of its own for Ray's processes; all of them end with it."""

    def __init__(self, folder):
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.token = self.home / ".ray" / "auth_token"
        self.token.parent.mkdir()
        self.token.write_text("1234567890abcdef" * 4)  # pragma: allowlist secret
        self.port, self.dashboard = free_ports(2)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        # Ray's sockets lie there: Unix allows them some hundred characters.
        self.temp = Path("/tmp") / f"raymeta-{self.port}"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "TUNE_", "AWS_"))
        }
        self.environment = clean | {
            "HOME": str(self.home),
            "PATH": f"{BIN}{os.pathsep}{clean['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command, seconds=240, **changes):
        """Run a command in this home; output and errors together."""
        environment = self.environment | changes.pop("environment", {})
        return subprocess.run(
            [str(part) for part in command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            cwd=ROOT,
            **changes,
        )

    def submit(self, *command, seconds=240, options=(), **changes):
        """`ray job submit` of a job of this project."""
        deadline = time.monotonic() + 60
        while True:
            done = self.run(
                *("ray", "job", "submit", "--address", self.address, *options),
                *("--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml"),
                *("--", "python", *command),
                seconds=seconds,
                **changes,
            )
            # On a busy machine the head takes its time.
            if "No available agent" not in done.stdout or time.monotonic() > deadline:
                return done
            time.sleep(1)

    def ask(self, what):
        """What the dashboard answers."""
        request = urllib.request.Request(
            f"{self.address}/api/{what}",
            headers={"Authorization": f"Bearer {self.token.read_text()}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def workers(self):
        """The nodes of Ray besides the head that are alive."""
        nodes = self.ask("v0/nodes?limit=100")["data"]["result"]["result"]
        return [n for n in nodes if n["state"] == "ALIVE" and not n["is_head_node"]]

    def processes(self, mark):
        """The command lines of processes with this in their environment, by id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes()
                    found[int(folder.name)] = command.decode().split("\0")
        return found

    def running(self, program):
        """How many processes of this home run a program."""
        commands = self.processes(f"HOME={self.home}").values()
        return sum(Path(command[0]).name == program for command in commands)

    def kill(self, mark):
        """Kill the processes with this in their environment, by process id."""
        for process in self.processes(mark):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def end(self):
        """Kill what runs in this home."""
        self.kill(f"HOME={self.home}")
        for folder in self.temp.parent.glob(f"{self.temp.name}*"):
            shutil.rmtree(folder, ignore_errors=True)


class FakeMachines(Simulation):
    """A head whose autoscaler launches raylets of the groups of cluster.yaml."""

    def __init__(self, folder, idle_s=3):
        super().__init__(folder)
        from ray._private import services
        from ray.autoscaler._private.fake_multi_node.node_provider import (
            FAKE_HEAD_NODE_ID,
        )

        kept = ("min_workers", "max_workers", "resources", "priority")
        groups = {
            name: {
                "node_config": {},
                **{key: group[key] for key in kept if key in group},
            }
            for name, group in worker_groups().items()
        }
        commands = ("setup", "head_setup", "worker_setup", "initialization")
        commands += ("head_start_ray", "worker_start_ray")
        config = {
            "cluster_name": "fake",
            "max_workers": 24,
            "idle_timeout_minutes": idle_s / 60,
            "provider": {
                "type": "external",
                "module": "fake_provider.Machines",
                "temp": str(self.temp),
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "gcs_address": f"{services.get_node_ip_address()}:{self.port}",
            },
            **{f"{name}_commands": [] for name in commands},
            **{name: {} for name in ("auth", "file_mounts", "docker")},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude")},
            "upscaling_speed": 1.0,
            "available_node_types": {
                "ray.head.default": {
                    "resources": {"CPU": 0},
                    "node_config": {},
                    "max_workers": 0,
                },
                **groups,
            },
            "head_node_type": "ray.head.default",
        }
        self.gcs = config["provider"]["gcs_address"]
        file = self.home / "ray_bootstrap_config.yaml"
        file.write_text(yaml.safe_dump(config))
        path = filter(None, [self.environment.get("PYTHONPATH")])
        self.environment |= {
            "PYTHONPATH": os.pathsep.join(
                [*map(str, path), str(Path(__file__).parent)]
            ),
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        started = self.run(
            *("ray", "start", "--head", "--num-cpus=0", "--num-gpus=0"),
            *(f"--port={self.port}", f"--dashboard-port={self.dashboard}"),
            f"--temp-dir={self.temp}",
            *(f"--object-store-memory={80 << 20}", f"--autoscaling-config={file}"),
            "--dashboard-agent-listen-port=0",
        )
        assert started.returncode == 0, started.stdout


class Launched(Simulation):
    """A cluster that `ray up` makes; its machines are here.

    `ssh`, `rsync`, `docker` and the like are `stand_in`, while what runs on the
    machines, the raylets above all, is real.

    Args:
        folder: of the simulation.
        source: the cluster's configuration in this project.
        changes: lines of it -> what replaces them.
    """

    def __init__(self, folder, source, changes):
        super().__init__(folder)
        stand_ins = folder / "bin"
        stand_ins.mkdir()
        machine = "ssh rsync docker sudo chown mountpoint pip python3.11 ray flock"
        for name in machine.split():
            script = stand_ins / name
            script.write_text(
                f"#!/bin/sh\nSTAND_IN={name} exec {sys.executable} "
                f'{Path(__file__).with_name("stand_in.py")} "$@"\n'
            )
            script.chmod(0o755)
        settings = {
            "port": self.port,
            "dashboard": self.dashboard,
            "temp": str(self.temp),
            "ray": str(BIN / "ray"),
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        self.environment |= {
            "SIMULATED": str(folder),
            "PATH": f"{stand_ins}{os.pathsep}{self.environment['PATH']}",
            "RAY_UP_enable_autoscaler_v2": "1",
        }
        # A login shell has a PATH of its own, until it reads this.
        (self.home / ".bashrc").write_text(f"export PATH={self.environment['PATH']}\n")
        text = (ROOT / source).read_text()
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.config = folder / "cluster.yaml"
        self.config.write_text(text)

    def up(self):
        """`ray up`, or what it says."""
        done = self.run(
            "ray", "up", "-y", "--no-config-cache", self.config, seconds=400
        )
        assert done.returncode == 0, done.stdout

    @contextlib.contextmanager
    def forwarded(self):
        """The address of the dashboard as `ray dashboard` brings it to the laptop."""
        (port,) = free_ports(1)
        tunnel = subprocess.Popen(
            ["ray", "dashboard", str(self.config), "--port", str(port)],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        own, self.address = self.address, f"http://127.0.0.1:{port}"
        try:
            until(lambda: listens(port), 60, "the dashboard is forwarded")
            yield
        finally:
            self.address = own
            tunnel.kill()
            tunnel.wait()

    def calls(self, program):
        """What a stand-in was asked to do."""
        lines = (self.folder / "calls.log").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[1] == program]


class OwnMachines(Launched):
    """Those of jobs/local_cluster.yaml."""

    def __init__(self, folder):
        name = "cluster_name: raymeta-local\n"
        unique = f"cluster_name: raymeta-local-{secrets.token_hex(3)}\n"
        super().__init__(folder, "jobs/local_cluster.yaml", {name: unique})
        # Ray's nodes have this machine's address, so those of the file look dead.
        self.environment["AUTOSCALER_HEARTBEAT_TIMEOUT_S"] = "1000"
        key = self.home / ".ssh" / "id_ed25519"
        key.parent.mkdir()
        key.touch(0o600)


class Cloud(Launched):
    """A mocked AWS on which `ray up` makes cluster.yaml.

    Instances exist in the mock alone.
    """

    def __init__(self, folder, url, idle_s=20, suffix=""):
        self.url, self.name = url, f"raymeta-{secrets.token_hex(3)}{suffix}"
        # This very cluster.yaml, but for the name, which others may use here at the
        # same time, and for a wait that no test can afford.
        super().__init__(
            folder,
            "cluster.yaml",
            {
                "cluster_name: raymeta\n": f"cluster_name: {self.name}\n",
                "idle_timeout_minutes: 5\n": f"idle_timeout_minutes: {idle_s / 60}\n",
            },
        )
        self.environment |= aws_environment(url)

    def instances(self, *states):
        """The instances of this cluster in these states."""
        import boto3

        ec2 = boto3.client("ec2", region_name="us-west-2", **client(self.url))
        mine = {"Name": "tag:ray-cluster-name", "Values": [self.name]}
        wanted = {"Name": "instance-state-name", "Values": list(states)}
        found = ec2.describe_instances(Filters=[mine, wanted])["Reservations"]
        return [one for reservation in found for one in reservation["Instances"]]
