"""Which filters are dropped: the lowest scores of the whole network, never all of one layer. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def places(sizes: Mapping[str, int], share: float, max_layer_share: float | None) -> tuple[int, dict[str, int]]:
    """How many filters go, rounded to the nearest, and how many of each layer may: one stays under any limit.

    Args:
        sizes: layer -> number of its filters.
        share, max_layer_share: as in ``Schedule``.

    Raises:
        ValueError: none would go, or the limit lets too few go.
    """
    total = sum(sizes.values())
    wanted = round(total * share)
    if wanted < 1:
        raise ValueError(f"share is {share!r}, which of {total} filters is none; raise it")
    if max_layer_share is None:
        return wanted, dict(sizes)
    left = {name: min(size - 1, int(size * max_layer_share + 1e-9)) for name, size in sizes.items()}
    if sum(left.values()) < wanted:
        raise ValueError(
            f"max_layer_share is {max_layer_share!r}, which lets {sum(left.values())} filters go, and share "
            f"{share!r} asks for {wanted}; raise the one or lower the other"
        )
    return wanted, left


def worst_filters(
    scores: Mapping[str, Sequence[float]], share: float, max_layer_share: float | None = None
) -> dict[str, tuple[int, ...]]:
    """The filters with the lowest scores, ranked over all layers together; among equals the earlier one.

    Args:
        scores: layer -> a finite score a filter.
        share, max_layer_share: as in ``Schedule``.

    Returns:
        layer -> sorted indices, for layers that lose any.

    Raises:
        ValueError: a layer would lose all its filters, or the limit leaves too few.

    Example:
        >>> worst_filters({"a": [3.0, 0.5, 2.0], "b": [1.0, 9.0, 8.0]}, 1 / 3)
        {'a': (1,), 'b': (0,)}
    """
    wanted, left = places({name: len(of_layer) for name, of_layer in scores.items()}, share, max_layer_share)
    chosen: dict[str, list[int]] = {name: [] for name in scores}
    place = {name: number for number, name in enumerate(scores)}
    ranked = [(score, place[name], index, name) for name in scores for index, score in enumerate(scores[name])]
    for _, _, index, name in sorted(ranked):
        if wanted and left[name]:
            chosen[name].append(index)
            left[name] -= 1
            wanted -= 1
    for name, indices in chosen.items():
        if len(indices) == len(scores[name]):
            raise ValueError(
                f"all {len(indices)} filters of layer {name!r} are among the worst {share:.0%}; pass max_layer_share= "
                "(such as 0.5) or a smaller share"
            )
    return {name: tuple(sorted(indices)) for name, indices in chosen.items() if indices}
