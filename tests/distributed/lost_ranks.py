"""Two processes of which the second one dies, or hangs longer than their group waits; the first one says so."""

from __future__ import annotations

import datetime
import os
import time

import numpy as np
from torch import distributed

import cbkernels as cb

SECONDS = 1.0

if __name__ == "__main__":
    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    first, second = (distributed.new_group(timeout=datetime.timedelta(seconds=SECONDS)) for _ in range(2))
    metric = cb.BundleEntropy()
    metric.update(np.ones((4, 2)), np.arange(4) % 2)
    for group, wait in ((first, 4 * SECONDS), (second, 0)):
        if distributed.get_rank() == 1:
            time.sleep(wait)
            continue
        try:
            metric.compute(group)
        except ConnectionError as error:
            print(f"{error}.", flush=True)
        time.sleep(wait)  # until the other one has died
    os._exit(0)
