"""What the machines of a simulated cloud would do, done on this one.

Installed in PATH as ssh, rsync, docker, pip, ray and so on; only the standard library,
for it starts often. `SIMULATED` names the folder of the simulation,
with settings.json and, in calls.log, what was asked for.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(os.environ["SIMULATED"])
SETTINGS = json.loads((HERE / "settings.json").read_text())
HOME = os.environ["HOME"]
MOUNTS = "/tmp/ray_tmp_mount"  # where Ray keeps what containers mount


def ssh(arguments):
    host = next(a.partition("@")[2] for a in arguments if re.match(r"\w+@[\d.]+$", a))
    command = arguments[-1].replace(MOUNTS, str(HERE / "mounts"))
    if "-L" in arguments:
        _forward(int(arguments[arguments.index("-L") + 1].partition(":")[0]))
    else:
        # The last argument is quoted for the shell of the other side.
        command = f"bash -c {command}"
    environment = os.environ | {"SIMULATED_HOST": host}
    return subprocess.run(["bash", "-c", command], env=environment).returncode


def _forward(port):
    """Whoever connects to this port talks to the head's dashboard."""
    listener = socket.create_server(("127.0.0.1", port))

    def copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept():
        while True:
            here, _ = listener.accept()
            there = socket.create_connection(("127.0.0.1", SETTINGS["dashboard"]))
            for ends in ((here, there), (there, here)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def rsync(arguments):
    source, target = map(_path, arguments[-2:])
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(source, target)
    return 0


def _copy(source, target):
    """Files in one piece: other machines, in the same home, may read them now."""

    def replace(one, other):
        half = f"{other}.{os.getpid()}"
        shutil.copy(one, half)
        os.replace(half, other)

    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, copy_function=replace)
    elif source != target:
        replace(source, target)


def _path(place):
    place = re.sub(r"^[^/~]*:", "", place)
    place = re.sub(r"^~", HOME, place).replace(MOUNTS, str(HERE / "mounts"))
    return Path(place.removesuffix("/."))


def docker(arguments):
    verb, *rest = arguments
    container = HERE / f"container-{os.environ['SIMULATED_HOST']}.json"
    if verb == "inspect":
        return _inspect(rest, container)
    if verb == "run":
        environment = {}
        for flag, value in itertools.pairwise(rest):
            if flag == "-e":
                name, _, text = value.partition("=")
                environment[name] = text.replace("/home/ray", HOME)
            if flag == "-v":
                _mount(*value.split(":"))
        container.write_text(json.dumps({"env": environment, "image": rest[-2]}))
        return 0
    if verb == "exec":
        environment = os.environ | json.loads(container.read_text())["env"]
        command = [a for a in rest if a not in ("-i", "-t", "-it")][1:]
        return subprocess.run(command, env=environment).returncode
    return 0


def _inspect(rest, container):
    what = rest[1]
    if "Config.Env" in what:
        print(json.dumps([f"HOME={HOME}"]))
    elif not container.exists():
        return 1
    elif "Running" in what:
        print("true")
    elif "Image" in what:
        print(json.loads(container.read_text())["image"])
    else:
        print("[]")
    return 0


def _mount(source, target):
    source, target = Path(source), Path(target)
    if source.exists():  # the test has its own shared storage
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, target)


def ray(arguments):
    if arguments[0] == "stop":
        return _stop()  # Ray's own would stop every Ray of this machine
    if arguments[0] == "start":
        arguments = [_elsewhere(a) for a in arguments if "object-manager" not in a]
        arguments += ["--disable-usage-stats"]
        arguments += ["--min-worker-port=0", "--max-worker-port=0"]
        arguments += ["--dashboard-agent-listen-port=0"]
        arguments += [f"--object-store-memory={80 << 20}"]
        if "--head" in arguments:
            arguments += [f"--dashboard-port={SETTINGS['dashboard']}"]
        # A folder for each machine: Ray unpacks what jobs upload in it.
        machine = "" if "--head" in arguments else f"-{os.environ['SIMULATED_HOST']}"
        arguments += [f"--temp-dir={SETTINGS['temp']}{machine}"]
    os.execv(SETTINGS["ray"], ["ray", *arguments])


def _stop():
    """Kill what Ray runs on this simulated machine."""
    host = f"SIMULATED_HOST={os.environ['SIMULATED_HOST']}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = host in (folder / "environ").read_bytes().split(b"\0")
            if mine and SETTINGS["temp"].encode() in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
    return 0


def python(arguments):
    """A virtual environment has the stand-ins, too."""
    assert arguments[:2] == ["-m", "venv"]
    folder = Path(arguments[2]) / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pip", "ray"):
        shutil.copy(HERE / "bin" / name, folder / name)
    return 0


def _elsewhere(argument):
    port = SETTINGS["port"]
    if argument.startswith("--address="):
        return f"--address=127.0.0.1:{port}"
    return argument.replace("--port=6379", f"--port={port}").replace("~", HOME)


def main():
    name, arguments = os.environ["STAND_IN"], sys.argv[1:]
    with (HERE / "calls.log").open("a") as log:
        host = os.environ.get("SIMULATED_HOST", "")
        log.write(json.dumps([host, name, *arguments]) + "\n")
    if name == "mountpoint":
        return 1
    acts = {"ssh": ssh, "rsync": rsync, "docker": docker, "ray": ray}
    acts["python3.11"] = python
    return acts[name](arguments) if name in acts else 0


if __name__ == "__main__":
    raise SystemExit(main())
