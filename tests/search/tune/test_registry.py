"""A run's trainable is looked up once, and Tune's registry is as before after it."""

from ray.tune import registry
from ray.tune.registry import get_trainable_cls, register_trainable

from raymeta.search.tune.registry import trainables_looked_up_once


def test_a_trainable_is_unpickled_once_in_a_run(monkeypatch):
    # Without a Ray that an earlier test of this process left connected.
    monkeypatch.setattr(registry, "_internal_kv_initialized", lambda: False)
    read, loads = [], registry.pickle.loads
    monkeypatch.setattr(
        registry.pickle, "loads", lambda data: read.append(1) or loads(data)
    )
    with trainables_looked_up_once():
        register_trainable("looked up once", lambda config: None)
        first = get_trainable_cls("looked up once")
        assert get_trainable_cls("looked up once") is first
        assert len(read) == 1
    assert not {"get", "contains"} & set(vars(registry._global_registry))
    # Who registers another one under the name gets that.
    register_trainable("looked up once", lambda config: 1)
    assert get_trainable_cls("looked up once") is not first
    assert len(read) == 2
