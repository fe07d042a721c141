"""Everything that decides a run's numbers, as frozen dataclasses; ``config.json`` holds them. Needs no torch.

A field's ``metadata`` holds what the command line says of it; ``commands/config_options.py`` makes the options.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from operator import ge, gt, le, lt
from typing import Any, TypeVar

from ..choices import MOST_THREADS
from ..files.unpacking import UNPACK_UP_TO
from ..filters.criteria import CRITERIA
from ..surgery.pruning.block_rankings import RANKINGS
from ..surgery.pruning.strategies import STRATEGIES
from .data.augmentation import AUGMENTATIONS, AUTO
from .data.sources import SOURCES
from .healings import HEALINGS
from .loop.optimizers import OPTIMIZERS
from .loop.schedules import SCHEDULES
from .networks.architecture import Architecture
from .networks.kinds import MODELS
from .networks.weights import WEIGHTS
from .policies import POLICIES, Policy, Removes, policy_of

WHAT_IF = ("bfloat16", "float16")
_DEPTH = "the number of layers in a network of one stage (fnn, cnn)"
_WIDTH = "the number of units or filters in each of these layers"
Config = TypeVar("Config")


def _option(default: Any, says: str, metavar: str | None = None, **more: Any) -> Any:
    """A field. ``choices``: the names it may have, of a table or not; ``besides`` them; ``open``: something checks
    them elsewhere; ``offers``: a table of names that are not the only ones; ``explained``: whether the
    command line says what each name does; ``is_size``: it takes 2G too; ``was``: an older name of the field.
    """
    return field(default=default, metadata={"help": says, "metavar": metavar, **more})


_data, _network, _training, _repr, _measuring, _machine, _autotune, _removal, _study = (
    partial(_option, group=group)
    for group in ("data", "network", "training", "repr", "measuring", "machine", "auto-tune", "removal", "study")
)


@dataclass(frozen=True)
class TrainConfig:
    """``cbkernels train``: one network, trained and measured every epoch."""

    dataset: str = _data(
        "digits", "the path of a file or folder, hf:ID of the Hugging Face hub, or a name", "NAME", offers=SOURCES
    )
    data_dir: str | None = _data(
        None, "the folder that holds NAME/*.parquet; the environment variable CBKERNELS_DATA names one too", "DIR"
    )
    image_column: str | None = _data(None, "the column of the images, in a table that has several", "NAME")
    label_column: str | None = _data(None, "the column of the labels, in a table that has several", "NAME")
    train_size: int | None = _data(None, "the number of training samples that are used (default all)", "N", least=1)
    test_size: int | None = _data(None, "the number of test samples that are used (default all)", "N", least=1)
    image_size: int | None = _data(None, "images are resized to N x N pixels", "N", least=1)
    augmentation: str = _data(
        AUTO, "how training images vary; auto: what the papers do for the data set", choices=AUGMENTATIONS,
        besides=(AUTO,),
    )  # fmt: skip
    validation_share: float = _data(
        0.0, "the share of the training samples that is held back, in [0, 1)", "X", least=0, below=1
    )
    data_seed: int = _data(
        0,
        "the seed that draws the subsets, the test part, the held-back part and the probe batch",
        "S",
        least=0,
        below=2**32,
    )
    model: str = _network("fnn", "the kind of network", choices=MODELS)
    depth: int = _network(3, _DEPTH, "N", least=1)
    width: int = _network(64, _WIDTH, "N", least=1)
    blocks: tuple[int, ...] = _network(
        (3, 12, 41, 3),
        "the number of blocks in each stage of a network of several stages (vgg, resnet)",
        "N",
        kind=int,
        least=0,
    )
    width_multiplier: float = _network(
        1.0, "the factor by which the number of filters in these stages is multiplied", "X", above=0
    )
    weights: str = _network("he", "how the weights start", choices=WEIGHTS)
    epochs: int = _training(120, "the number of epochs", "N", least=1)
    batch_size: int = _training(64, "the number of samples in an update, of all ranks together", "N", least=1)
    optimizer: str = _training("radam", "what updates the weights", choices=OPTIMIZERS)
    orthogonality_loss: float = _training(
        0.0, "the weight in the loss of the sum of |W W^T - I| over all convolutions", "X", least=0
    )
    distill_from: str | None = _training(None, "the folder of a run whose network teaches this one", "RUN", kind=str)
    distill_weight: float = _training(0.9, "the share of the loss that comes from the teacher", "X", least=0, most=1)
    distill_temperature: float = _training(
        4.0, "the temperature that divides the logits of both networks", "T", above=0
    )
    learning_rate: float = _training(1e-3, "the learning rate, the highest of the schedule", "LR", above=0)
    schedule: str = _training("constant", "how the learning rate changes from update to update", choices=SCHEDULES)
    warmup_epochs: float | None = _training(
        None, "the epochs in which the learning rate rises first, or a part of one (default 0; onecycle: 0.3 of all)",
        "X", kind=float, least=0,
    )  # fmt: skip
    weight_decay: float = _training(1e-2, "the weight decay, decoupled for radam and adamw", "X", least=0)
    eps: float = _training(1e-6, "the epsilon of radam and adamw", "X", above=0)
    momentum: float = _training(0.9, "the momentum of sgd", "X", least=0, below=1)
    lookahead_steps: int = _training(6, "the number of steps of radam between two updates of Lookahead", "N", least=1)
    lookahead_alpha: float = _training(0.5, "the step of Lookahead in radam, in (0, 1]", "X", above=0, most=1)
    repr: bool = _repr(False, "RePr drops the worst filters for some epochs and brings them back, in cycles")
    repr_criterion: str = _repr("orthogonality", "which filters are the worst", "NAME", choices=CRITERIA)
    repr_full_epochs: int = _repr(20, "the epochs of the whole network in a cycle, S1 in the paper", "N", least=1)
    repr_reduced_epochs: int = _repr(
        10, "the epochs in a cycle without the dropped filters, S2 in the paper", "N", least=1
    )
    repr_share: float = _repr(0.3, "the share of all filters that is dropped, p in the paper", "X", above=0, below=1)
    repr_cycles: int = _repr(3, "the number of cycles, N in the paper", "N", least=1)
    repr_rank_first: bool = _repr(True, "whether filters of the first layer may be dropped too")
    repr_max_layer_share: float | None = _repr(
        None,
        "the largest share of a layer's filters that is dropped (default no limit)",
        "X",
        kind=float,
        above=0,
        most=1,
    )
    seed: int = _training(
        0, "the seed of the weights, the order of the samples and the augmentation", "S", least=0, below=2**63
    )
    probe_size: int = _measuring(512, "the number of training samples that are measured", "N", least=2)
    margin: bool = _measuring(False, "the conflict margin of every layer is measured too and written into margins.csv")
    what_if: tuple[str, ...] = _measuring(
        (), "the network is also measured as if it were trained in these types", kind=str, choices=WHAT_IF
    )
    device: str = _machine("auto", "the device: auto, cpu, cuda, cuda:1, ...", "DEVICE")
    amp: bool = _machine(False, "the network trains under an autocast to bfloat16")
    compile: bool = _machine(False, "the network is compiled with torch.compile")
    channels_last: bool = _machine(False, "images and weights are kept in the channels-last memory format")
    threads: int | None = _machine(
        None,
        "the number of torch's threads on a CPU (default 1 for dense networks, else torch's own)",
        "N",
        least=1,
        most=MOST_THREADS,
    )
    unpack_up_to: int = _machine(
        UNPACK_UP_TO, "the memory that compressed data may unpack to, 2G or 512MiB too", "BYTES", least=1, is_size=True
    )
    tensorboard: bool = _machine(False, "event files for TensorBoard are written into DIR/tensorboard too")

    def __post_init__(self) -> None:
        check(self)
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs!r}; it must be less than the {self.epochs} epochs")
        MODELS[self.model].check_blocks(self.architecture.blocks)

    @property
    def architecture(self) -> Architecture:
        """What is built (first)."""
        return Architecture.from_dict(MODELS[self.model].planned(vars(self)))


@dataclass(frozen=True)
class AutotuneConfig(TrainConfig):
    """``cbkernels autotune``: train, remove what conflicts early on, start again."""

    depth: int = _network(50, _DEPTH, "N", least=1)
    width: int = _network(10, _WIDTH, "N", least=1)
    probe_size: int | None = _measuring(  # type: ignore[assignment]
        None, "the number of training samples that are measured (default: what the policy says)", "N", least=2
    )
    policy: str = _autotune("all", "which blocks are removed", choices=POLICIES, open=True)
    check_epochs: int = _autotune(
        10, "the number of epochs at the start that must pass without a conflict", "N", least=1
    )
    min_conflicting_rows: int = _autotune(
        1, "the number of rows in conflicting bundles that make a conflict", "N", least=1
    )
    max_rounds: int = _autotune(20, "the number of rounds after which auto-tune gives up", "N", least=1)
    baseline: bool = _autotune(True, "the first network trains to its end for the comparison, although it conflicts")

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

    rank: str = _removal("margin", "the order in which blocks are tried", choices=RANKINGS)
    compare: tuple[str, ...] = _removal(
        (), "further orders, each of which prunes a copy of the network; --rank explains them", kind=str,
        choices=RANKINGS, explained=False,
    )  # fmt: skip
    max_drop: float = _removal(
        0.01, "the accuracy that all removals together may cost on the guard, the samples that judge every removal",
        "X", least=0, most=1,
    )  # fmt: skip
    target: float | None = _removal(
        None, "the share of the blocks to remove, rounded up to whole blocks (default as many as can go)", "X",
        kind=float, above=0, most=1,
    )  # fmt: skip
    max_removed: int | None = _removal(None, "the largest number of blocks to remove (default no limit)", "N", least=0)
    strategy: str | None = _removal(
        None,
        "the number of blocks that are tried at once (default geometric with --heal each, else one)",
        choices=STRATEGIES,
    )
    heal: str = _removal("each", "when the network trains without the blocks", choices=HEALINGS)
    heal_epochs: int = _removal(
        5,
        "the number of epochs of each healing, which follows the recipe of the run",
        "N",
        least=0,
        was="finetune_epochs",
    )
    min_conflicting_rows: int = _removal(
        1, "the number of rows in conflicting bundles that make a conflict", "N", least=1
    )
    probe_size: int = _removal(512, "the number of training samples that are measured", "N", least=2)
    study: bool = _study(True, "the accuracy is measured against the number of removed blocks")
    draws: int = _study(15, "the number of random choices of blocks for each number of removed blocks", "N", least=1)
    study_size: int = _study(2000, "the number of test samples that the study uses", "N", least=1)
    most: int | None = _study(
        None, "the largest number of blocks that are removed together (default all)", "N", least=1
    )
    seed: int = _machine(0, "the seed of the random choices, the ranking and the healing", "S", least=0, below=2**63)
    device: str = _machine("auto", "the device: auto, cpu, cuda, cuda:1, ...", "DEVICE")
    threads: int | None = _machine(
        None, "the number of torch's threads on a CPU (default torch's own)", "N", least=1, most=MOST_THREADS
    )

    def __post_init__(self) -> None:
        check(self)
        if self.strategy is None:
            object.__setattr__(self, "strategy", HEALINGS[self.heal].strategy)


def check(config: Any) -> None:
    """Refuse what is out of range, as a ValueError or TypeError of one sentence that quotes the field."""
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
    without_default = int if "least" in each.metadata else str
    usual = without_default if each.default is None else type(each.default)
    return each.metadata.get("kind", usual)  # type: ignore[no-any-return]


def _check_one(name: str, value: Any, kind: type, rules: Mapping[str, Any]) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = is_number if kind is float else isinstance(value, kind) and (kind is not int or is_number)
    if not fits:
        raise TypeError(f"{name} is {value!r}; pass {_A[kind]}")
    if "choices" in rules and not rules.get("open") and value not in choices_of(rules):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices_of(rules))}")
    if not is_number:
        return
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it must be finite")
    limits = [(holds, words, rules[rule]) for rule, (holds, words) in _LIMITS.items() if rule in rules]
    if not all(holds(value, limit) for holds, _, limit in limits):
        said = " and ".join(f"{words} {limit}" for _, words, limit in limits)
        raise ValueError(f"{name} is {value!r}; it must be {said}")


def choices_of(rules: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a field may have, those of a table as it is now."""
    return (*rules.get("besides", ()), *rules["choices"])


_A = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
_LIMITS = {"least": (ge, "at least"), "above": (gt, "above"), "most": (le, "at most"), "below": (lt, "below")}


def to_dict(config: Any) -> dict[str, Any]:
    """JSON types, in the order of the fields."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def from_dict(kind: type[Config], content: Mapping[str, Any]) -> Config:
    """A config of ``content``; what it lacks takes its default, keys that no field has are refused.

    Raises:
        ValueError, TypeError: one sentence that quotes the field.
    """
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    now = {each.metadata.get("was"): each.name for each in fields(kind)}  # type: ignore[arg-type]
    content = {now.get(name, name): value for name, value in content.items()}
    require_known(content, known, kind.__name__)
    return kind(**content)


def require_known(options: Iterable[str], known: Collection[str], owner: str) -> None:
    """Refuse the first name that is none of those that are known, with the nearest of these.

    Raises:
        ValueError: there is such a name.
    """
    if unknown := sorted(set(options) - set(known)):
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"do you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
        raise ValueError(f"{unknown[0]!r} is not an option of {owner}; {hint}")
