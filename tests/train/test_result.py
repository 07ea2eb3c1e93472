"""A run's result as a module: the θ that was evaluated, with its learner."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raymeta
from raymeta.meta import MetaModule, maml
from raymeta.results.records import read_record, write_json
from raymeta.train import TrainConfig, recipe, train

SMALL = {
    "outer_steps": 3,
    "tasks_per_step": 2,
    "val_tasks": 2,
    "test_tasks": 4,
    "checkpoint_every": 2,
    "seeds": (0, 3),
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(storage):
    config = recipe("maml", "sinusoid", dtype="float64", **SMALL)
    return train(config, storage=storage, progress=False)


def episodes_of(config: TrainConfig, seed: int):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return config.family.episodes(0, 4, 0, 4, seed=seed, split="test")
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_module_has_the_losses_that_were_evaluated(result, seed):
    before = torch.get_rng_state()
    module = result.module(seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert not module.training
    assert all(torch.equal(x, result.theta[seed][k]) for k, x in module.theta().items())
    rows = result.evaluation.query("seed == @seed").set_index("inner_steps")
    for steps in (0, 1, 5):
        found = float(module(episodes_of(result.config, seed), steps=steps).loss)
        assert found == pytest.approx(rows.loc[steps, "outer_loss"], rel=1e-12)


def test_the_seed_must_be_one_of_the_run(result):
    with pytest.raises(
        ValueError, match=r"^the run has the seeds \[0, 3\], but got .*=1"
    ):
        result.module(seed=1)


def test_a_run_is_loaded_from_its_folder(result, storage, monkeypatch):
    (folder,) = storage.iterdir()
    for given, seed in (
        ((folder,), 0),
        ((folder / "seed-3" / "best.pt",), 3),
        ((str(folder), result.config.learner), 3),
    ):
        module = raymeta.meta.load(*given, seed=seed)
        assert not module.training
        own = result.theta[seed]
        assert all(torch.equal(x, own[k]) for k, x in module.theta().items())
    wrong = maml(nn.Linear(1, 1), loss=F.mse_loss)
    for given, keywords, message in (
        ((folder,), {"seed": 7}, r"has the seeds \[0, 3\], but got seed=7"),
        ((folder / "seed-3" / "best.pt",), {"seed": 0}, r"of seed 3, but got seed=0"),
        ((folder.parent,), {}, r"has no checkpoint of a training"),
        ((folder / "no",), {}, r"has no checkpoint of a training"),
        ((folder, wrong), {}, r"is a checkpoint of another θ"),
    ):
        with pytest.raises(ValueError, match=message):
            raymeta.meta.load(*given, **keywords)
    monkeypatch.chdir(folder / "seed-3")
    assert raymeta.meta.load("best.pt").theta().keys() == result.theta[3].keys()


def test_a_record_without_a_recipe_or_damaged_is_told(result, storage, tmp_path):
    (folder,) = storage.iterdir()
    folder = shutil.copytree(folder, tmp_path / "x")
    record = read_record(folder, "training")
    del record["recipe"]
    write_json(record, folder / "training.json")
    with pytest.raises(
        ValueError, match=r"learner that no recipe makes.*load\(path, l"
    ):
        raymeta.meta.load(folder)
    content = (folder / "training.json").read_bytes()
    (folder / "training.json").write_bytes(content.replace(b"maml", b"mamm"))
    with pytest.raises(ValueError, match=r"training\.json cannot be used, for its ch"):
        raymeta.meta.load(folder)


def test_a_fresh_module_takes_a_result_by_either_names(result, tmp_path):
    def fresh() -> MetaModule:
        net = nn.Sequential(
            *(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU()),
            nn.Linear(40, 1),
        )
        return MetaModule(maml(net.double(), loss=F.mse_loss)).eval()

    episodes, module = episodes_of(result.config, 0), result.module()
    expected = module(episodes).losses
    torch.save(module.state_dict(), tmp_path / "theta.pt")
    for state in (
        result.theta[0],
        module.state_dict(),
        torch.load(tmp_path / "theta.pt", weights_only=True),
    ):
        other = fresh()
        assert not torch.allclose(other(episodes).losses, expected)
        other.load_state_dict(state)
        assert torch.equal(other(episodes).losses, expected)
    parallel = nn.ModuleDict({"module": fresh()})
    parallel.load_state_dict({f"module.{k}": x for k, x in result.theta[0].items()})
    assert torch.equal(parallel["module"](episodes).losses, expected)
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh().load_state_dict({"0.weight": result.theta[0]["0.weight"]})
