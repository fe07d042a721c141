"""New filters: orthogonal where there is room, relaxed as documented where there is none; a fresh optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="new filters: NOT TESTED HERE (no torch)")
from torch import nn  # noqa: E402

from cbkernels.filters.layers import find_filter_layers  # noqa: E402
from cbkernels.filters.reinitialisation import orthogonal_filters, start_afresh  # noqa: E402
from cbkernels.training.loop.lookahead import Lookahead  # noqa: E402


def drawn(num: int, num_weights: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((num, num_weights)).astype(np.float32))


def new_filters(kept: Any, old: Any, seed: int = 0) -> tuple[Any, list[bool]]:
    return orthogonal_filters(kept, old, torch.Generator().manual_seed(seed))


def cosines(one: Any, other: Any) -> Any:
    """Largest |cos| of each row of one with the rows of the other, in float64 NumPy."""
    one, other = (np.asarray(rows, np.float64) for rows in (one, other))
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    return np.abs(one @ other.T)


@pytest.mark.parametrize(("num_kept", "num_old", "num_weights"), [(22, 10, 288), (7, 1, 9), (6, 2, 9), (1, 4, 6)])
def test_orthogonal_to_all_while_there_is_room(num_kept: int, num_old: int, num_weights: int) -> None:
    kept, old = drawn(num_kept, num_weights, 1), drawn(num_old, num_weights, 2)
    new, relaxed = new_filters(kept, old)
    new = new.float()  # as the model will hold them
    assert relaxed == [False] * num_old
    assert cosines(new, kept).max() < 1e-5
    assert np.diag(cosines(new, old)).max() < 1e-5
    assert np.triu(cosines(new, new), 1).max() < 1e-5
    length = np.median(np.linalg.norm(kept.numpy().astype(np.float64), axis=1)) if num_kept % 2 else None
    norms = np.linalg.norm(new.numpy(), axis=1)
    assert norms == pytest.approx(norms[0], rel=1e-5)
    assert length is None or norms == pytest.approx(length, rel=1e-5)


def test_room_is_counted_by_rank_and_not_by_rows() -> None:
    """Forty kept filters that span five directions leave four for one new filter beside its old value."""
    kept, old = drawn(40, 5) @ drawn(5, 10, 1), drawn(3, 10, 2)
    new, relaxed = new_filters(kept, old)
    assert relaxed == [False] * 3
    assert cosines(new, kept).max() < 1e-5
    assert np.diag(cosines(new, old)).max() < 1e-5


def test_more_new_filters_than_room_are_no_copies_of_each_other() -> None:
    kept, old = drawn(5, 9, 1), drawn(9, 9, 2)
    new, relaxed = new_filters(kept, old)
    assert not any(relaxed)
    assert cosines(new, kept).max() < 1e-5
    assert np.diag(cosines(new, old)).max() < 1e-5
    among = cosines(new, new)
    for group in (slice(0, 3), slice(3, 6), slice(6, 9)):  # d - 1 - rank = 3 at a time
        assert np.triu(among[group, group], 1).max() < 1e-5
    assert np.triu(among, 1).max() < 0.9999


@pytest.mark.parametrize("num_kept", [26, 27, 60])
def test_without_room_the_overlapping_ones_are_avoided(num_kept: int) -> None:
    """32 filters of 27 weights, the papers' first layer: old value and the 12 kept ones nearest to it."""
    kept, old = drawn(num_kept, 27, 1), drawn(6, 27, 2)
    new, relaxed = new_filters(kept, old)
    assert relaxed == [True] * 6
    assert np.diag(cosines(new, old)).max() < 1e-5
    for f in range(6):
        nearest = np.argsort(-cosines(old[f : f + 1], kept)[0])[:12]
        assert cosines(new[f : f + 1], kept[nearest]).max() < 1e-5
    assert np.triu(cosines(new, new), 1).max() < 1e-5, "seven directions were free for the five others"
    norms, typical = np.linalg.norm(new, axis=1), np.median(np.linalg.norm(kept, axis=1))
    assert (norms <= typical * 1.05).all()
    assert (norms > typical * 0.2).all()
    assert len(set(norms.tolist())) == 6


@pytest.mark.parametrize("num_weights", [1, 2, 3, 4])
def test_tiny_filters_and_dead_ones_get_finite_values(num_weights: int) -> None:
    for kept, old in [
        (drawn(6, num_weights), drawn(5, num_weights, 1)),
        (torch.zeros(3, num_weights), torch.zeros(2, num_weights)),
        (drawn(1, num_weights), torch.zeros(7, num_weights)),
    ]:
        new, _ = new_filters(kept, old)
        assert bool(new.isfinite().all())
        assert (new.norm(dim=1) > 0).all()
        if num_weights > 1 and bool(old.any()):
            assert np.diag(cosines(new, old)).max() < 1e-5


def test_the_generator_decides() -> None:
    kept, old = drawn(4, 20), drawn(3, 20, 1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, again, other = (new_filters(kept, old, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


# --- everything else of them begins anew -----------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "lookahead": lambda p: Lookahead(torch.optim.RAdam(p, lr=0.01), 2, 0.5),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_norm_and_optimizer_begin_anew_for_these_filters_only(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(8, 2, 5, 5)).square().mean().backward()
        optimizer.step()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    inner = getattr(optimizer, "inner", optimizer)

    def states() -> dict[tuple[str, str], Any]:
        return {
            (parameter_name, key): content.clone()
            for parameter_name, parameter in model.named_parameters()
            for source in {id(optimizer): optimizer, id(inner): inner}.values()
            for key, content in source.state[parameter].items()
            if torch.is_tensor(content) and content.shape == parameter.shape
        }

    states_before = states()
    assert len(states_before) == {"sgd": 1, "adam": 3, "adamw": 2, "lookahead": 3}[name] * 6
    chosen, others = [1, 4], [0, 2, 3, 5]
    values = drawn(2, 18)
    start_afresh(find_filter_layers(model).layers[0], chosen, values, optimizer)
    after = model.state_dict()
    assert torch.equal(after["0.weight"][chosen].flatten(1), values)
    first = {"0.bias": 0.0, "1.weight": 1.0, "1.bias": 0.0, "1.running_mean": 0.0, "1.running_var": 1.0}
    for key, value in first.items():
        assert after[key][chosen].tolist() == [value] * 2, key
    for key in ("0.weight", *first):
        assert torch.equal(after[key][others], before[key][others]), key
    assert torch.equal(after["4.weight"], before["4.weight"])
    for (parameter, key), content in states().items():
        old = states_before[parameter, key]
        if parameter.startswith("4"):
            assert torch.equal(content, old)
            continue
        assert torch.equal(content[others], old[others]), (parameter, key)
        expected = after[parameter][chosen] if key == "slow" else torch.zeros_like(old[chosen])
        assert torch.equal(content[chosen], expected), (parameter, key)
        assert not torch.equal(content[chosen], old[chosen]), (parameter, key)
