"""A checksum of a model's weights, cheap enough for every measurement that ranks share.

It reads the weights once, at the speed of memory, where they are, and waits for a GPU once. Ranks that have drawn,
loaded or trained other weights differ in it; it proves nothing to somebody who wants to deceive.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_COLUMNS = 1021
"""A prime, so that rows of a matrix begin in different columns and may not trade places."""
_ROWS = 512
"""At a time: torch widens integers on a CPU before it adds them up, in its caches so."""
_FACTOR = 6364136223846793005
"""Odd: no bit of the tensors before is lost when the next one is added, modulo 2**64."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_checksum(model: nn.Module) -> str:
    """Of names, types, shapes and values of all parameters.

    Buffers are left out: with DDP every rank keeps its own running statistics until the next forward pass in training.
    So are the values of weights that are divided among ranks (``fully_shard``, FSDP), where each rank has others.
    """
    digest, sums = hashlib.sha256(), dict[torch.device, torch.Tensor]()
    is_divided = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    for name, weights in model.named_parameters():
        if is_divided or weights.is_meta or hasattr(weights, "full_tensor"):
            digest.update(name.encode())
            continue
        digest.update(f"{name} {weights.dtype} {list(weights.shape)}\n".encode())
        flat = weights.detach().reshape(-1)
        bits = flat.view(_INTEGERS[min(flat.element_size(), 8)])
        whole = bits.numel() // _COLUMNS * _COLUMNS
        total = torch.zeros(_COLUMNS, dtype=torch.int64, device=bits.device)
        for piece in torch.split(bits[:whole].view(-1, _COLUMNS), _ROWS):
            total += piece.sum(0, dtype=torch.int64)
        total[: bits.numel() - whole] += bits[whole:]
        before = sums.get(weights.device)
        sums[weights.device] = total if before is None else before * _FACTOR + total
    for total in sums.values():
        digest.update(total.cpu().numpy().data)
    return digest.hexdigest()[:16]
