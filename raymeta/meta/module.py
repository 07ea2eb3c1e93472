"""Meta-module: what users wrap in `DistributedDataParallel` like any other."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from raymeta._tree import cloned, detach, tree_leaves
from raymeta.data.episodes import Episode, require_episode
from raymeta.errors import unknown_name
from raymeta.meta.learner import Learner, require_learner
from raymeta.meta.per_task import TaskByTask, WithHigher, estimated
from raymeta.meta.preflight import Preflight
from raymeta.meta.vectorized import Vectorized
from raymeta.meta.weighted import with_known_weights
from raymeta.types import State, Tensors

ENGINES = ("functional", "higher")


class MetaOutput(NamedTuple):
    """What the adapted learners achieve on their queries.

    Attributes:
        loss: the mean over tasks, shape ().
        losses: the outer loss of each task, shape (N,); not finite where its inner loop
            diverged.
        metrics: numbers of each task by name, shape (N,), without a graph.
    """

    loss: Tensor
    losses: Tensor
    metrics: Tensors


class MetaModule(nn.Module):
    """Meta-learning as a module: its parameters are θ, its forward the inner loops.

    The graph of the loss reaches these very parameters, so that
    `DistributedDataParallel(meta_module)`, any outer optimizer, gradient accumulation,
    `no_sync` and autocast work as with any module. What the inner loop trains lives in
    the forward pass alone and is never registered. In `eval()` no graph is built.

    Two engines take the inner steps: "functional" those of all tasks at once, by vmap
    (task after task, if vmap cannot run the module, as with RNNs); "higher" task after
    task, patched by the library of that name.

    Only `higher`'s meta-gradients have derivatives themselves (`create_graph=True`).

    Args:
        learner: what is meta-learnt, and how.
        engine: what takes the inner steps.
        compile: run the inner steps and their derivatives as machine code.

    Raises:
        ValueError: no learner; an unknown engine; `higher` compiled or with an
            estimator.

    Source: the recipe is that of `higher`: Grefenstette et al. 2019, section 3.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        engine: Literal["functional", "higher"] = "functional",
        compile: bool = False,
    ) -> None:
        super().__init__()
        require_learner(learner)
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
        if engine == "higher" and (compile or learner.estimator is not None):
            raise ValueError(
                "engine='higher' back-propagates through eager steps, but got compile="
                f"{compile}, estimator={learner.estimator}: use engine='functional'"
            )
        self.learner, self.engine, self.compile_steps = learner, engine, compile
        for name, value in learner.meta.items():
            parameter = nn.Parameter(value.detach().clone())
            self.register_parameter(_registered(name), parameter)
        self.register_load_state_dict_pre_hook(_rename)
        self._prepare()

    def theta(self) -> Tensors:
        """The meta-parameters θ by name."""
        return {name: getattr(self, _registered(name)) for name in self.learner.meta}

    def forward(self, episodes: Episode, steps: int | None = None) -> MetaOutput:
        """Adapt to every task; the outer losses afterwards.

        Args:
            episodes: N tasks, along the leading dimension of every tensor.
            steps: inner steps; the learner's T by default.

        Raises:
            ValueError: episodes are no `Episode`; see the learner's algorithm.
        """
        learner = self.learner
        require_episode(episodes)
        count = learner.steps if steps is None else steps
        differentiated = self.training and torch.is_grad_enabled()
        # Inner loops have derivatives whatever the mode around them.
        with torch.inference_mode(False), torch.set_grad_enabled(differentiated):
            theta, episodes = _usable((self.theta(), episodes))
            episodes = with_known_weights(episodes)
            self._preflight(episodes, theta, count, differentiated)
            if differentiated and (learner.estimator or learner.transform):
                losses, metrics = self._task_by_task(episodes, theta, count)
            else:
                losses, metrics = self._inner.outcome(episodes, theta, count)
        return MetaOutput(losses.mean(), losses, detach(metrics))

    def adapt(self, episodes: Episode, steps: int | None = None) -> State:
        """The learners' states after their inner steps, tasks along the first axis."""
        require_episode(episodes)
        count = self.learner.steps if steps is None else steps
        differentiated = self.training and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(differentiated):
            theta, episodes = _usable((self.theta(), episodes))
            episodes = with_known_weights(episodes)
            self._preflight(episodes, theta, count, differentiated)
            return self._inner.adapt(episodes, theta, count)

    def _task_by_task(
        self, episodes: Episode, theta: Tensors, steps: int
    ) -> tuple[Tensor, Tensors]:
        """Outer losses whose derivatives are known for each task by itself."""
        learner = self.learner
        if learner.estimator is not None:
            losses, metrics, grads = estimated(learner, episodes, theta, steps)
        else:
            tasks = len(tree_leaves(episodes)[0])
            own = {
                name: x.detach().expand(tasks, *x.shape).requires_grad_()
                for name, x in theta.items()
            }
            losses, metrics = self._inner.outcome(episodes, own, steps)
            slopes = torch.autograd.grad(
                losses.sum(), list(own.values()), materialize_grads=True
            )
            grads = dict(zip(own, slopes, strict=True))
        if learner.transform is not None:
            grads = torch.func.vmap(learner.transform)(grads)
        return _with_gradients(losses.detach(), grads, theta), metrics

    def _prepare(self) -> None:
        higher = self.engine == "higher"
        alone = WithHigher(self.learner) if higher else TaskByTask(self.learner)
        self._preflight = Preflight(self.learner, alone)
        self._inner: Vectorized | TaskByTask = alone
        if not higher:
            self._inner = Vectorized(self.learner, self.compile_steps, alone)

    def __getstate__(self) -> dict[str, Any]:
        # What was traced belongs to this process, and refers to this very object.
        own = ("_inner", "_preflight")
        return {k: x for k, x in super().__getstate__().items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()


def _rename(
    module: MetaModule, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Load θ by its own names as well: those of `theta()` and of a run's result."""
    for name in module.learner.meta:
        if prefix + name in state_dict:
            state_dict[prefix + _registered(name)] = state_dict.pop(prefix + name)


def _with_gradients(losses: Tensor, grads: Tensors, theta: Tensors) -> Tensor:
    """Losses (N,) that autograd takes to have the derivatives grads, each (N, ...)."""
    each = [(theta[k] * g).flatten(1).sum(1) for k, g in grads.items()]
    linear = torch.stack(each).sum(0)
    return losses + (linear - linear.detach())


def _usable(tree: Any) -> Any:
    """Tensors that autograd takes: copies of those made in inference mode."""
    leaves = tree_leaves(tree)
    if not any(isinstance(x, Tensor) and x.is_inference() for x in leaves):
        return tree
    return cloned(tree)


def _registered(name: str) -> str:
    """A name that `nn.Module` takes for a parameter's."""
    return name.replace(".", "/")
