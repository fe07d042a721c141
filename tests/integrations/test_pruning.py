"""``prune_blocks`` around the training loops that people have: plain PyTorch, Lightning, the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="pruning in training loops: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import cbkernels as cb  # noqa: E402

from ..model_zoo import build  # noqa: E402


def words() -> tuple[Any, Any]:
    """Sequences of words; the class is the first word's remainder."""
    x = torch.randint(1, 50, (48, 9), generator=torch.Generator().manual_seed(0))
    return x, x[:, 0] % 4


def accuracy(model: Any, x: Any, y: Any) -> float:
    model.eval()
    with torch.no_grad():
        output = model(x)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return float((logits.argmax(1) == y).float().mean())


def as_a_loop_leaves_it(model: Any, surgery: Any, log: Any, whole: int) -> None:
    """With a guard that lets everything pass, all goes but one block, and undo brings the blocks back."""
    assert len(log.removed) == log.num_blocks - 1
    assert sum(p.numel() for p in model.parameters()) == log.steps[-1].parameters < whole
    surgery.undo()
    assert sum(p.numel() for p in model.parameters()) == whole


def test_in_a_loop_of_ones_own() -> None:
    model, _ = build("torch_encoder")
    x, y = words()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    whole = sum(p.numel() for p in model.parameters())

    def heal(model: Any) -> None:
        model.train()
        for start in range(0, 48, 16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[start : start + 16]), y[start : start + 16]).backward()
            optimizer.step()

    model, surgery, log = cb.prune_blocks(
        model, (x[:16], y[:16]), evaluate=lambda model: accuracy(model, x, y), heal=heal, max_drop=1.0,
        optimizer=optimizer, batch_size=16,
    )  # fmt: skip
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    as_a_loop_leaves_it(model, surgery, log, whole)


@pytest.mark.filterwarnings(r"ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
# Lightning 2.6 uses a function that torch 2.13 calls deprecated
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")
def test_in_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning: NOT TESTED HERE (no lightning)")
    x, y = words()

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model, _ = build("torch_encoder")

        def forward(self, x: Any) -> Any:
            return self.model(x)

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    module = Module()
    whole = sum(p.numel() for p in module.parameters())
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    trained: list[int] = []

    def heal(model: Any) -> None:
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, loader)
        trained.append(trainer.global_step)

    module, surgery, log = cb.prune_blocks(
        module, (x[:16], y[:16]), evaluate=lambda model: accuracy(model, x, y), heal=heal, max_drop=1.0
    )
    assert trained == [3] * (len(log.steps) - 1)
    as_a_loop_leaves_it(module, surgery, log, whole)


def test_in_the_trainer_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers: NOT TESTED HERE (no transformers)")
    pytest.importorskip("accelerate", reason="the Trainer: NOT TESTED HERE (no accelerate)")
    model, _ = build("gpt2_classifier")
    x, y = words()
    whole = sum(p.numel() for p in model.parameters())
    samples = [{"input_ids": row, "labels": label} for row, label in zip(x, y, strict=True)]

    def trainer_of(model: Any) -> Any:
        arguments = transformers.TrainingArguments(
            str(tmp_path), num_train_epochs=1, per_device_train_batch_size=16, report_to=[], save_strategy="no",
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        return transformers.Trainer(model, arguments, train_dataset=samples, eval_dataset=samples)

    trained: list[int] = []

    def heal(model: Any) -> None:
        trainer = trainer_of(model)
        trainer.train()
        trained.append(trainer.state.global_step)

    model, surgery, log = cb.prune_blocks(
        model, {"input_ids": x[:16], "labels": y[:16]}, rank="taylor", heal=heal, max_drop=100.0,
        evaluate=lambda model: -trainer_of(model).evaluate()["eval_loss"],
    )  # fmt: skip
    assert trained == [3] * (len(log.steps) - 1)
    assert model.config.n_layer == 1
    as_a_loop_leaves_it(model, surgery, log, whole)
    assert model.config.n_layer == 4
