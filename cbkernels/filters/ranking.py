"""Which filters are dropped: the lowest scores of the whole network, never all of one layer. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def num_dropped(num_filters: int, share: float) -> int:
    """How many filters are a share of so many, rounded to the nearest.

    Raises:
        ValueError: none would be.
    """
    count = round(num_filters * share)
    if count < 1:
        raise ValueError(f"share is {share!r}, which of {num_filters} filters is none; raise it")
    return count


def allowed(num_filters: int, max_layer_share: float | None) -> int:
    """How many filters of one layer may go: with a limit at most its share, and one stays."""
    return num_filters if max_layer_share is None else min(num_filters - 1, int(num_filters * max_layer_share + 1e-9))


def worst_filters(
    scores: Mapping[str, Sequence[float]], share: float, max_layer_share: float | None = None
) -> dict[str, tuple[int, ...]]:
    """The filters with the lowest scores, ranked over all layers together; among equals the earlier one.

    Args:
        scores: layer -> a finite score a filter.
        share: of all filters, in (0, 1).
        max_layer_share: of the filters of one layer, in (0, 1]; what a layer is spared goes to the others.

    Returns:
        layer -> sorted indices, for layers that lose any.

    Raises:
        ValueError: a layer would lose all its filters, or the limit leaves too few.

    Example:
        >>> worst_filters({"a": [3.0, 0.5, 2.0], "b": [1.0, 9.0, 8.0]}, 1 / 3)
        {'a': (1,), 'b': (0,)}
    """
    wanted = num_dropped(sum(map(len, scores.values())), share)
    left = {name: allowed(len(of_layer), max_layer_share) for name, of_layer in scores.items()}
    require_enough(left, wanted, share, max_layer_share)
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


def require_enough(left: Mapping[str, int], wanted: int, share: float, max_layer_share: float | None) -> None:
    """Refuse a limit under which so many filters cannot go.

    Raises:
        ValueError: it is too low.
    """
    if sum(left.values()) < wanted:
        raise ValueError(
            f"max_layer_share is {max_layer_share!r}, which lets {sum(left.values())} filters go, and share "
            f"{share!r} asks for {wanted}; raise the one or lower the other"
        )
