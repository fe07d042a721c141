"""A training whose second rank dies, without a word, before its first epoch is over."""

from __future__ import annotations

import os
import sys

from cbkernels.command_line import main
from cbkernels.training.loop.measured_epochs import MeasuredTraining


def die(*_: object) -> None:
    os._exit(0)


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        MeasuredTraining.next_epoch = die  # type: ignore[assignment, method-assign]
    options = ["--depth=2", "--epochs=1", "--train-size=80", "--test-size=40", "--batch-size=40", "--device=cpu"]
    sys.exit(main(["train", *options, "--out", sys.argv[1]]))
