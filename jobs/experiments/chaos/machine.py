"""The machine around a run: disks, a clock, an object store, a cluster of two nodes."""

import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import psutil

from jobs.experiments.chaos.door import Door, opened
from jobs.experiments.chaos.processes import named, tree, until

#: Set in the suite that has namespaces of its own: nothing of it outlives it.
INSIDE = "RAYMETA_CHAOS_INSIDE"
#: The file that holds by how many seconds the clock is wrong.
CLOCK = "RAYMETA_CHAOS_CLOCK"
HEAD, NODE = "10.9.0.1", "10.9.0.2"

#: Real time is as much later as the file says, in every process that loads this.
SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *shift;
__attribute__((constructor)) static void begin(void) {
  char *name = getenv("RAYMETA_CHAOS_CLOCK");
  int file = name ? open(name, O_RDONLY) : -1;
  void *at = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  if (at != MAP_FAILED) shift = at;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (!failed && shift && clock == CLOCK_REALTIME) now->tv_sec += *shift;
  return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
  now->tv_sec = exact.tv_sec; now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *to) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (to) *to = exact.tv_sec;
  return exact.tv_sec;
}
"""


def run(*command: object) -> bool:
    """Whether a command succeeds; what it says is for nobody."""
    with suppress(FileNotFoundError):
        words = [str(word) for word in command]
        return not subprocess.run(words, capture_output=True, check=False).returncode
    return False


def enter(arguments: Sequence[str]) -> None:
    """Start again in own mount and network namespaces, with a clock that can jump."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    environment = os.environ | {INSIDE: str(folder), "RAY_AUTH_MODE": "token"}
    environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SHIFTED_CLOCK)
    if run("cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"):
        (folder / "clock").write_bytes(struct.pack("l", 0))
        environment |= {"LD_PRELOAD": str(library), CLOCK: str(folder / "clock")}
    command = [sys.executable, "-m", "jobs.experiments.chaos", *arguments]
    if run("unshare", "-m", "-n", "true"):
        command = ["unshare", "-m", "-n", *command]
    os.execvpe(command[0], command, environment)


class Machine:
    """What can be disturbed here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounts = run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        run("ip", "link", "set", "lo", "up")
        self.network = self.mounts and self._two_networks()
        self.clock = Path(os.environ[CLOCK]) if CLOCK in os.environ else None
        self._server: subprocess.Popen | None = None

    def _two_networks(self) -> bool:
        """Another network namespace, at the other end of a cable."""
        holder = subprocess.Popen(["unshare", "-n", "sleep", "1000000"])
        self.enter_node = ("nsenter", "-t", str(holder.pid), "-n")
        time.sleep(0.5)
        ip = ("ip", "addr", "add")
        return (
            run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
            and run("ip", "link", "set", "there", "netns", holder.pid)
            and run(*ip, f"{HEAD}/24", "dev", "here")
            and run("ip", "link", "set", "here", "up")
            and run("ip", "route", "add", "default", "via", NODE)
            and run(*self.enter_node, *ip, f"{NODE}/24", "dev", "there")
            and run(*self.enter_node, "ip", "link", "set", "lo", "up")
            and run(*self.enter_node, "ip", "link", "set", "there", "up")
            and run(*self.enter_node, "ip", "route", "add", "default", "via", HEAD)
        )

    def shift_clock(self, seconds: int) -> None:
        """Let real time be so many seconds later than it is, or earlier."""
        assert self.clock is not None
        with self.clock.open("r+b") as file:
            file.write(struct.pack("l", seconds))

    @contextmanager
    def disk(self, kind: str) -> Iterator[Path]:
        """A small disk of its own: "tmpfs", or "ext4"."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        if kind == "tmpfs":
            options = "size=8m,nr_inodes=400"
            made = run("mount", "-t", "tmpfs", "-o", options, "tmpfs", place)
        else:
            image = place.with_suffix(".image")
            with image.open("wb") as file:
                file.truncate(24 << 20)
            made = run("mkfs.ext4", "-q", image) and self.mount(image, place)
        if not made:
            raise OSError(f"a {kind} cannot be mounted here")
        try:
            yield place
        finally:
            until(lambda: run("umount", place), f"nobody uses {place}")

    def device(self, place: Path) -> str:
        """The name of the device that is mounted there."""
        mounts = (
            line.split() for line in Path("/proc/mounts").read_text().splitlines()
        )
        return next(
            Path(what).name for what, where, *_ in mounts if where == str(place)
        )

    def mount(self, image: Path, place: Path) -> bool:
        """Mount an ext4 that no process can write to after an error."""
        return run("mount", "-o", "loop,errors=remount-ro", image, place)

    @contextmanager
    def store(self) -> Iterator[tuple[str, dict[str, str], Door]]:
        """An object store: an empty bucket, how it is reached, and its door."""
        import boto3

        if self._server is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "moto.server",
                    "-p",
                    f"{self.port}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            until(self._listens, "the object store is up", 300)
        with opened(self.port) as door:
            environment = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{door.port}",
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            client = boto3.client(
                "s3",
                region_name="us-east-1",
                endpoint_url=environment["AWS_ENDPOINT_URL"],
                aws_access_key_id="testing",
                aws_secret_access_key="testing",  # pragma: allowlist secret
            )
            bucket = f"results-{time.monotonic_ns()}"
            client.create_bucket(Bucket=bucket)
            yield f"s3://{bucket}/deep", environment, door

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    @cached_property
    def cluster(self) -> "Cluster":
        """Two nodes of a CPU each."""
        return Cluster(self)

    def reconnect(self) -> None:
        """The way to the other network, which goes with its cable."""
        run("ip", "route", "add", "default", "via", NODE)

    def close(self) -> None:
        """End everything that was started."""
        if "cluster" in self.__dict__:
            self.cluster.close()
        for process in tree().values():
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def servants(self) -> set[int]:
        """Processes that are no run's."""
        ours = [p for p in psutil.Process().children() if _is_servant(p)]
        if "cluster" in self.__dict__:
            ours += [psutil.Process(p.pid) for p in self.cluster.nodes.values()]
        return {pid for p in ours for pid in (p.pid, *tree(p.pid))}


def _is_servant(process: psutil.Process) -> bool:
    return "sleep 1000000" in named(process) or "moto.server" in named(process)


#: A node that does not answer is given up within seconds, not in half a minute.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class Cluster:
    """A Ray of two nodes on this machine, in networks of their own where it can.

    Attributes:
        nodes: `ray start --block` by the node's name, "head" and "node".
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.nodes: dict[str, subprocess.Popen] = {}
        self.ip = HEAD if machine.network else "127.0.0.1"
        self.address = f"{self.ip}:6399"
        self.temporary = Path(tempfile.mkdtemp(prefix="cr", dir="/tmp"))
        self.restore()

    def restore(self) -> None:
        """Start the nodes that are gone, and wait until all are there."""
        for name in ("head", "node"):
            if name not in self.nodes or self.raylet(name) is None:
                self._start(name)

    def _start(self, name: str) -> None:
        if name in self.nodes:
            self._end(name)
        ray = str(Path(sys.executable).with_name("ray"))
        options = ["--block", "--num-cpus=1", f"--object-store-memory={80 << 20}"]
        command = [ray, "start", *options, "--disable-usage-stats"]
        if name == "head":
            command += ["--head", "--port=6399", "--include-dashboard=false"]
            command += [f"--node-ip-address={self.ip}", f"--temp-dir={self.temporary}"]
        else:
            command += [f"--address={self.address}"]
            if self.machine.network:
                command = [*self.machine.enter_node, *command]
                command += [f"--node-ip-address={NODE}"]
        with (self.temporary / f"{name}.log").open("ab") as log:
            environment = os.environ | IMPATIENT
            if self.machine.network:  # gloo would take what the host's name is: lo
                cable = {"head": "here", "node": "there"}[name]
                environment |= {"GLOO_SOCKET_IFNAME": cable}
            self.nodes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log
            )
        ends = self.nodes[name]
        until(lambda: self.raylet(name) or ends.poll(), f"the {name} starts", 300)
        if ends.returncode is not None:
            said = (self.temporary / f"{name}.log").read_text()[-1000:]
            raise SystemExit(f"ray start of the {name} ends: {said}")
        until(lambda: self._joined(name), f"the {name} joins", 300)

    def _joined(self, name: str) -> bool:
        """Whether its raylet has workers: it has come to know the cluster."""
        ours = tree(self.nodes[name].pid).values()
        return any("ray::" in named(p) for p in ours)

    def raylet(self, name: str) -> psutil.Process | None:
        """The process of a node's raylet."""
        for process in tree(self.nodes[name].pid).values():
            with suppress(psutil.Error):
                if process.name() == "raylet":
                    return process
        return None

    def workers(self, kind: str) -> list[psutil.Process]:
        """Those of both nodes that compute something, by what Ray calls them."""
        both = [p for node in self.nodes.values() for p in tree(node.pid).values()]
        return [p for p in both if kind in named(p)]

    def close(self) -> None:
        """End all of its processes."""
        for name in ("node", "head"):
            self._end(name)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _end(self, name: str) -> None:
        node = self.nodes[name]
        for process in (*tree(node.pid).values(), psutil.Process(node.pid)):
            with suppress(psutil.Error):
                process.kill()
        node.wait()
