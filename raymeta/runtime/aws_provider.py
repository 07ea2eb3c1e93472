"""Node provider for AWS: spot instances where there are any, on demand otherwise.

Neither of Ray's autoscalers turns from a group whose instances AWS refuses to another
one (2.60; only from one whose instances do not start Ray in time), so the turn is made
where instances are asked for.
"""

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

logger = logging.getLogger(__name__)

SPOT = "InstanceMarketOptions"


class SpotFirst(AWSNodeProvider):
    """Ray's provider for AWS, `type: external` with this class as its `module`.

    A group with `InstanceMarketOptions` gets spot instances; where all availability
    zones refuse them (no capacity, a quota), the same on demand. Each launch begins
    with spot again.
    """

    def _create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        try:
            return super()._create_node(node_config, tags, count)
        except NodeLaunchException as refusal:
            if SPOT not in node_config:
                raise
            logger.warning(
                "AWS refuses spot instances of type %s (%s): asking for %d on demand",
                node_config["InstanceType"],
                refusal.category,
                count,
            )
        on_demand = {name: v for name, v in node_config.items() if name != SPOT}
        return super()._create_node(on_demand, tags, count)
