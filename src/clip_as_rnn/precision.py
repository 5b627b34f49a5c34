"""Keeps the precision and the device that a host program chose for itself out of what is computed here.

Models say themselves what they compute in; `torch.autocast` and a default device around a call would change its result.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_precision() -> Iterator[None]:
    """Compute as if no `autocast` and no default device were around; of this thread alone, so others are left as is."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
