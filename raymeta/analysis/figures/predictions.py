"""Predictions of a trained meta-learner: curves, points, images."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymeta.analysis.figures import layout, style

Arrays = Mapping[str, np.ndarray]
LABELS = ("#0072b2", "#d55e00")  # of the classes 0 and 1
FITTED = ("#bbbbbb", "#56b4e9", "#0072b2", "#222222")


def draw_pictures(arrays: Arrays) -> Figure:
    """Draw what a run wrote of its learner.

    Args:
        arrays: "kind" and what goes with it; see `raymeta.train.figure_data`.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: an unknown kind.
    """
    kind = str(arrays["kind"])
    if kind not in KINDS:
        raise ValueError(
            f"pictures are of kind {', '.join(KINDS)}, but got {kind!r}: write them "
            "with this version"
        )
    with style.context():
        return KINDS[kind](arrays)


def draw_sinusoids(arrays: Arrays) -> Figure:
    """Curves before and after adaptation, one panel a task."""
    count = len(arrays["truth"])
    figure, panels = layout.panels(count, across=2, width=3.6, height=2.5, below=0.3)
    for task, axes in enumerate(panels):
        axes.plot(
            *(arrays["x"], arrays["truth"][task]),
            color="#d55e00",
            linewidth=2.2,
            alpha=0.55,
            label="true curve",
        )
        for place, steps in enumerate(arrays["steps"]):
            axes.plot(
                *(arrays["x"], arrays["fitted"][place, task]),
                color=FITTED[place % len(FITTED)],
                linewidth=1.2,
                label=_after(steps),
            )
        axes.plot(
            *(arrays["support_x"][task], arrays["support_y"][task]),
            "^",
            color="#d55e00",
            markersize=4.5,
            label="support",
        )
        axes.set_title(f"test task {task}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_dataset(arrays: Arrays) -> Figure:
    """Points at first and in the end, each to its scale; lines of fresh classifiers."""
    steps = arrays["steps"]
    titles = ["points at first", *(f"learnt, {_after(t)}" for t in steps)]
    sets = [arrays["first"], *[arrays["points"]] * len(steps)]
    figure, panels = layout.panels(
        len(sets), across=3, width=3.2, height=3.3, below=0.3
    )
    for place, (axes, points) in enumerate(zip(panels, sets, strict=True)):
        reach = 1.1 * np.abs(points).max()
        axes.set_title(titles[place])
        axes.set_aspect("equal")
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        for label, colour in enumerate(LABELS):
            mine = points[arrays["labels"] == label]
            x, y = mine.T
            axes.scatter(x, y, s=12, color=colour, alpha=0.75, label=f"class {label}")
        if place:
            for w, b in zip(
                arrays["w"][place - 1], arrays["b"][place - 1], strict=True
            ):
                _draw_line(axes, w, b, reach)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_line(axes: Axes, w: np.ndarray, b: float, reach: float) -> None:
    """w·x + b = 0, in a square of this reach."""
    norm = np.linalg.norm(w)
    foot, along = -b * w / norm**2, np.array([-w[1], w[0]]) / norm
    ends = foot + np.outer([-4 * reach, 4 * reach], along)
    named = any(line.get_label() == "fresh classifiers" for line in axes.lines)
    axes.plot(
        *ends.T,
        color=style.MUTED,
        linewidth=0.7,
        alpha=0.6,
        label="_" if named else "fresh classifiers",
    )


def draw_reconstructions(arrays: Arrays) -> Figure:
    """Images, one row a task: the truth, then what the network makes of it."""
    truth, fitted = arrays["truth"], arrays["fitted"]
    columns = 1 + len(fitted)
    figure, panels = layout.panels(
        len(truth) * columns, across=columns, width=1.6, height=1.7
    )
    for place, axes in enumerate(panels):
        task, column = divmod(place, columns)
        image = truth[task] if column == 0 else fitted[column - 1, task]
        _show(axes, image)
        if task == 0:
            axes.set_title(
                "image" if column == 0 else _after(arrays["steps"][column - 1])
            )
        if column:
            error = np.mean((image - truth[task]) ** 2)
            axes.set_xlabel(f"{-10 * np.log10(error):.1f} dB", fontsize=8)
    return figure


def draw_images(arrays: Arrays) -> Figure:
    """Distilled images, each with its class."""
    images, labels = arrays["images"], arrays["labels"]
    figure, panels = layout.panels(len(images), across=5, width=1.4, height=1.5)
    reach = np.abs(images).max()
    for axes, image, label in zip(panels, images, labels, strict=True):
        axes.imshow(image, cmap="RdBu", vmin=-reach, vmax=reach)
        _bare(axes)
        axes.set_title(str(label))
    return figure


def _show(axes: Axes, image: np.ndarray) -> None:
    """An image (height, width, 1 or 3) with values in [0, 1]."""
    axes.imshow(np.clip(image.squeeze(), 0, 1), cmap="gray", vmin=0, vmax=1)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])


def _after(steps: int) -> str:
    if steps == 0:
        return "before adaptation"
    return "after 1 step" if steps == 1 else f"after {steps} steps"


KINDS: dict[str, Callable[[Arrays], Figure]] = {
    "sinusoids": draw_sinusoids,
    "dataset": draw_dataset,
    "reconstructions": draw_reconstructions,
    "images": draw_images,
}
