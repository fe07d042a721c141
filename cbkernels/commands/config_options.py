"""Options of a subcommand from the fields of a config dataclass, and the config from what was given.

Defaults are the dataclass's: an option that was not given is absent, so that ``--config`` and ``--resume`` can fill it.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from ..choices import Choices
from ..filters.schedule import PRESETS
from ..training.config import choices_of, kind_of
from .sizes import num_bytes

_TITLES = {
    "data": "the data", "network": "the network", "training": "the training, by default as in the papers",
    "repr": "RePr", "measuring": "what is measured", "machine": "where it runs", "auto-tune": "auto-tune",
    "removal": "the removal", "study": "the study",
}  # fmt: skip


def add_config_options(
    parser: argparse.ArgumentParser, kind: type[Any], defaults: Mapping[str, Any] = MappingProxyType({}),
    decided: Collection[str] = (),
) -> None:  # fmt: skip
    """An option for every field of a config, in the groups of its fields' metadata.

    Args:
        parser: of a subcommand.
        kind: of config.
        defaults: those that the subcommand has in place of the config's.
        decided: fields that it decides itself; their options are not shown.
    """
    groups: dict[str, Any] = {}
    for field in fields(kind):
        title = _TITLES[field.metadata["group"]]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_option(groups[title], field, defaults.get(field.name, field.default), field.name not in decided)
    if _TITLES["repr"] in groups:
        told = " ".join(preset.told for preset in PRESETS.values())
        says = f"Values for those of these options that are not named themselves. {told}"
        groups[_TITLES["repr"]].add_argument(
            "--repr-preset", choices=PRESETS, default=argparse.SUPPRESS, help=says.replace("%", "%%")
        )


def given_options(arguments: argparse.Namespace, kind: type[Any]) -> dict[str, Any]:
    """The fields that were named on the command line, and what a preset that was named sets of the others."""
    named = {f.name: getattr(arguments, f.name) for f in fields(kind) if hasattr(arguments, f.name)}
    preset = PRESETS[arguments.repr_preset].values if hasattr(arguments, "repr_preset") else {}
    return {**{f"repr_{name}": value for name, value in preset.items()}, **named}


def _add_option(group: Any, field: Any, default: Any, is_shown: bool) -> None:
    rules = field.metadata
    flag, *older = [f"--{name.replace('_', '-')}" for name in (field.name, rules.get("was")) if name]
    table = rules.get("offers", rules.get("choices"))
    explained = isinstance(table, Choices) and rules.get("explained", True)
    says = f"{rules['help']}; {table.told()}" if explained else rules["help"]
    common: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
    if isinstance(default, bool):
        shown = "" if "default" in says else f" (default {'yes' if default else 'no'})"
        text = says + shown if is_shown else argparse.SUPPRESS
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, **common)
        return
    several = isinstance(default, tuple)
    if several:
        common["nargs"] = "+" if default else "*"
    if "choices" in rules and rules["metavar"] is None:
        common["choices"] = choices_of(rules)
    else:
        common["metavar"] = rules["metavar"]
    words = " ".join(map(str, default)) if several else default
    shown = "" if "default" in rules["help"] or default in (None, ()) else f" (default {words})"
    text = (says + shown).replace("%", "%%") if is_shown else argparse.SUPPRESS
    group.add_argument(flag, *older, type=num_bytes if rules.get("is_size") else kind_of(field), help=text, **common)
