"""What Windows does not have is imported nowhere at the top of a module."""

import subprocess
import sys

PROGRAM = """
import builtins, os, pkgutil, signal, sys, types
import ray.train, ray.tune, torch, optuna, matplotlib, sklearn, pyarrow.fs  # their own

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog",
           "readline", "curses", "posix"}
NAMES = {
    "os": {"sysconf", "fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid",
           "killpg", "setsid", "uname", "sched_getaffinity", "nice", "mkfifo", "wait4",
           "WNOHANG", "O_NONBLOCK", "getloadavg", "statvfs", "chown"},
    "signal": {"SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT",
               "SIGCHLD", "SIGSTOP", "SIGCONT", "pthread_kill", "setitimer", "alarm"},
}
windows = {}
for name, lacks in NAMES.items():
    windows[name] = types.ModuleType(name)
    own = vars(sys.modules[name])
    assert lacks & own.keys()
    vars(windows[name]).update({k: x for k, x in own.items() if k not in lacks})
real = builtins.__import__

def imported(name, globals=None, locals=None, fromlist=(), level=0):
    ours = str((globals or {}).get("__name__", "")).partition(".")[0] == "raymeta"
    if ours and not level and name in MODULES:
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name!r}")
    if ours and name in windows:
        return windows[name]
    return real(name, globals, locals, fromlist, level)

EXTRAS = {"lightning", "transformers", "accelerate", "mlflow", "wandb", "botocore"}
builtins.__import__ = imported
import raymeta
count = 0
for module in pkgutil.walk_packages(raymeta.__path__, "raymeta."):
    if module.name.endswith("__main__"):
        continue
    try:
        real(module.name)
    except ImportError as error:  # of an extra that is not installed
        lacks = str((error.__cause__ or error).name).partition(".")[0]
        if lacks not in EXTRAS:
            raise
    count += 1
print(count)
import raymeta.results.run_folder as probe
assert not hasattr(sys.modules["raymeta.cli"].os, "fork")  # it did take ours
"""


def test_every_module_is_imported_without_what_windows_lacks():
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout.split()[-1]) > 400
