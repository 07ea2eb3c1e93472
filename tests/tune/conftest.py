"""Tasks that workers cannot import, for they lie among the tests."""

import sys
from pathlib import Path

from ray import cloudpickle

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import search_toys

cloudpickle.register_pickle_by_value(search_toys)
