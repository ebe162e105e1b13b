import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
import torch
from conftest import PROJECTIONS, tiny_config, tiny_model
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

import hydra_lora

HAS_HOOKS = hasattr(torch.nn.Parameter(torch.zeros(1)), "register_post_accumulate_grad_hook")
IS_CALLED = hasattr(TrainerCallback, "on_pre_optimizer_step")


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = torch.randint(0, 64, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


def adapted():
    return get_peft_model(tiny_model(), LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))


def test_the_trainers_callback_leaves_a_log_that_is_planned(tmp_path):
    path = tmp_path / "grads.jsonl"
    if not (HAS_HOOKS and IS_CALLED):
        with pytest.raises(RuntimeError, match="newer"):
            hydra_lora.HydraCallback(path).on_train_begin
        return
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), max_steps=6, per_device_train_batch_size=2, report_to=[],
                                  learning_rate=1e-2, use_cpu=True, save_strategy="no", disable_tqdm=True)
    model = adapted()
    Trainer(model=model, args=arguments, train_dataset=Sentences(), callbacks=[hydra_lora.HydraCallback(path)]).train()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert (lines[0]["clip"], lines[0]["lora"]) == ("pre", {"r": 4, "alpha": 8})
    assert [line["step"] for line in lines[1:]] == [1, 2, 3, 4, 5, 6]
    schedule = hydra_lora.plan(path, model, 4)
    assert len(schedule.ranks) == 28
    assert all(name.startswith("model.layers.") for name in schedule.ranks)
    assert get_peft_model(tiny_model(), schedule.lora_config())


def test_a_loop_of_ones_own_is_logged_and_planned(tmp_path):
    model = adapted()
    log = hydra_lora.GradientLog(tmp_path / "grads.jsonl", model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(1, 5):
        batch = Sentences()[step]
        loss = model(**{name: tensor[None] for name, tensor in batch.items()}).loss
        loss.backward()
        log.record(step, loss=loss.item())
        optimizer.step()
        optimizer.zero_grad()
    log.close()
    assert hydra_lora.plan(tmp_path / "grads.jsonl", tiny_config(), 4).budget.used > 0


def test_the_logger_is_one_file_that_can_be_copied(tmp_path):
    source = pathlib.Path(hydra_lora.__file__).with_name("grad_logger.py")
    copy = tmp_path / "hydra_grad_logger.py"
    copy.write_text(source.read_text())
    spec = importlib.util.spec_from_file_location("hydra_grad_logger", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.module_and_matrix("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight") == (
        "model.layers.0.mlp.up_proj", "B")


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = "import sys, hydra_lora; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="Lightning is not among the oldest versions")
def test_lightnings_callback_logs_each_step_before_clipping_and_goes_on_after_a_restart(tmp_path):
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = adapted()

        def training_step(self, batch, _):
            loss = self.network(**batch).loss
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    def fit(path, steps, checkpoint=None):
        trainer = lightning.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, gradient_clip_val=1e-4, accumulate_grad_batches=2, enable_checkpointing=False,
            callbacks=[hydra_lora.HydraLightningCallback(path)])
        module = Module()
        trainer.fit(module, torch.utils.data.DataLoader(Sentences(), batch_size=2), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return [json.loads(line) for line in path.read_text().splitlines()]

    lines = fit(tmp_path / "grads.jsonl", 3)
    assert (lines[0]["clip"], lines[0]["lora"]) == ("pre", {"r": 4, "alpha": 8})
    assert [line["step"] for line in lines[1:]] == [1, 2, 3]
    assert lines[3]["loss"] > 0

    # The first step by hand: the mean of two batches, not clipped.
    model = adapted()
    log = hydra_lora.GradientLog(tmp_path / "by-hand.jsonl", model)
    for batch in list(torch.utils.data.DataLoader(Sentences(), batch_size=2))[:2]:
        (model(**batch).loss / 2).backward()
    log.record(1)
    log.close()
    by_hand = json.loads((tmp_path / "by-hand.jsonl").read_text().splitlines()[1])["grads"]
    assert by_hand.keys() == lines[1]["grads"].keys()
    for module, norms in by_hand.items():
        assert lines[1]["grads"][module] == pytest.approx(norms, rel=1e-4)
    assert max(norms["B"] for norms in by_hand.values()) > 1e-3

    lines = fit(tmp_path / "grads.jsonl", 5, tmp_path / "last.ckpt")
    assert [line["step"] for line in lines[1:]] == [1, 2, 3, 4, 5]
    assert len(hydra_lora.plan(tmp_path / "grads.jsonl", tiny_config(), 4).ranks) == 28
