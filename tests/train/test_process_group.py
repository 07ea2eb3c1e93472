"""Two processes that share the tasks of a step."""

import torch
from rank_worker import run


def test_an_outer_step_has_two_collectives(tmp_path):
    """The gradient's, and one of losses and flags."""
    torch.multiprocessing.spawn(run, (2, str(tmp_path)), nprocs=2)

    for rank in range(2):
        of_ten, of_twenty, in_parts = torch.load(tmp_path / f"rank{rank}.pt")
        assert of_twenty - of_ten == 2 * 10
        assert in_parts == of_twenty

    thetas = [
        torch.load(tmp_path / name / "seed-0" / "step-00000020.pt")["theta"]["layer.w"]
        for name in ("20", "parts")
    ]
    torch.testing.assert_close(*thetas, rtol=1e-12, atol=1e-12)
