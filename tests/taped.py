"""What a CUDA graph is, on a CPU: the operations of a work, done again at the same addresses.

Python is not asked again, so whatever of a step was a number, a shape or an address stays as it
was when the tape was made.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKING = {"_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy", "equal", "is_nonzero"}


class Tape(TorchDispatchMode):
    """Notes every operation; those that ask the device, or bring data from the host, are errors."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ASKING, f"{func} is in a step"
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, tensors(out)))
        return out

    def play(self):
        for func, args, kwargs, outs in self.done:
            given = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
            views = outs and all(out.untyped_storage().data_ptr() in given for out in outs)
            if views and not func._schema.is_mutable:
                continue  # what they show stands still
            for old, new in zip(outs, tensors(func(*args, **kwargs)), strict=True):
                if old is not new and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


class Recorder:
    """As ``graphs.recorder``: counts recorders, works, and how often any is done again."""

    def __init__(self):
        self.made = self.works = self.repeats = 0

    def __call__(self, device):
        self.made += 1
        return self.record

    def record(self, work):
        self.works += 1
        with Tape() as tape:
            out = work()
        out.zero_()  # a capture computes nothing

        def again():
            self.repeats += 1
            tape.play()
            return out

        return again
