"""
# Differentiate a simulation

Nothing in a `BilevelProblem` need be a network. Here the state is a mass on a spring, a
step is one of a symplectic integrator, and the hyperparameters are physical constants that
are found from where the mass was seen.
"""

# %%
# ## The simulation
#
# $$ \ddot x = -k x - c \dot x, \qquad
#    v_{t+1} = v_t + h (-k x_t - c v_t), \qquad x_{t+1} = x_t + h v_{t+1} $$
#
# E is the squared distance between the last position and the one that was seen.
import torch

import raymeta

h, steps = 0.05, 100


def step(state, hparams, batch):
    x, v = state
    v = v + h * (-hparams["stiffness"] * x - hparams["damping"] * v)
    return x + h * v, v


def run(stiffness, damping):
    state = torch.tensor(1.0), torch.tensor(0.0)
    path = [state[0]]
    for _ in range(steps):
        state = step(state, {"stiffness": stiffness, "damping": damping}, None)
        path.append(state[0])
    return torch.stack(path), state


seen, (x_end, v_end) = run(torch.tensor(2.0), torch.tensor(0.3))


def distance(state, hparams):
    return (state[0] - x_end) ** 2 + (state[1] - v_end) ** 2


problem = raymeta.BilevelProblem(
    init=lambda hparams: (torch.tensor(1.0), torch.tensor(0.0)),
    step=step,
    outer_loss=distance,
)

# %%
# ## Its derivatives
#
# Forward and reverse mode agree; forward needs no memory of the path.
start = {"stiffness": torch.tensor(1.5), "damping": torch.tensor(0.1)}
for estimator in ("reverse", "forward"):
    found = raymeta.hypergradient(problem, start, estimator, steps=steps)
    print(estimator, found)
figure = found.plot()
figure


# %%
# ## The constants, found again
class Spring:
    name = "spring"
    horizon, budget = steps, 60.0 * steps
    space = raymeta.Space(
        stiffness=raymeta.Positive(1.5, low=0.5, high=5.0),
        damping=raymeta.Positive(0.1, low=0.01, high=1.0),
    )

    def sample(self, seed):
        return problem


result = raymeta.optimize(Spring(), "reverse", progress=False)
print(result)
figure = result.plot()
figure
assert abs(result.hparams["stiffness"] - 2.0) < 0.05
