"""`torch.optim` optimizers whose hyperparameters learn while training goes on.

```
optimizer = raymeta.online.AdamW(net.parameters(), learn=("lr", "weight_decay"))
```

in place of `torch.optim.AdamW`, in a loop of your own; or `from_torch(optimizer)`, of
one that others made.
"""

from raymeta.online.adam import Adam, AdamW
from raymeta.online.from_torch import from_torch
from raymeta.online.muon import Muon
from raymeta.online.osgm import OSGM
from raymeta.online.sgd import SGD

__all__ = ["OSGM", "SGD", "Adam", "AdamW", "Muon", "from_torch"]
