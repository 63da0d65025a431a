# SPDX-License-Identifier: Apache-2.0
"""Groups of processes that tests have started and killed."""

import os


def group_lives(group: int) -> bool:
    """Whether any process of a group is still there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
