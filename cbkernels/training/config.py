"""Everything that decides a run's numbers, as frozen dataclasses; ``config.json`` holds them. Needs no torch.

A field's ``metadata`` holds what the command line says of it; ``commands/config_options.py`` makes the options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from ..filters.criteria import CRITERIA
from .data.augmentation import AUGMENTATIONS, AUTO
from .data.sources import SOURCES
from .loop.optimizers import OPTIMIZERS
from .networks.architecture import Architecture
from .networks.kinds import MODELS
from .networks.weights import WEIGHTS
from .policies import POLICIES, Policy, Removes, policy_of
from .rankings import RANKINGS

WHAT_IF = ("bfloat16", "float16")
Config = TypeVar("Config")


def _option(default: Any, says: str, metavar: str | None = None, **more: Any) -> Any:
    """A field. ``choices``: the names it may have, of a table or not; ``besides`` them; ``open``: something checks
    them elsewhere; ``offers``: a table of names that are not the only ones.
    """
    return field(default=default, metadata={"help": says, "metavar": metavar, **more})


@dataclass(frozen=True)
class TrainConfig:
    """``cbkernels train``: one network, trained and measured every epoch."""

    dataset: str = _option(
        "digits", "a path, hf:ID of the Hugging Face hub, or a name", "NAME", offers=SOURCES, group="data"
    )
    data_dir: str | None = _option(None, "folder that holds NAME/*.parquet (also: CBKERNELS_DATA)", "DIR", group="data")
    train_size: int | None = _option(None, "use so many training samples (default all)", "N", least=1, group="data")
    test_size: int | None = _option(None, "use so many test samples (default all)", "N", least=1, group="data")
    image_size: int | None = _option(None, "resize images to N x N pixels", "N", least=1, group="data")
    augmentation: str = _option(
        AUTO, "how training images vary; auto: as the papers do for the data set", choices=AUGMENTATIONS,
        besides=(AUTO,), group="data",
    )  # fmt: skip
    validation_share: float = _option(
        0.0, "part of the training samples held back, in [0, 1)", "X", least=0, below=1, group="data"
    )
    data_seed: int = _option(
        0, "of subsets, test part, held-back part and probe", "S", least=0, below=2**32, group="data"
    )
    model: str = _option("fnn", "kind of network", choices=MODELS, group="network")
    depth: int = _option(50, "layers of a network of one stage", "N", least=1, group="network")
    width: int = _option(10, "units or filters of each of them", "N", least=1, group="network")
    blocks: tuple[int, ...] = _option(
        (3, 12, 41, 3), "blocks per stage of a network of several", "N", kind=int, least=0, group="network"
    )
    width_multiplier: float = _option(1.0, "of the filters of its stages", "X", above=0, group="network")
    weights: str = _option("he", "how weights start", choices=WEIGHTS, group="network")
    epochs: int = _option(120, "epochs of training", "N", least=1, group="training")
    batch_size: int = _option(64, "samples a step, over all ranks", "N", least=1, group="training")
    optimizer: str = _option("radam", "what updates the weights", choices=OPTIMIZERS, group="training")
    orthogonality_loss: float = _option(
        0.0, "weight of the sum of |W W^T - I| over all convolutions", "X", least=0, group="training"
    )
    distill_from: str | None = _option(
        None, "folder of a run whose network teaches this one", "RUN", kind=str, group="training"
    )
    distill_weight: float = _option(0.9, "of the teacher beside the labels", "X", least=0, most=1, group="training")
    distill_temperature: float = _option(4.0, "of both networks' logits", "T", above=0, group="training")
    learning_rate: float = _option(1e-3, "constant", "LR", above=0, group="training")
    weight_decay: float = _option(1e-2, "decoupled (radam, adamw); SGD's own", "X", least=0, group="training")
    eps: float = _option(1e-6, "of radam and adamw", "X", above=0, group="training")
    momentum: float = _option(0.9, "of SGD", "X", least=0, below=1, group="training")
    lookahead_steps: int = _option(6, "of radam", "N", least=1, group="training")
    lookahead_alpha: float = _option(0.5, "of radam", "X", above=0, most=1, group="training")
    repr: bool = _option(False, "drop the worst filters for some epochs and bring them back, in cycles", group="repr")
    repr_criterion: str = _option(
        "orthogonality", "which filters are the worst, see docs/repr.md", "NAME", choices=CRITERIA, group="repr"
    )
    repr_full_epochs: int = _option(20, "of the whole network in a cycle, S1", "N", least=1, group="repr")
    repr_reduced_epochs: int = _option(10, "without the dropped filters, S2", "N", least=1, group="repr")
    repr_share: float = _option(0.3, "of all filters that are dropped, p", "X", above=0, below=1, group="repr")
    repr_cycles: int = _option(3, "how often, N", "N", least=1, group="repr")
    repr_rank_first: bool = _option(True, "filters of the first layer may be dropped", group="repr")
    repr_max_layer_share: float | None = _option(
        None, "of a layer's filters that may be dropped", "X", kind=float, above=0, most=1, group="repr"
    )
    seed: int = _option(0, "of weights, order, augmentation", "S", least=0, below=2**63, group="training")
    probe_size: int = _option(512, "training samples that are measured", "N", least=2, group="measuring")
    margin: bool = _option(False, "also the conflict margin of every layer, into margins.csv", group="measuring")
    what_if: tuple[str, ...] = _option(
        (), "measure as if trained in these types too", kind=str, choices=WHAT_IF, group="measuring"
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, ...", "DEVICE", group="machine")
    amp: bool = _option(False, "bfloat16 autocast in training", group="machine")
    compile: bool = _option(False, "torch.compile the network", group="machine")
    channels_last: bool = _option(False, "memory format of images and weights", group="machine")
    threads: int | None = _option(
        None, "torch's threads on a CPU (default 1 for dense networks, else torch's)", "N", least=1, group="machine"
    )
    tensorboard: bool = _option(False, "also write event files, into DIR/tensorboard", group="machine")

    def __post_init__(self) -> None:
        check(self)
        MODELS[self.model].check_blocks(self.architecture.blocks)

    @property
    def architecture(self) -> Architecture:
        """What is built (first)."""
        return Architecture.from_dict(MODELS[self.model].planned(vars(self)))


@dataclass(frozen=True)
class AutotuneConfig(TrainConfig):
    """``cbkernels autotune``: train, remove what conflicts early on, start again."""

    probe_size: int | None = _option(  # type: ignore[assignment]
        None, "training samples that are measured (default: the policy's)", "N", least=2, group="measuring"
    )
    policy: str = _option("all", "what is removed", choices=POLICIES, open=True, group="auto-tune")
    check_epochs: int = _option(
        10, "epochs at the start that must pass without a conflict", "N", least=1, group="auto-tune"
    )
    min_conflicting_rows: int = _option(
        1, "fewer rows in conflicting bundles are no conflict", "N", least=1, group="auto-tune"
    )
    max_rounds: int = _option(20, "end as exhausted after so many", "N", least=1, group="auto-tune")
    baseline: bool = _option(
        True, "train the first network to its end for the comparison, although it conflicts", group="auto-tune"
    )

    def __post_init__(self) -> None:
        given: str | Policy | Removes = self.policy
        policy = policy_of(given)  # one of your own is recorded by its name as well
        object.__setattr__(self, "policy", policy.name)
        super().__post_init__()
        if self.probe_size is None:
            object.__setattr__(self, "probe_size", policy.probe_size)


@dataclass(frozen=True)
class RemoveConfig:
    """``cbkernels remove``: which blocks of a trained residual network can go."""

    rank: str = _option("margin", "the order in which blocks are tried", choices=RANKINGS, group="removal")
    max_drop: float = _option(
        0.01, "accuracy that may be lost before fine-tuning, in [0, 1]", "X", least=0, most=1, group="removal"
    )
    max_removed: int | None = _option(None, "remove at most so many blocks", "N", least=0, group="removal")
    finetune_epochs: int = _option(5, "epochs of healing", "N", least=0, group="removal")
    min_conflicting_rows: int = _option(
        1, "fewer rows in conflicting bundles are no conflict", "N", least=1, group="removal"
    )
    probe_size: int = _option(512, "training samples that are measured", "N", least=2, group="removal")
    study: bool = _option(True, "accuracy against the number of removed blocks", group="study")
    draws: int = _option(15, "random draws for each number of blocks", "N", least=1, group="study")
    study_size: int = _option(2000, "test samples of the study", "N", least=1, group="study")
    most: int | None = _option(
        None, "largest number of blocks removed together (default all)", "N", least=1, group="study"
    )
    seed: int = _option(0, "of draws, ranking and fine-tuning", "S", least=0, below=2**63, group="machine")
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, ...", "DEVICE", group="machine")
    threads: int | None = _option(None, "torch's threads on a CPU", "N", least=1, group="machine")

    def __post_init__(self) -> None:
        check(self)


def check(config: Any) -> None:
    """Refuse what is out of range.

    Raises:
        ValueError, TypeError: one sentence that quotes the field.
    """
    for each in fields(config):
        value, rules = getattr(config, each.name), each.metadata
        if value is None and each.default is None:
            continue
        several = isinstance(each.default, tuple)
        if several:
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise TypeError(f"{each.name} is {value!r}; pass a list")
            object.__setattr__(config, each.name, tuple(value))
        for one in tuple(value) if several else (value,):
            _check_one(each.name, one, kind_of(each), rules)


def kind_of(each: Any) -> type:
    """What the values of a field are; of a list, its entries."""
    kind = each.metadata.get("kind")
    if kind is not None:
        return kind  # type: ignore[no-any-return]
    if each.default is not None:
        return type(each.default)
    return int if "least" in each.metadata else str


def _check_one(name: str, value: Any, kind: type, rules: Mapping[str, Any]) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float:
        if not is_number:
            raise TypeError(f"{name} is {value!r}; pass a number")
    elif not isinstance(value, kind) or (kind is int and not is_number):
        raise TypeError(f"{name} is {value!r}; pass {_A[kind]}")
    if "choices" in rules and not rules.get("open") and value not in choices_of(rules):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices_of(rules))}")
    if not is_number:
        return
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it must be finite")
    limits = [
        ("least", value >= rules.get("least", value), "at least"),
        ("above", value > rules.get("above", -math.inf), "above"),
        ("most", value <= rules.get("most", value), "at most"),
        ("below", value < rules.get("below", math.inf), "below"),
    ]
    if not all(holds for _, holds, _ in limits):
        said = " and ".join(f"{words} {rules[rule]}" for rule, _, words in limits if rule in rules)
        raise ValueError(f"{name} is {value!r}; it must be {said}")


def choices_of(rules: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a field may have, those of a table as it is now."""
    return (*rules.get("besides", ()), *rules["choices"])


_A = {int: "a whole number", str: "a string", bool: "true or false"}


def to_dict(config: Any) -> dict[str, Any]:
    """JSON types, in the order of the fields."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def from_dict(kind: type[Config], content: Mapping[str, Any]) -> Config:
    """A config of ``content``; what it lacks takes its default, keys that no field has are refused.

    Raises:
        ValueError, TypeError: one sentence that quotes the field.
    """
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not an option of {kind.__name__}; it has {', '.join(sorted(known))}")
    return kind(**content)
