"""Ray's provider of fake machines, with a folder of its own for each."""

from functools import partial
from unittest import mock

from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node import node_provider


class Machines(node_provider.FakeMultiNodeProvider):
    """With one folder, a node that joins would replace what jobs uploaded to others."""

    def _create_node_with_resources_and_labels(self, *arguments):
        place = f"{self.provider_config['temp']}-{self._next_node_id + 1}"
        with mock.patch(
            "ray._private.parameter.RayParams", partial(RayParams, temp_dir=place)
        ):
            super()._create_node_with_resources_and_labels(*arguments)
