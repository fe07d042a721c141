"""Launches for ncu: long equal rows, many short distinct rows, many layers. A line is printed for each."""

from __future__ import annotations

import doors  # type: ignore[import-not-found]
import torch

import cbkernels as cb


def main() -> None:
    device = "cpu" if doors.IS_REHEARSAL else "cuda"
    scale = 64 if doors.IS_REHEARSAL else 1
    equal = torch.randn(1, 65536 // scale, device=device).expand(4096 // scale, -1).contiguous()
    short = torch.randn(1_000_000 // scale, 64, device=device)
    layers = {str(k): torch.randn(50, 16384 // scale, device=device)[torch.arange(512, device=device) % 50]
              for k in range(120 // scale + 1)}  # fmt: skip
    small = {str(k): layers["0"][:, :512].contiguous() for k in range(120 // scale + 1)}
    labels = torch.arange(512, device=device) % 10
    print("(4096, 65536) equal", int(cb.bundle_rows(equal).max()) + 1, "bundles", flush=True)
    print("(1000000, 64) distinct", int(cb.bundle_rows(short).max()) + 1, "bundles", flush=True)
    for name, several in (("120 x (512, 16384)", layers), ("120 x (512, 512)", small)):
        results = cb.bundle_entropy_layers(several, labels)
        print(name, [r.num_bundles for r in results.values()][:3], flush=True)


if __name__ == "__main__":
    main()
