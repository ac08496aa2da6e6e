"""Small actors of the driver's. Apart from the cluster's module: their processes import this, and need no Ray Data,
which takes longer to import than they take to start.
"""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """Where a small actor of the driver's belongs: on its node, which is not a spot node, while that is there."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
