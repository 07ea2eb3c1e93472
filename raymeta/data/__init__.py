"""Real data that ships in packages, as tensors."""

from raymeta.data.digits import digits
from raymeta.data.split import Split, split

__all__ = ["Split", "digits", "split"]
