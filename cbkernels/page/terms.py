"""The terms of the page: each is explained once, in the section in which a reader meets it first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word of the page that its readers may not know."""

    used: re.Pattern[str]
    """Is found in a text that uses it."""
    explanation: str
    """A sentence."""


def _term(used: str, explanation: str) -> Term:
    return Term(re.compile(used, re.IGNORECASE), explanation)


TERMS = (
    _term(r"\bbundles?\b", "A bundle holds the samples whose activations at a layer are equal: "
          "nothing behind that layer can tell them apart."),
    _term(r"\bconflict", "A bundle whose samples have different labels is conflicting, and so is a layer that has one: "
          "what is behind it is asked for several answers to one input."),
    _term(r"\bentropy\b", "Bundle entropy is the conditional entropy of the label given the bundle, in nats; "
          "it is 0 where no bundle conflicts."),
    _term(r"\bupdate grid\b", "The update grid holds values as a weight update sees them: "
          "w - activation * lr / batch_size, every step rounded to the type that is named."),
    _term(r"\bw=", "w is the largest absolute weight of the network."),
    _term(r"\bchance\b", "Chance is the accuracy of always naming the most frequent class."),
    _term(r"\bpolicy\b", "The policy says which blocks auto-tune removes when the last block conflicts."),
    _term(r"\bmargin\b", "The conflict margin of a layer is the smallest distance of two samples with different "
          "labels, which is the largest difference of their activations. In bits it is the logarithm to base 2 of the "
          "number of steps of the update grid in it."),
    _term(r"\bp10\b", "Eight of ten passes took a time between p10 and p90."),
    _term(r"\bheal", "Healing is training the network that is left after a removal."),
    _term(r"\bguard\b", "The guard is the accuracy on held-back samples that decides whether a block may go."),
)  # fmt: skip


def explained(texts: Iterable[str], known: set[Term]) -> list[str]:
    """The sentences on those terms that these texts use for the first time; ``known`` gets the terms."""
    new: set[Term] = set()
    waiting = "\n".join(texts)
    while found := {term for term in TERMS if term not in known and term.used.search(waiting)}:
        known.update(found)
        new |= found
        waiting = "\n".join(term.explanation for term in found)  # which may use another term
    return [term.explanation for term in TERMS if term in new]
