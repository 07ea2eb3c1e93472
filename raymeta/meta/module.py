"""Meta-module: what users wrap in `DistributedDataParallel` like any other."""

from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from raymeta import display
from raymeta._tree import cloned, detach, tree_leaves, tree_map
from raymeta.data.episodes import Episode, Examples, one_task, require_episode
from raymeta.errors import unknown_name
from raymeta.meta.learner import Learner, require_learner
from raymeta.meta.per_task import TaskByTask, WithHigher, estimated
from raymeta.meta.preflight import Preflight
from raymeta.meta.vectorized import Vectorized
from raymeta.meta.weighted import with_known_weights
from raymeta.modules.overrides.internals import sublayers
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

    def __repr__(self) -> str:
        loss, losses = display.short(self.loss), display.short(self.losses)
        known = f", {display.entries(self.metrics)}" * bool(self.metrics)
        return f"MetaOutput(loss={loss}, losses={losses}{known})"


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
            holder, last = _place(self, name)
            holder.register_parameter(last, nn.Parameter(value.detach().clone()))
        self.register_load_state_dict_pre_hook(_rename)
        self._prepare()

    def theta(self) -> Tensors:
        """The meta-parameters θ by name, in the learner's order."""
        places = {name: _place(self, name) for name in self.learner.meta}
        return {name: getattr(holder, last) for name, (holder, last) in places.items()}

    def meta_parameters(self) -> list[nn.Parameter]:
        """θ in the learner's order, for optimizers whose state is kept."""
        places = [_place(self, name) for name in self.learner.meta]
        return [holder.get_parameter(last) for holder, last in places]

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

    @overload
    def adapt(self, tasks: Episode, steps: int | None = None) -> State: ...

    @overload
    def adapt(
        self, tasks: Examples | tuple[Any, Any], steps: int | None = None
    ) -> nn.Module: ...

    def adapt(self, tasks: Any, steps: int | None = None) -> Any:
        """One task's adapted module; or of an `Episode`, the states of its learners.

        Args:
            tasks: the examples of one task, `(inputs, targets)` or `Examples`; or N
                tasks along the leading dimension of every tensor.
            steps: inner steps; the learner's T by default.

        Returns:
            A module of the user's own classes, in evaluation mode, that depends on
            nothing else (of `cavia` and `functa` with the context inside); of an
            `Episode` the learners' states, tasks along the first axis.

        Raises:
            ValueError: neither examples nor tasks; the learner adapts no module.
        """
        if not isinstance(tasks, Episode):
            return self._adapted_module(one_task(tasks), steps)
        count = self.learner.steps if steps is None else steps
        differentiated = self.training and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(differentiated):
            theta, episodes = _usable((self.theta(), tasks))
            episodes = with_known_weights(episodes)
            self._preflight(episodes, theta, count, differentiated)
            return self._inner.adapt(episodes, theta, count)

    def _adapted_module(self, task: Episode, steps: int | None) -> nn.Module:
        if self.learner.adapted is None:
            raise ValueError(
                "adapt(examples) needs a learner of an algorithm that adapts a module, "
                "but this one has no `adapted`: give it one, or give adapt an Episode "
                "for the learners' states"
            )
        with torch.no_grad():
            states = self.adapt(task, steps)
            state = tree_map(lambda x: x[0], states)
            return self.learner.adapted(state, detach(self.theta()))

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
    """Load what was saved when a name's dots were written as slashes."""
    for name in module.learner.meta:
        old = prefix + name.replace(".", "/")
        if old in state_dict:
            state_dict[prefix + name] = state_dict.pop(old)


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds a parameter, made where it is missing; the last name.

    So the parameters are named as those of the user's own module.
    """
    *parts, last = name.split(".")
    for part in parts:
        # Not by `add_module`: a module may have a layer called "learner".
        held = sublayers(module).get(part)
        if held is None:
            held = sublayers(module)[part] = nn.Module()
        module = held
    return module, last


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
