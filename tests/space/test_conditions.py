"""Conditional spaces: what the present options do not use."""

import pytest

from raymeta.space import Choice, Real, Space, Unit

pytestmark = pytest.mark.usefixtures("float64")


def nested(**when):
    """A space of three levels."""
    return Space(
        kind=Choice(("a", "b")),
        inner=Choice((1, 2, 3)),
        x=Real(0.5, low=0.0, high=1.0, shape=(2,)),
        y=Unit(0.5),
        when={"inner": {"kind": "a"}, "x": {"inner": (2, 3)}} | when,
    )


# ------------------------------------------------------------------ spaces that say so


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"kind": "a", "inner": 1}, {"kind", "inner", "y"}),
        ({"kind": "a", "inner": 2}, {"kind", "inner", "y", "x"}),
        ({"kind": "b", "inner": 2}, {"kind", "y"}),
        ({"kind": "b"}, {"kind", "y"}),
    ],
)
def test_a_condition_holds_where_all_above_it_do(options, names):
    space = nested()
    assert set(space.active(options)) == names
    assert set(space.trim(space.initial() | options)) == names
    assert {name.split("[")[0] for name in space.used(options)} == names
    assert set(space.at(options)) == names
    assert all(len(c.options) == 1 for c in space.at(options).choices.values())


def test_points_leave_out_what_is_not_used_and_come_back():
    space = nested()
    whole = space.initial() | {"inner": 3}
    assert set(whole) == {"kind", "inner", "x", "y"}
    flat = space.point(whole)
    assert flat == {"kind": "a", "inner": 3, "x[0]": 0.5, "x[1]": 0.5, "y": 0.5}
    assert set(space.hparams(flat)) == set(whole)
    short = {"kind": "b", "y": 0.25}
    assert space.point(space.hparams(short)) == short
    nan = float("nan")  # as a frame has it
    full = {**short, "inner": nan, "x[0]": nan, "x[1]": nan}
    assert space.point(space.hparams(full)) == short
    with pytest.raises(ValueError, match=r"'x\[1\]' is missing"):
        space.hparams({"kind": "a", "inner": 2, "x[0]": 0.1, "y": 0.5})


def test_coordinates_are_of_what_is_used():
    space = nested()
    at_b = space.unconstrained(space.initial() | {"kind": "b"})
    assert set(at_b) == {"y"}
    assert set(space.natural(at_b)) == set(space.project(at_b)) == {"y"}
    assert set(space.unconstrained(space.initial() | {"inner": 2})) == {"x", "y"}


def test_all_combinations_of_options():
    assert list(nested().options()) == [
        *({"kind": "a", "inner": n} for n in (1, 2, 3)),
        {"kind": "b"},
    ]
    assert list(Space(x=Unit(0.5)).options()) == [{}]


def test_an_option_may_be_a_tuple_itself():
    space = Space(
        size=Choice(((1, 2), (3, 4))), x=Unit(0.5), when={"x": {"size": (1, 2)}}
    )
    assert space.active({"size": (1, 2)}) == ["size", "x"]
    assert space.active({"size": (3, 4)}) == ["size"]


def test_conditions_are_in_the_text_of_a_space_and_only_there_where_there_are_some():
    said = "when={'inner': {'kind': ('a',)}, 'x': {'inner': (2, 3)}})"
    assert repr(nested()).endswith(said)
    assert "when" not in repr(Space(x=Unit(0.5), when={}))


REFUSED = {
    "a hyperparameter of that name": (
        lambda: Space(when=Unit(0.5)),
        "hyperparameter needs another name than 'when'",
    ),
    "an unknown name": (
        lambda: nested(z={"kind": "a"}),
        "unknown hyperparameter 'z': available: inner, kind, x, y",
    ),
    "no choice": (
        lambda: nested(y="a"),
        r"when\['y'\] needs choices and their options, .* but got 'a'",
    ),
    "no condition": (lambda: nested(y={}), r"when\['y'\] needs choices and their"),
    "an unknown choice": (
        lambda: nested(y={"kin": "a"}),
        r"unknown choice in when\['y'\] 'kin': did you mean 'kind'",
    ),
    "a condition on a number": (
        lambda: nested(y={"x": 0.5}),
        r"when\['y'\] needs a Choice to depend on, but 'x' is Real",
    ),
    "an option that does not exist": (
        lambda: nested(y={"kind": ("a", "c")}),
        r"when\['y'\] needs options of 'kind', which has \['a', 'b'\], but got 'c'",
    ),
    "True for 1": (
        lambda: nested(y={"inner": True}),
        r"needs options of 'inner', which has \[1, 2, 3\], but got True",
    ),
    "no option": (
        lambda: nested(y={"kind": ()}),
        r"when\['y'\] needs an option of 'kind', but got none",
    ),
    "itself": (
        lambda: nested(kind={"kind": "a"}),
        "must not lead in a circle, but when= says 'kind' -> 'kind'",
    ),
    "a circle": (
        lambda: nested(kind={"inner": 1}),
        "in a circle, but when= says '(inner|kind)' -> '(inner|kind)' -> '",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_conditions_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
