"""Grids of losses, as they were computed."""

import numpy as np
import pytest

from raymeta.analysis.tables.surfaces import is_logarithmic, surface_of

NAN = np.nan
LR, MOMENTUM = (0.01, 0.1, 1.0), (0.0, 0.5)


def test_the_surface_is_a_grid_of_last_losses(surface):
    found = surface_of(surface)
    assert found.names == ("lr", "momentum")
    assert (found.x.tolist(), found.y.tolist()) == ([*LR], [*MOMENTUM])
    expected = [[0.01, 0.1, 1.0], [0.51, 0.6, NAN]]
    np.testing.assert_allclose(found.loss, expected)


def test_x_and_y_are_as_they_were_asked_for(surface):
    turned = surface_of(surface.assign(x="momentum", y="lr"))
    assert turned.names == ("momentum", "lr")
    assert turned.loss.shape == (len(LR), len(MOMENTUM))
    assert surface_of(surface.assign(x="lr", y="momentum")).names == ("lr", "momentum")


def test_a_surface_has_two_hyperparameters(surface):
    with pytest.raises(ValueError, match="but this one has lr: compute"):
        surface_of(surface[surface["hp/momentum"] == 0])


def test_grids_are_logarithmic_when_geometric():
    assert is_logarithmic(np.array(LR))
    assert not is_logarithmic(np.array([0.0, 0.5, 1.0]))
    assert not is_logarithmic(np.array([0.1, 0.5, 0.9]))
