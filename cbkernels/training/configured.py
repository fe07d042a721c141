"""What a config names, made: its data set on a device, its network, torch as it asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..files.folders import output_path
from ..installation import installation
from ..runs.reader import data_found_at
from ..runs.schema import RESULT
from .config import TrainConfig
from .data.data_sets import DataSet, load_data_set
from .data.samples import Samples
from .networks.architecture import Architecture
from .networks.build import build_network
from .networks.kinds import MODELS


@contextmanager
def settled(threads: int | None) -> Iterator[None]:
    """Torch with so many threads; its random numbers go on afterwards as if none had been drawn."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(before)


def threads_of(config: TrainConfig) -> int | None:
    """What the config says, else what is best for its kind of network."""
    return config.threads or MODELS[config.model].threads


def data_set_of(config: TrainConfig, *folders: str | os.PathLike[str]) -> DataSet:
    """The data set, looked for where runs in these folders found it, too; errors as in ``load_data_set``."""
    return load_data_set(
        config.dataset, data_dir=config.data_dir, train_size=config.train_size, test_size=config.test_size,
        image_size=config.image_size, seed=config.data_seed, image_column=config.image_column,
        label_column=config.label_column, unpack_up_to=config.unpack_up_to,
        found_at=next(filter(None, (data_found_at(folder, config.dataset) for folder in folders)), None),
    )  # fmt: skip


def require_apart_from_data(out: str | os.PathLike[str], samples: Samples) -> None:
    """Refuse a run folder inside of the folder of the data, where its pictures would be read as a class."""
    if samples.found_at is not None:
        output_path(
            Path(out) / RESULT, samples.found_at
        )  # a file, because a folder around that of the data does no harm


def network_of(config: TrainConfig, architecture: Architecture, samples: Samples) -> Any:
    """One of the package's networks, its weights from the config's seed."""
    channels, height, width = samples.train[0].shape[1:]
    generator = torch.Generator().manual_seed(config.seed)
    return build_network(
        architecture, (channels, height, width), samples.num_classes, weights=config.weights, generator=generator
    )


def environment(samples: Samples) -> dict[str, Any]:
    """What ``env.json`` holds; nothing in it decides a result."""
    device = samples.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    threads = torch.get_num_threads()
    machine = {"torch_threads": threads, "cpus": os.cpu_count(), "device": str(device), "gpu": gpu}
    return {**installation(), **machine, "data": samples.found_at}
