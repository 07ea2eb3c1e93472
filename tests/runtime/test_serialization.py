"""What is sent to workers opens where the driver's modules are not on the path."""

import importlib.util
import os
import pickle
import subprocess
import sys
import threading

import pytest
from ray import cloudpickle

from raymeta.runtime.serialization import REMEDY, pack

OPEN = """
import pickle, sys
payload = pickle.load(open(sys.argv[1], "rb"))
thing = payload.open()
print(thing(3))
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Write a module in a folder that Python does not know, and import it."""
    folder = tmp_path / "lib"
    folder.mkdir()
    loaded = []

    def load(name, text, *, on_path):
        (folder / f"{name}.py").write_text(text)
        if on_path:
            monkeypatch.syspath_prepend(folder)
            module = importlib.import_module(name)
        else:  # as notebooks and test runners do
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        loaded.append(name)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def opened(payload, tmp_path, **environment):
    """What another process, without the driver's path, gets from it."""
    file = tmp_path / "sent"
    file.write_bytes(pickle.dumps(payload))
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", OPEN, str(file)],
        env=clean | {"PYTHONPATH": os.getcwd()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


PLAIN = (
    "FACTOR = 2\ndef inner(x):\n    return FACTOR * x\ndef f(x):\n    return inner(x)\n"
)
LAZY = "def f(x):\n    import aside_of_parcel\n    return aside_of_parcel.g(x)\n"
CACHED = "import functools\n@functools.lru_cache\ndef f(x):\n    return 2 * x\n"


@pytest.mark.parametrize("text", [PLAIN, LAZY, CACHED], ids=["plain", "lazy", "cached"])
def test_modules_on_the_drivers_path_are_found(text, elsewhere, tmp_path):
    elsewhere("aside_of_parcel", "def g(x):\n    return 2 * x\n", on_path=True)
    module = elsewhere("sent_by_name", text, on_path=True)

    done = opened(pack(module.f, "functions"), tmp_path)

    assert done.stdout == "6\n", done.stderr
    assert b"inner" not in pack(module.f, "functions").content  # by name


def test_modules_without_a_name_on_it_travel_whole(elsewhere, tmp_path):
    module = elsewhere("sent_whole", PLAIN, on_path=False)

    registered = cloudpickle.list_registry_pickle_by_value()

    done = opened(pack(module.f, "functions"), tmp_path)

    assert done.stdout == "6\n", done.stderr
    assert cloudpickle.list_registry_pickle_by_value() == registered


def test_what_cannot_travel_is_refused_in_one_line(elsewhere):
    text = f"import threading\nLOCK = threading.Lock()\n{PLAIN}    return LOCK\n"
    text = text.replace("return inner(x)", "print(LOCK)")
    module = elsewhere("sent_locked", text, on_path=False)
    registered = cloudpickle.list_registry_pickle_by_value()

    with pytest.raises(ValueError, match="functions are sent to workers") as error:
        pack(module.f, "functions")

    assert "\n" not in str(error.value)
    assert "lock" in str(error.value)
    assert str(error.value).endswith(f"which is what sent_locked may hold: {REMEDY}")
    assert "PYTHONPATH" in REMEDY
    assert cloudpickle.list_registry_pickle_by_value() == registered

    lock = threading.Lock()
    with pytest.raises(ValueError, match=r"keep open files, locks.* out of them$"):
        pack({"held": lock}, "functions")
