"""Ready-made runs: each trains, resumes as the same run, and refuses what is not."""

import numpy as np
import pytest
import torch
from PIL import Image

from raymeta import meta
from raymeta.train import ALGORITHMS, KIND_OF, recipe, train
from raymeta.train.figure_data import POINTS

PAIRS = [
    (algorithm, family)
    for algorithm, its in ALGORITHMS.items()
    for family, kind in KIND_OF.items()
    if kind in its.inner and family != "omniglot"
]
FEW = {"val_tasks": 2, "test_tasks": 2, "test_steps": 1, "tasks_per_step": 2}


def run(config, tmp_path, **where):
    return train(config, name="x", storage=tmp_path, progress=False, **where)


#: Each algorithm, and each kind of tasks.
TRAINED = [
    *(("maml", "sinusoid"), ("maml", "few-shot-digits"), ("fomaml", "sinusoid")),
    *(("anil", "few-shot-digits"), ("meta_sgd", "sinusoid"), ("imaml", "sinusoid")),
    *(("lslr", "few-shot-digits"), ("reptile", "few-shot-digits")),
    *(("boil", "few-shot-digits"), ("protonet", "few-shot-digits")),
    *(("cavia", "sinusoid"), ("functa", "digit-functions")),
    *(("learned_dataset", "classifiers"), ("distillation", "digit-batches")),
]


def test_every_algorithm_and_every_kind_of_tasks_is_trained():
    algorithms, families = zip(*TRAINED, strict=True)
    assert set(algorithms) == ALGORITHMS.keys()
    assert {KIND_OF[family] for family in families} == set(KIND_OF.values())


@pytest.mark.parametrize(("algorithm", "family"), TRAINED)
def test_every_recipe_trains(algorithm, family, tmp_path):
    config = recipe(algorithm, family, outer_steps=2, **FEW)
    result = run(config, tmp_path)

    steps = result.frame.query("split == 'train'")
    assert np.isfinite(steps["outer_loss"]).all()
    assert (steps["grad_norm"] > 0).all()
    first = config.learner(0).meta
    assert set(result.theta[0]) == set(first)
    final = torch.load(
        tmp_path / "x" / "seed-0" / "step-00000002.pt", weights_only=True
    )["theta"]
    assert any(not torch.equal(final[name], first[name]) for name in first)
    has_pictures = (tmp_path / "x" / "seed-0" / "pictures.npz").exists()
    assert has_pictures == (KIND_OF[family] != "few-shot")


def test_the_settings_of_maml_on_sinusoids_are_those_of_the_paper():
    config = recipe("maml", "sinusoid")
    assert (config.tasks_per_step, config.outer_lr, config.test_tasks) == (
        25,
        1e-3,
        600,
    )
    assert config.knobs == {"inner_lr": 0.01, "inner_steps": 1}
    theta = config.learner(0).meta
    assert [tuple(x.shape) for x in theta.values()] == [
        (40, 1), (40,), (40, 40), (40,), (1, 40), (1,),
    ]  # fmt: skip
    assert theta["2.weight"].std() == pytest.approx(
        0.0088, rel=0.05
    )  # truncated at 2 sd
    assert theta["2.weight"].abs().max() <= 0.02
    assert not theta["0.bias"].any()
    other = config.learner(1).meta
    assert not torch.equal(theta["2.weight"], other["2.weight"])


def test_what_is_given_replaces_what_is_recommended():
    config = recipe(
        "cavia",
        "sinusoid",
        inner_lr=0.5,
        inner_steps=3,
        context=2,
        shots=4,
        clip_norm=1.0,
    )
    assert config.knobs == {
        "inner_lr": 0.5, "inner_steps": 3, "context": 2, "shots": 4,
    }  # fmt: skip
    learner = config.learner(0)
    assert learner.steps == 3
    assert learner.meta["0.weight"].shape == (40, 3)
    tasks = config.family.episodes(0, 1, 0, 1, seed=0, split="train")
    assert tasks.support.inputs.shape == (1, 4, 1)
    state = meta.MetaModule(learner).adapt(tasks, 1)
    half = recipe("cavia", "sinusoid", inner_lr=1.0, inner_steps=3, context=2, shots=4)
    twice = meta.MetaModule(half.learner(0)).adapt(tasks, 1)
    torch.testing.assert_close(2 * state.params["context"], twice.params["context"])


@pytest.mark.usefixtures("float64")
def test_drawn_curves_are_those_of_adapted_weights(tmp_path):
    config = recipe(
        "maml", "sinusoid", outer_steps=1, inner_lr=0.1, dtype="float64", **FEW
    )
    run(config, tmp_path)
    arrays = np.load(tmp_path / "x" / "seed-0" / "pictures.npz")
    assert arrays["steps"].tolist() == [0, 1, 10]
    assert arrays["fitted"].shape == (3, 4, POINTS)

    # By hand, with the θ that was evaluated.
    network = torch.nn.Sequential(
        torch.nn.Linear(1, 40), torch.nn.ReLU(), torch.nn.Linear(40, 40),
        torch.nn.ReLU(), torch.nn.Linear(40, 1),
    )  # fmt: skip
    best = torch.load(tmp_path / "x" / "seed-0" / "best.pt", weights_only=True)
    network.load_state_dict(best["theta"])
    x = torch.linspace(-5, 5, POINTS)[:, None]
    before = network(x).detach().squeeze().numpy()
    np.testing.assert_allclose(arrays["fitted"][0, 2], before, atol=1e-12)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs = torch.tensor(arrays["support_x"][2])[:, None]
    targets = torch.tensor(arrays["support_y"][2])[:, None]
    (network(inputs) - targets).square().mean().backward()
    optimizer.step()
    after = network(x).detach().squeeze().numpy()
    np.testing.assert_allclose(arrays["fitted"][1, 2], after, atol=1e-12)


def test_a_divergent_inner_loop_is_named_and_skipped(tmp_path):
    config = recipe(
        "maml", "sinusoid", inner_lr=1e30, outer_steps=9, max_skips=3, **FEW
    )
    match = r"seed 0: outer steps 0 to 3 had no finite .* lower the inner"
    with pytest.raises(ValueError, match=match):
        run(config, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("mamll", "sinusoid"), {}, "unknown algorithm 'mamll': did you mean 'maml'"),
        (("maml", "sinusoids"), {}, "unknown family 'sinusoids'"),
        (
            ("functa", "sinusoid"),
            {},
            "functa does not learn tasks of family 'sinusoid'",
        ),
        (("maml", "sinusoid"), {"ways": 5}, "of family 'sinusoid' have no ways"),
        (("maml", "sinusoid"), {"context": 5}, "maml has no context"),
        (("maml", "sinusoid"), {"data": "x"}, "brings its own data"),
        (("maml", "omniglot"), {}, "got no data"),
        (("maml", "few-shot-digits"), {"ways": 4}, "need 4 classes in each split"),
        (("maml", "sinusoid"), {"inner_steps": 0}, "maml needs inner_steps >= 1, but"),
        (("maml", "sinusoid"), {"inner_lr": float("nan")}, "inner_lr > 0, but .*=nan"),
        (("lslr", "sinusoid"), {"inner_lr": -1.0}, r"inner_lr > 0, but .*=-1\.0"),
        (("cavia", "sinusoid"), {"context": 0}, "cavia needs context >= 1, but got"),
    ],
)
def test_what_makes_no_run_is_refused(arguments, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(recipe(*arguments, **changes), tmp_path)


def test_a_folder_with_too_few_classes_is_refused_by_name(tmp_path):
    for character in range(6):
        for drawing in range(16):
            path = tmp_path / "Latin" / f"c{character}" / f"{drawing}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), 255 - drawing).save(path)

    # 3 + 1 + 2 characters, each turned three times.
    match = r"20-way tasks need 20 classes in each split, but .* has 12 \+ 4 \+ 8"
    with pytest.raises(ValueError, match=match):
        recipe("maml", "omniglot", data=tmp_path, ways=20)
    few = recipe("maml", "omniglot", data=tmp_path, ways=4, shots=1, queries=15)
    assert few.family.ways == 4


def test_recipes_draw_nothing_from_torch():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for algorithm, family in PAIRS:
        recipe(algorithm, family).learner(0)
    assert torch.equal(torch.rand(2), expected)
