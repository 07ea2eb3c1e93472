"""Records beside the frame."""

from raymeta.analysis.report.record import domains
from raymeta.space import Choice, Positive, Space, Unit


def test_kinds_of_domains_are_read_from_a_space_with_any_names():
    space = {
        "lr": Positive(0.1, low=0.01, high=1.0, shape=(2,)),
        "layers.0.rate": Unit(0.5),
        "kind": Choice(["a", "b"]),
    }
    record = {"tasks": {"mine": {"space": repr(Space(**space))}}}
    kinds = {name: type(domain).__name__ for name, domain in space.items()}
    assert domains(record) == {"mine": kinds}
