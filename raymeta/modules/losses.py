"""Training losses whose settings have a derivative."""

from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    smoothing: float | Tensor = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Cross entropy with label smoothing ε and example weights w that may be learned.

    $$ \frac{1}{N} \sum_i w_i \Big( -(1 - \epsilon) \log p_i(y_i)
       - \frac{\epsilon}{K} \sum_k \log p_i(k) \Big) $$

    `F.cross_entropy` takes ε as a number only.

    Args:
        outputs: logits, shape (N, K, ...).
        targets: classes, int64, shape (N, ...).
        smoothing: ε, a number or shape ().
        weights: w, shape (N,); 1 by default. They are not normalized.

    Returns:
        Shape (); a mean over further dimensions too.

    Source: Szegedy et al. 2016, section 7.
    """
    log_p = F.log_softmax(outputs, 1)
    own = log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
    loss = (smoothing - 1) * own - smoothing * log_p.mean(1)
    each = loss.reshape(len(loss), -1).mean(1)
    return (each if weights is None else weights * each).mean()
