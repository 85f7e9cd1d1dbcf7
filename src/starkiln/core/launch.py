"""Which process this is, of those that ``torchrun`` started together; without it the only one."""

import os


def rank() -> int:
    """The number of this process among all."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """The number of this process among those of its machine: the GPU that it takes."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))
