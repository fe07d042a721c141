"""The record of a forward pass: what was made of what, however memory is shared, written to and given back."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the record of operations: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from cbkernels.models.dataflow import Recording, record  # noqa: E402
from cbkernels.models.evaluation import evaluating  # noqa: E402
from cbkernels.models.residual_blocks import find_residual_blocks  # noqa: E402

from .. import model_zoo  # noqa: E402


class Body(nn.Module):
    """A model that is one function of its input."""

    def __init__(self, body: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.dense, self.other, self.body = nn.Linear(4, 4), nn.Linear(4, 4), body
        self.register_buffer("constant", torch.ones(4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


def recorded(body: Callable[[Any, torch.Tensor], Any], x: torch.Tensor | None = None) -> Recording:
    torch.manual_seed(0)
    model, x = Body(body), torch.randn(3, 4) if x is None else x
    with evaluating(model) as inner:
        return record(inner, lambda: inner(x))


def made_of(recording: Recording) -> tuple[list[str], set[str]]:
    """Operations that lead to the model's output; what of it came from outside, and how."""
    root = recording.calls_of("")[0]
    todo, seen = list(root.outputs[:1]), set()
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            todo += recording.nodes[i].parents
    nodes = [recording.nodes[i] for i in sorted(seen)]
    sources = {"data" if n.is_data else "weight" if n.is_weight else "constant" for n in nodes if not n.op}
    return [node.op for node in nodes if node.op], sources


def test_operations_parents_and_sources() -> None:
    operations, sources = made_of(recorded(lambda m, x: torch.relu(m.dense(x)) + m.constant))
    assert operations == ["t", "addmm", "relu", "add"]
    assert sources == {"data", "weight", "constant"}
    recording = recorded(lambda m, x: x + m.dense(x))
    total = recording.nodes[recording.calls_of("")[0].outputs[0]]
    assert (total.op, total.call, total.shape) == ("add", 0, (3, 4))
    assert [recording.nodes[i].op for i in total.parents] == ["", "addmm"]
    assert [node.op for node in recording.nodes if node.is_layer] == ["addmm"]


def test_calls_nest_and_know_what_they_took_and_returned() -> None:
    recording = recorded(lambda m, x: (m.other(m.dense(x)), None))
    root, dense, other = recording.calls
    assert [call.module for call in recording.calls] == recording.order() == ["", "dense", "other"]
    assert (root.around, dense.around, other.around) == (-1, 0, 0)
    assert dense.inputs == root.inputs
    assert dense.outputs == other.inputs
    assert other.outputs == root.outputs
    assert root.structure == ["tuple", 2]
    assert recording.keeps_shape(root)
    assert (root.first, root.until) == (dense.first, 3)


ALIASES: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "in place": lambda m, x: m.dense(x).add_(m.other(x)),
    "a view is written to": lambda m, x: written(m.dense(x), lambda y: y.view(-1).add_(m.other(x).view(-1))),
    "part of it is written to": lambda m, x: written(m.dense(x), lambda y: y[:, 1:3].add_(m.other(x)[:, :2])),
    "an item is assigned": lambda m, x: written(m.dense(x), lambda y: y.__setitem__((slice(0, 2),), m.other(x)[:2])),
    "the base of a view is written to": lambda m, x: base_written(m.dense(x), m.other(x)),
    "out=": lambda m, x: torch.add(m.dense(x), m.other(x), out=torch.empty(3, 4)),
    "a list": lambda m, x: torch.stack([m.dense(x), m.other(x)]).sum(0),
    "split": lambda m, x: sum(torch.cat([m.dense(x), m.other(x)], 1).chunk(2, 1)),
    "detached": lambda m, x: m.dense(x).detach() + m.other(x).data,
    "through numbers of other types": lambda m, x: m.dense(x).double().add(m.other(x).to(torch.float64)).float(),
}


def written(y: torch.Tensor, write: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    write(y)
    return y


def base_written(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    view = y.transpose(0, 1)
    y.add_(z)
    return view * 2


@pytest.mark.parametrize("name", ALIASES)
def test_sums_are_seen_however_memory_is_shared(name: str) -> None:
    recording = recorded(ALIASES[name])
    operations, _ = made_of(recording)
    assert operations.count("addmm") == 2, "both layers lead to the output"


def test_what_is_overwritten_leads_nowhere() -> None:
    recording = recorded(lambda m, x: m.dense(x).copy_(m.other(x)))
    assert made_of(recording)[0].count("addmm") == 1
    recording = recorded(lambda m, x: written(m.dense(x), lambda y: y.view(-1).copy_(m.other(x).view(-1))))
    assert made_of(recording)[0].count("addmm") == 1
    recording = recorded(lambda m, x: m.dense(x).zero_())
    assert made_of(recording)[0] == ["zero"]
    halves = recorded(lambda m, x: halves_written(torch.zeros(2, 4), m.dense(x), m.other(x)))
    assert made_of(halves)[0].count("addmm") == 1, "rows that do not overlap have nothing to do with each other"


def halves_written(buffer: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    first, second = buffer[0], buffer[1]
    first.copy_(one[0])
    second.copy_(two[0])
    return first * 1


def test_an_input_that_is_overwritten_is_still_the_input_of_the_call() -> None:
    recording = recorded(lambda m, x: x.add_(m.dense(x)))
    root = recording.calls_of("")[0]
    total = recording.nodes[root.outputs[0]]
    assert total.op == "add"
    assert total.parents[0] == root.inputs[0] != root.outputs[0]


def test_nothing_is_kept_and_memory_that_is_used_again_is_told_apart() -> None:
    kept: list[Any] = []

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        for _ in range(50):  # the allocator gives the same memory again and again
            y = m.dense(x)
            kept.append(weakref.ref(y))
            del y
        return m.other(x)

    recording = recorded(body)
    gc.collect()
    assert not any(reference() is not None for reference in kept)
    assert made_of(recording)[0].count("addmm") == 1
    recording = recorded(lambda m, x: m.dense(x).shape and m.other(torch.from_numpy(np.ones((3, 4), np.float32))))
    assert made_of(recording)[0].count("addmm") == 1, "no operation made this tensor, in the place of another"


def test_what_does_not_pass_the_dispatcher_is_a_layer_of_its_module() -> None:
    class Foreign(nn.Module):
        """A kernel behind a binding of its own."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.empty(x.shape)
            y.numpy()[:] = x.numpy() * 2
            return y

    model = nn.Sequential(Foreign(), nn.ReLU())
    with evaluating(model) as inner:
        recording = record(inner, lambda: inner(torch.randn(3, 4)))
    assert made_of(recording)[0] == ["Foreign", "relu"]
    assert [node.op for node in recording.nodes if node.is_layer] == ["Foreign"]


BLOCKS = {f"transformer.h.{i}": (f"transformer.h.{i}.attn", f"transformer.h.{i}.mlp") for i in range(4)}


def branches(model: Any, example: Any) -> dict[str, tuple[str, ...]]:
    with evaluating(model) as inner:
        blocks = find_residual_blocks(inner, lambda: inner(example))
    return {name: block.branches for name, block in blocks.items()}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_make_no_difference(use_reentrant: bool) -> None:
    model, example = model_zoo.nano_gpt()
    for block in model.transformer.h:
        forward = block.forward
        block.forward = lambda x, f=forward: checkpoint(f, x, use_reentrant=use_reentrant)
    assert branches(model, example) == BLOCKS


def test_an_autocast_that_has_cached_its_weights_makes_no_difference() -> None:
    model, example = model_zoo.nano_gpt()
    with torch.autocast("cpu", torch.bfloat16):
        model(example)
        assert branches(model, example) == BLOCKS


def test_compiled_models_and_parts_are_run_as_they_are_written() -> None:
    model, example = model_zoo.nano_gpt()
    assert branches(torch.compile(model, backend="eager"), example) == BLOCKS
    model.transformer.h[1] = torch.compile(model.transformer.h[1], backend="eager")
    assert list(branches(model, example)) == list(BLOCKS)


def test_gradients_and_inputs_made_inside_of_the_run_make_no_difference() -> None:
    model = nn.Sequential(nn.Linear(4, 8), model_zoo.BranchBlock(nn.Linear(8, 8)))
    blocks = find_residual_blocks(model.eval(), lambda: model(torch.randn(3, 4)))
    assert blocks["1"].branches == ("1.branch",)
    with torch.inference_mode():
        assert find_residual_blocks(model, lambda: model(torch.randn(3, 4))) == blocks


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_encoders_take_no_fast_path(norm_first: bool) -> None:
    """With a mask of padding the fast path makes nested tensors."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model, x = nn.TransformerEncoder(layer, 2), torch.randn(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    was_on = torch.backends.mha.get_fastpath_enabled()
    with evaluating(model) as inner:
        recording = record(inner, lambda: inner(x, src_key_padding_mask=mask))
    assert torch.backends.mha.get_fastpath_enabled() == was_on
    assert recording.calls_of("layers.1.linear2")
    assert all(recording.nodes[call.outputs[0]].shape == (2, 5, 8) for call in recording.calls_of("layers.1"))


class Shortcut(nn.Module):
    """Its branch is called f."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.f(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per")
def test_scripted_parts_and_weights_of_eight_bits_make_no_difference() -> None:
    x = torch.randn(3, 4)
    script = torch.jit.script
    scripted = nn.Sequential(Shortcut(script(nn.Linear(4, 4))), script(Shortcut(nn.Linear(4, 4))), nn.Linear(4, 4))
    assert branches(scripted, x) == {"0": ()}, "a scripted part takes no hooks"
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("weights of 8 bits: NOT TESTED HERE (no fbgemm)")
    plain = nn.Sequential(nn.Linear(4, 4), Shortcut(nn.Linear(4, 4)))
    quantized = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    assert branches(quantized, x) == {"1": ("1.f",)}


class Calls(nn.Module):
    """A model that calls its blocks as a function says."""

    def __init__(self, how: Callable[[nn.ModuleList, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.blocks, self.head, self.how = (
            nn.ModuleList(Shortcut(nn.Linear(4, 4)) for _ in range(3)),
            nn.Linear(4, 2),
            how,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.how(self.blocks, x))


def test_a_call_that_raises_and_is_caught_holds_nothing_that_comes_after_it() -> None:
    def after_a_failure(blocks: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        with pytest.raises(RuntimeError, match="shapes"):
            blocks[0](x[:, :3])
        return blocks[1](blocks[0](x))

    recording = recorded_calls(after_a_failure)
    assert [recording.calls[call.around].module for call in recording.calls_of("blocks.0")] == [""]
    assert branches(Calls(after_a_failure), torch.randn(3, 4)) == {f"blocks.{i}": (f"blocks.{i}.f",) for i in (0, 1)}

    def refuse(*_: Any) -> None:
        raise RuntimeError("not today")

    def after_a_refusal(blocks: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        with blocks[0].f.register_forward_pre_hook(refuse), pytest.raises(RuntimeError, match="not today"):
            blocks[0](x)
        with (
            blocks[0].f.register_forward_pre_hook(refuse, prepend=True),
            pytest.raises(RuntimeError, match="not today"),
        ):
            blocks[0](x)
        return blocks[1](blocks[0](x))

    assert branches(Calls(after_a_refusal), torch.randn(3, 4)) == {f"blocks.{i}": (f"blocks.{i}.f",) for i in (0, 1)}


def test_calls_of_other_threads_are_passed_over() -> None:
    def side_by_side(blocks: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        together = threading.Barrier(2, timeout=20)

        def held(module: nn.Module, args: Any) -> None:
            together.wait()

        with blocks[0].f.register_forward_pre_hook(held), blocks[1].f.register_forward_pre_hook(held):
            threads = [threading.Thread(target=blocks[i], args=(x,)) for i in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return blocks[2](x)

    recording = recorded_calls(side_by_side)
    assert recording.order() == ["", "blocks.2", "blocks.2.f", "head"]
    assert branches(Calls(side_by_side), torch.randn(3, 4)) == {"blocks.2": ("blocks.2.f",)}


def recorded_calls(how: Callable[[nn.ModuleList, torch.Tensor], torch.Tensor]) -> Recording:
    model, x = Calls(how), torch.randn(3, 4)
    with evaluating(model) as inner:
        return record(inner, lambda: inner(x))
