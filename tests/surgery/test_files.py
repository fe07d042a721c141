"""Cut models in files: a fresh process gives the same bits, and a damaged or foreign file changes nothing."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="surgery files: NOT TESTED HERE (no torch)")
safetensors = pytest.importorskip("safetensors", reason="surgery files: NOT TESTED HERE (no safetensors)")

from torch import nn  # noqa: E402

from cbkernels import Surgery, remove_layers  # noqa: E402
from cbkernels.surgery.plan import RemovedBlock  # noqa: E402
from cbkernels.surgery.record import first_names  # noqa: E402
from cbkernels.surgery.surgery import joined  # noqa: E402

from .. import model_zoo  # noqa: E402
from ..model_zoo import build, gradient_step, output_of, same  # noqa: E402

REMOVED = {
    "resnet_basic": [["layer1.1", "layer2.0"], ["layer2.2"]],
    "resnet_bottleneck": [["layer1.0", "layer2.1"]],
    "branch_net": [["2"], ["3"]],
    "nano_gpt": [["transformer.h.0", "transformer.h.2"]],
    "torch_encoder": [["encoder.layers.0"], ["encoder.layers.0"]],
    "bert": [["encoder.layer.0", "encoder.layer.2"]],
    "gpt2": [["transformer.h.1"], ["transformer.h.1"]],
    "llama": [["model.layers.0"]],
}
"""Blocks that go, one surgery after the other."""
SHIFTED = {
    "torch_encoder": ["encoder.layers.0", "encoder.layers.1"],
    "gpt2": ["transformer.h.1", "transformer.h.2"],
}
"""What these were called before the first removal, where the names of others have moved since."""


def cut(name: str, seed: int = 0) -> tuple[Any, Any, Surgery]:
    """A model that was trained a little, cut, and trained again."""
    model, example = build(name, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gradient_step(model, example, optimizer)
    for blocks in REMOVED[name]:
        model, surgery = remove_layers(model, blocks, optimizer=optimizer)
    gradient_step(model, example, optimizer)
    return model, example, surgery


@pytest.fixture(params=REMOVED)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in model_zoo.HUGGING_FACE:
        pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    return str(request.param)


FRESH_PROCESS = """
import importlib.util, sys
import torch
from cbkernels import Surgery
zoo_path, folder, threads, *names = sys.argv[1:]
torch.set_num_threads(int(threads))
spec = importlib.util.spec_from_file_location("model_zoo", zoo_path)
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)
for name in names:
    model, example = zoo.build(name, seed=0)
    torch.manual_seed(99)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model, surgery = Surgery.load(f"{folder}/{name}", model)
    torch.save({"output": zoo.output_of(model, example), "removed": surgery.removed}, f"{folder}/{name}.pt")
"""


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bits(tmp_path: Path) -> None:
    names = list(REMOVED)
    try:
        import transformers  # noqa: F401
    except ImportError:
        names = [name for name in names if name not in model_zoo.HUGGING_FACE]
    expected = {}
    for name in names:
        model, example, surgery = cut(name)
        surgery.save(tmp_path / name, model)
        expected[name] = output_of(model, example)
    arguments = [model_zoo.__file__, str(tmp_path), str(torch.get_num_threads()), *names]
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for name in names:
        loaded = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.equal(loaded["output"], expected[name]), name
        assert loaded["removed"] == SHIFTED.get(name, [block for blocks in REMOVED[name] for block in blocks])
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == ["model.safetensors", "surgery.json"]
    assert len(names) >= 5


def test_loading_goes_on_where_saving_stopped(name: str, tmp_path: Path) -> None:
    model, example, surgery = cut(name)
    surgery.save(tmp_path, copy.deepcopy(model))
    fresh, _ = build(name, seed=5)
    optimizer = torch.optim.Adam(fresh.parameters())
    loaded, again = Surgery.load(tmp_path, fresh, optimizer)
    assert loaded is fresh
    assert torch.equal(output_of(loaded, example), output_of(model, example))
    assert set(optimizer.param_groups[0]["params"]) == set(loaded.parameters())
    gradient_step(loaded, example, optimizer)
    assert again.parameters_after == sum(p.numel() for p in loaded.parameters()) < again.parameters_before
    again.save(tmp_path, loaded)  # over the older files
    third, _ = build(name, seed=6)
    third, _ = Surgery.load(tmp_path, third)
    assert torch.equal(output_of(third, example), output_of(loaded, example))
    state = {key: tensor.clone() for key, tensor in loaded.state_dict().items()}
    with pytest.raises(ValueError, match=r"does not hold the weights of .*; load the original checkpoint into the"):
        again.undo()
    assert same(loaded.state_dict(), state), "no random weights of a fresh model come back"
    assert again.summary(example, repeats=1).before.parameters == again.parameters_before


def test_a_surgery_after_loading_can_be_undone(tmp_path: Path) -> None:
    model, _, surgery = cut("resnet_basic")
    surgery.save(tmp_path, model)
    loaded, _ = Surgery.load(tmp_path, build("resnet_basic", seed=5)[0])
    remove_layers(loaded, "layer1.0")[1].undo()
    assert same(loaded.state_dict(), model.state_dict())
    remove_layers(model, [])[1].save(tmp_path, build("resnet_basic")[0])
    Surgery.load(tmp_path, build("resnet_basic")[0])[1].undo()  # of nothing


def test_shared_tensors_are_written_once_and_views_whole(tmp_path: Path) -> None:
    model, _, surgery = cut("nano_gpt")
    surgery.save(tmp_path, model)
    aliases = json.loads((tmp_path / "surgery.json").read_text())["aliases"]
    assert set(aliases.items()) == {("lm_head.weight", "transformer.wte.weight")}
    fresh, _ = Surgery.load(tmp_path, build("nano_gpt", seed=3)[0])
    assert fresh.lm_head.weight is fresh.transformer.wte.weight
    both = torch.arange(12.0).reshape(2, 6)
    views = nn.Linear(6, 2, bias=False)
    views.weight = nn.Parameter(both[:, :6])
    views.register_buffer("even", views.weight.data[:, ::2])
    views.register_buffer("first", views.weight.data[:1])
    _, nothing = remove_layers(views, [])
    nothing.save(tmp_path / "views", views)
    fresh = nn.Linear(6, 2, bias=False)
    fresh.register_buffer("even", torch.zeros(2, 3))
    fresh.register_buffer("first", torch.zeros(1, 6))
    Surgery.load(tmp_path / "views", fresh)
    assert torch.equal(fresh.even, both[:, ::2])
    assert torch.equal(fresh.first, both[:1])


def test_a_model_of_another_type_says_so(tmp_path: Path) -> None:
    model, example = model_zoo.nano_gpt()
    model, surgery = remove_layers(model, "transformer.h.1")
    surgery.save(tmp_path, model.to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"as bfloat16 \[50, 16\], and the cut model as float32 .*type it had"):
        Surgery.load(tmp_path, build("nano_gpt", seed=1)[0])
    fresh, _ = Surgery.load(tmp_path, build("nano_gpt", seed=1)[0].to(torch.bfloat16))
    assert torch.equal(output_of(fresh, example), output_of(model, example))


def test_saving_refuses_models_that_were_not_cut_and_states_that_are_no_tensors(tmp_path: Path) -> None:
    model, _, surgery = cut("nano_gpt")
    with pytest.raises(ValueError, match=r"the model \(NanoGPT\) was not cut, but the surgery removed"):
        surgery.save(tmp_path, build("nano_gpt")[0])

    class Stateful(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"seen": 3}

    _, nothing = remove_layers(Stateful(2, 2), [])
    with pytest.raises(ValueError, match="holds '_extra_state', a dict; only tensors can be saved"):
        nothing.save(tmp_path, Stateful(2, 2))
    assert list(tmp_path.iterdir()) == []
    assert model is not None


def test_a_save_that_fails_leaves_the_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example, surgery = cut("nano_gpt")
    surgery.save(tmp_path, model)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    expected = output_of(model, example)
    gradient_step(model, example, torch.optim.SGD(model.parameters(), lr=0.5))

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", no_space)
        with pytest.raises(OSError, match="No space left"):
            surgery.save(tmp_path, model)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    fresh, _ = Surgery.load(tmp_path, build("nano_gpt")[0])
    assert torch.equal(output_of(fresh, example), expected)


# --- damaged and foreign files ----------------------------------------------------------------------------


class Explodes:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "surgery.json").read_text())
        change(content)
        (folder / "surgery.json").write_text(json.dumps(content))

    return damage


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Other weights with a checksum that fits."""

    def damage(folder: Path) -> None:
        import hashlib

        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        edited(lambda content: content.update(weights_sha256=digest))(folder)

    return damage


def with_checksum(data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        import hashlib

        (folder / "model.safetensors").write_bytes(data)
        edited(lambda content: content.update(weights_sha256=hashlib.sha256(data).hexdigest()))(folder)

    return damage


def truncated(file: str, keep: int) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep]) and None


def flipped(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def pickled(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(pickle.dumps(Explodes(folder / "executed"))) and None


@pytest.mark.parametrize("file", ["surgery.json", "model.safetensors"])
def test_every_flipped_byte_is_told_or_changes_nothing(tmp_path: Path, file: str) -> None:
    def fresh() -> Any:
        torch.manual_seed(0)
        return model_zoo.branch_net()[0]

    model, surgery = remove_layers(fresh(), ["2"])
    surgery.save(tmp_path, model)
    state, whole, refused = model.state_dict(), (tmp_path / file).read_bytes(), 0
    places = range(0, len(whole), 1 + len(whole) // 400)
    for place in places:
        (tmp_path / file).write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        try:
            loaded, again = Surgery.load(tmp_path, fresh())
        except ValueError:
            refused += 1
            continue
        assert again.removed == surgery.removed
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items()), place
        assert str(loaded) == str(model), place
    assert refused > 0.8 * len(places)


def first_step(**entries: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["operations"][0][0].update(entries)


PICKLE = pickle.dumps({"weights": [1, 2, 3]})
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no json": (lambda folder: os.remove(folder / "surgery.json"), r"surgery\.json cannot be read \(No such file"),
    "no weights": (lambda f: os.remove(f / "model.safetensors"), r"model\.safetensors cannot be read \(No such file"),
    "truncated json": (truncated("surgery.json", 100), r"surgery\.json is damaged: it holds no JSON"),
    "empty json": (truncated("surgery.json", 0), r"surgery\.json is damaged: it holds no JSON"),
    "deep json": (
        lambda f: (f / "surgery.json").write_text("[" * 200_000),
        r"surgery\.json is damaged: it holds no JSON",
    ),
    "a list": (lambda f: (f / "surgery.json").write_text("[]"), r"surgery\.json was not written by Surgery\.save"),
    "another format": (edited(lambda c: c.update(format="x")), r"surgery\.json was not written by Surgery\.save"),
    "a later version": (
        edited(lambda c: c.update(version=7)),
        r"surgery\.json has version 7 and this cbkernels reads 1",
    ),
    "no operations": (edited(lambda c: c.pop("operations")), r"surgery\.json is damaged: its entry 'operations'"),
    "odd operations": (edited(lambda c: c.update(operations=[3])), r"surgery\.json is damaged: its operations"),
    "odd step": (edited(lambda c: c.update(operations=[[3]])), r"surgery\.json is damaged: 3 is no step"),
    "odd returns": (edited(first_step(returns=["tuple", "os"])), r"surgery\.json is damaged: the step"),
    "odd remains": (edited(first_step(remains="exec")), r"surgery\.json is damaged: the step"),
    "odd before": (edited(lambda c: c.update(before={"a": 3})), r"surgery\.json is damaged: its tensors have no types"),
    "odd aliases": (edited(lambda c: c.update(aliases={"a": 3})), r"surgery\.json is damaged: its aliases"),
    "unknown alias": (edited(lambda c: c.update(aliases={"a": "b"})), r"model\.safetensors does not fit surgery\.json"),
    "another class": (edited(lambda c: c.update(model="VGG")), r"surgery\.json is of a VGG, and the model is a ResNet"),
    "unknown block": (edited(first_step(name="layer7.0")), r"surgery\.json removes 'layer7\.0', and the model has no"),
    "the model": (edited(first_step(name="")), r"surgery\.json removes '', and the model has no"),
    "another block": (edited(first_step(class_name="Swin")), r"removes 'layer1\.1', a Swin, and the model has a Basic"),
    "no such part": (edited(first_step(shortcut="side")), r"'layer1\.1' is built in another way"),
    "a path": (edited(first_step(activation="../x")), r"'layer1\.1' is built in another way"),
    "not a list item": (edited(first_step(remains="nothing")), r"'layer1\.1' is built in another way"),
    "twice": (
        edited(lambda c: c["operations"].append(c["operations"][0])),
        r"a BasicBlock, and the model has a CutBlock",
    ),
    "other shapes before": (
        edited(lambda c: c["before"]["fc.weight"].__setitem__(1, [9, 9])),
        r"before its surgery 'fc.weight' was float32 \[9, 9\], and here it is float32 \[4, 16\]",
    ),
    "truncated weights": (truncated("model.safetensors", 500), r"model\.safetensors is damaged, or belongs to another"),
    "a flipped bit": (flipped, r"model\.safetensors is damaged, or belongs to another surgery\.json"),
    "a pickle as weights": (pickled("model.safetensors"), r"model\.safetensors is damaged"),
    "a pickle with its checksum": (with_checksum(PICKLE), r"model\.safetensors is no safetensors file"),
    "a pickle as json": (pickled("surgery.json"), r"surgery\.json is damaged: it holds no JSON"),
    "a missing tensor": (
        rewritten(lambda t: t.pop("fc.bias")),
        r"holds 'fc.bias' as missing, and the cut model as float32",
    ),
    "an extra tensor": (
        rewritten(lambda t: t.update(more=torch.zeros(2))),
        r"holds 'more' as float32 \[2\], and the cut model as missing",
    ),
    "another shape": (
        rewritten(lambda t: t.update({"fc.bias": torch.zeros(5)})),
        r"holds 'fc.bias' as float32 \[5\], and",
    ),
    "another type": (
        rewritten(lambda t: t.update({"fc.bias": t["fc.bias"].half()})),
        r"holds 'fc.bias' as float16 \[4\]",
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model, _, surgery = cut("resnet_basic")
    surgery.save(folder, model)
    return folder


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_one_sentence_that_names_it_and_changes_nothing(
    kind: str, saved: Path, tmp_path: Path
) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage, message = DAMAGE[kind]
    damage(tmp_path)
    model, example = build("resnet_basic", seed=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts, attributes, output = dict(model.named_modules()), sorted(vars(model)), output_of(model, example)
    with pytest.raises(ValueError, match=message) as caught:
        Surgery.load(tmp_path, model, optimizer)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert dict(model.named_modules()) == parts
    assert sorted(vars(model)) == attributes
    assert torch.equal(output_of(model, example), output)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    assert not (tmp_path / "executed").exists()


def test_the_undamaged_file_of_these_tests_loads(saved: Path) -> None:
    model, example = build("resnet_basic", seed=4)
    Surgery.load(saved, model)
    assert torch.equal(output_of(model, example), output_of(cut("resnet_basic")[0], example))


def test_files_apply_to_fresh_models_of_the_same_settings_only(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"is of a ResNet, and the model is a NanoGPT"):
        Surgery.load(saved, build("nano_gpt")[0])
    with pytest.raises(ValueError, match=r"before its surgery 'layer1.0.conv3.weight' was missing|another ResNet"):
        Surgery.load(saved, build("resnet_bottleneck")[0])
    with pytest.raises(ValueError, match="applies to a fresh ResNet, and this one was cut already"):
        Surgery.load(saved, cut("resnet_basic")[0])


def test_all_layers_of_a_list_are_never_deleted(tmp_path: Path) -> None:
    model, _, surgery = cut("torch_encoder")
    surgery.save(tmp_path, model)
    edited(lambda c: c["operations"].append(copy.deepcopy(c["operations"][0])))(tmp_path)
    with pytest.raises(ValueError, match=r"surgery\.json is damaged: it removes all layers of a list"):
        Surgery.load(tmp_path, build("torch_encoder")[0])


def test_without_safetensors_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, surgery = cut("nano_gpt")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="needs safetensors: pip install safetensors"):
        surgery.save(tmp_path, model)
    with pytest.raises(ImportError, match="needs safetensors: pip install safetensors"):
        Surgery.load(tmp_path, model)


# --- several surgeries -----------------------------------------------------------------------------------


def test_one_name_of_two_blocks_is_told_as_it_was_before_the_first_removal(tmp_path: Path) -> None:
    model, _ = build("torch_encoder")
    surgeries = [remove_layers(model, "encoder.layers.0")[1] for _ in range(2)]
    assert [each.removed for each in surgeries] == [["encoder.layers.0"]] * 2, "names mean the model as it is then"
    whole = joined(model, surgeries, surgeries[0].parameters_before, was_healed=False)
    whole.save(tmp_path, model)
    _, loaded = Surgery.load(tmp_path, build("torch_encoder")[0])
    assert whole.removed == loaded.removed == ["encoder.layers.0", "encoder.layers.1"]
    assert [step.name for step in whole.steps] == ["encoder.layers.0"] * 2


def test_names_in_lists_of_lists_move_with_all_of_them() -> None:
    def operation(*names: str, remains: str = "nothing") -> list[RemovedBlock]:
        return [RemovedBlock(name, "residual block", "Block", remains) for name in names]

    operations = [
        operation("a.2.1", "a.0", "b.3"), operation("a.1.1", "a.1.norm.0", "b.3"), operation("b.1", remains="shortcut"),
        operation("b.1", "a.1.norm.0"),
    ]  # fmt: skip
    assert first_names(operations) == ["a.2.1", "a.0", "b.3", "a.2.2", "a.2.norm.0", "b.4", "b.1", "b.1", "a.2.norm.1"]


# --- tensors that are elsewhere ---------------------------------------------------------------------------


def test_a_model_without_values_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model, _, surgery = cut("nano_gpt")
    surgery.save(tmp_path, model)
    with pytest.raises(ValueError, match=r"'transformer.wte.weight' is on the meta device and has no values"):
        surgery.save(tmp_path / "meta", copy.deepcopy(model).to("meta"))
    assert not (tmp_path / "meta").exists()
    fresh = build("nano_gpt")[0].to("meta")
    with pytest.raises(
        ValueError, match=r"'transformer.wte.weight' is on the meta device, where nothing can be loaded"
    ):
        Surgery.load(tmp_path, fresh)
    assert len(list(fresh.modules())) == len(list(build("nano_gpt")[0].modules()))
    filled, again = Surgery.load(tmp_path, fresh.to_empty(device="cpu"))
    assert again.removed == surgery.removed
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in filled.state_dict().items())


def packed(kind: str) -> torch.Tensor:
    if kind == "packed":
        return pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor(torch.ones(3), torch.ones(3))
    if kind == "quantized":
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    return torch.eye(3).to_sparse()


@pytest.mark.parametrize("kind", ["packed", "quantized", "sparse"])
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_tensors_of_other_classes_are_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    model, _, surgery = cut("branch_net")
    model.register_buffer("odd", packed(kind))
    model.register_buffer("other", packed(kind))  # whose address is 0 too: no alias
    with pytest.raises(ValueError, match="safetensors cannot store") as caught:
        surgery.save(tmp_path, model)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


class Shared(nn.Module):
    """Blocks, one of them with a projection, and two layers with one weight."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.Sequential(*[model_zoo.Block(8, 2) for _ in range(3)])
        self.projected = model_zoo.BranchBlock(nn.Linear(8, 8), nn.Linear(8, 8))
        self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.projected(self.blocks(x))))


@pytest.fixture
def shard(tmp_path: Path) -> Any:
    """Shards the blocks and the model as FSDP2 does, in one process."""
    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="FSDP2: NOT TESTED HERE (torch was built without it)")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("FSDP2: NOT TESTED HERE (this torch has no fully_shard)")
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))

    def sharded(model: Shared) -> Shared:
        for block in [*model.blocks, model.projected, model]:
            fsdp.fully_shard(block, mesh=mesh)
        return model

    yield sharded
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # torch's own, of one process
def test_a_sharded_model_is_saved_whole_and_loaded_in_parts(shard: Any, tmp_path: Path) -> None:
    model, x = shard(Shared()), torch.randn(2, 3, 8)
    optimizer = torch.optim.Adam(model.parameters())
    gradient_step(model, x, optimizer)
    model, surgery = remove_layers(model, "blocks.1", optimizer=optimizer, example=x)
    gradient_step(model, x, optimizer)
    expected = output_of(model, x)
    surgery.save(tmp_path / "cut", model)
    for fresh in (Shared(1), shard(Shared(1))):
        loaded, _ = Surgery.load(tmp_path / "cut", fresh)
        assert torch.equal(output_of(loaded, x), expected)
        assert loaded.head.weight is loaded.inner.weight
    content = json.loads((tmp_path / "cut" / "surgery.json").read_text())
    assert (content["model"], content["aliases"]) == ("Shared", {"head.weight": "inner.weight"})
    with pytest.raises(ValueError, match="was sharded as one, and its projection 'shortcut' cannot be gathered"):
        remove_layers(model, "projected", example=x)
    surgery.undo()
    gradient_step(model, x, optimizer)
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())
