import inspect
import json

import pytest
import torch
from conftest import PROJECTIONS, tiny_config, tiny_model, write_log
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BloomConfig, BloomForCausalLM

import hydra_lora


def lora_ranks(adapted):
    """Rank of every module as it is in the tensors."""
    return {name[len("base_model.model.") : name.index(".lora_A.")]: parameter.shape[0]
            for name, parameter in adapted.named_parameters() if ".lora_A." in name}


def trainable(adapted):
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def test_peft_makes_exactly_the_planned_ranks_and_parameters(log, model):
    schedule = hydra_lora.plan(log, model, base_rank=4)
    config = schedule.lora_config()
    assert isinstance(config, LoraConfig)
    adapted = get_peft_model(model, config)
    assert lora_ranks(adapted) == dict(schedule.ranks)
    assert len(set(schedule.ranks.values())) > 2
    assert trainable(adapted) == schedule.trainable_parameters == schedule.budget.used
    uniform = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=PROJECTIONS))
    assert schedule.budget.allowed == trainable(uniform)
    assert 0 <= schedule.budget.allowed - schedule.budget.used < 32 + 16
    for name, module in adapted.named_modules():
        if hasattr(module, "scaling") and isinstance(module.scaling, dict):
            assert module.scaling == {"default": 2.0}, name


def test_module_configuration_dictionary_and_file_give_one_plan(log, model, config, config_file, tmp_path):
    plans = [hydra_lora.plan(log, given, 4) for given in
             (model, config, config.to_dict(), config_file, str(config_file), tmp_path)]
    plans.append(hydra_lora.plan(log, get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"])), 4))
    assert all(plan.ranks == plans[0].ranks for plan in plans)
    assert all(plan.budget == plans[0].budget for plan in plans)


def test_a_checkpoint_is_planned_by_its_headers(log, model, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").unlink()
    assert hydra_lora.plan(log, tmp_path / "checkpoint", 4).ranks == hydra_lora.plan(log, model, 4).ranks


def test_modules_of_no_known_configuration_are_planned_by_their_parameters(tmp_path):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj = torch.nn.Linear(8, 24, bias=False)
            self.out_proj = torch.nn.Linear(24, 8)

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Module()
            self.model.layers = torch.nn.ModuleList(Layer() for _ in range(3))

    names = [f"model.layers.{layer}.{kind}" for layer in range(3) for kind in ("in_proj", "out_proj")]
    log = write_log(tmp_path / "odd.jsonl", names)
    schedule = hydra_lora.plan(log, Odd(), 2, min_rank=1)
    assert sorted(schedule.ranks) == names
    assert schedule.budget.allowed == 3 * 2 * 2 * (8 + 24)
    adapted = PeftModel(Odd(), schedule.lora_config(task_type=None))
    assert lora_ranks(adapted) == dict(schedule.ranks)


def test_a_configuration_that_only_transformers_knows_is_planned(tmp_path):
    bloom = BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=64)
    names = [f"transformer.h.{layer}.{kind}" for layer in range(3) for kind in
             ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")]
    log = write_log(tmp_path / "bloom.jsonl", names)
    of_module = hydra_lora.plan(log, BloomForCausalLM(bloom), 2)
    assert sorted(of_module.ranks) == sorted(names)
    assert lora_ranks(get_peft_model(BloomForCausalLM(bloom), of_module.lora_config())) == dict(of_module.ranks)
    if hasattr(torch.device("meta"), "__enter__"):
        assert hydra_lora.plan(log, bloom, 2).ranks == of_module.ranks
    else:
        with pytest.raises(hydra_lora.DataError, match="give the module"):
            hydra_lora.plan(log, bloom, 2)


def test_bytes_are_those_of_the_trainer(log, model, config_file, tmp_path, trainer):
    choices = dict(stages=2, delta=1, scale="rslora:16", signal="rms", exclude="o_proj", dropout=0.05)
    schedule = hydra_lora.plan(log, config_file, 4, **choices)
    flags = ["--stages", 2, "--delta", 1, "--scale", "rslora:16", "--signal", "rms", "--exclude", "o_proj"]
    command = ["plan", "--gradients", log, "--model", config_file, "--base-rank", 4, *flags]
    assert schedule.to_json() == trainer(*command, "--json")
    trainer(*command, "--dropout", 0.05, "--peft", tmp_path / "trainer.json", "--out", tmp_path / "trainer-schedule.json")
    schedule.save_lora_config(tmp_path / "python.json")
    assert (tmp_path / "python.json").read_bytes() == (tmp_path / "trainer.json").read_bytes()
    schedule.save(tmp_path / "python-schedule.json")
    ours, theirs = (json.loads((tmp_path / f"{who}-schedule.json").read_text()) for who in ("python", "trainer"))
    assert ours["provenance"].pop("command") == "hydra_lora.plan"
    assert theirs["provenance"].pop("command").startswith("trainer plan")
    assert ours == theirs


def test_a_saved_schedule_is_loaded_as_it_was(log, config, tmp_path):
    schedule = hydra_lora.plan(log, config, 4, dropout=0.1)
    schedule.save(tmp_path / "schedule.json")
    loaded = hydra_lora.Schedule.load(tmp_path / "schedule.json", dropout=0.1)
    assert loaded.ranks == schedule.ranks and loaded.budget == schedule.budget
    assert loaded.lora_config() == schedule.lora_config()
    with pytest.raises(hydra_lora.HydraError, match="no plan"):
        loaded.to_json()


def test_what_the_schedule_decides_of_the_configuration_cannot_be_changed(log, config):
    schedule = hydra_lora.plan(log, config, 4)
    changed = schedule.lora_config(lora_dropout=0.2, task_type="SEQ_CLS", modules_to_save=["score"])
    assert (changed.lora_dropout, changed.task_type, changed.modules_to_save) == (0.2, "SEQ_CLS", ["score"])
    with pytest.raises(ValueError, match="rank_pattern: the schedule decides"):
        schedule.lora_config(rank_pattern={})


def test_every_choice_of_the_trainer_is_an_argument(log, config):
    arguments = inspect.signature(hydra_lora.plan).parameters
    with pytest.raises(hydra_lora.UsageError) as refusal:
        from hydra_lora import _native

        _native.plan([log], json.dumps({"config": "{}"}), None, [], [], 0.0, json.dumps({"zzz": 1}))
    known = str(refusal.value).split("known are ")[1].split(", ")
    assert sorted(known) == sorted(hydra_lora._plan.CHOICES)
    assert set(known) <= set(arguments)


@pytest.mark.parametrize("arguments, kind, message", [
    (dict(base_rank=0), "UsageError", "0"),
    (dict(stages=0), "UsageError", "0"),
    (dict(delta=0, signs="q=-"), "UsageError", "signs has no effect: delta is 0"),
    (dict(schedule_kind="uniform", stages=2), "UsageError", "stages has no effect: schedule_kind is uniform"),
    (dict(schedule_kind="hydr"), "UsageError", "hydr"),
    (dict(dropout=1.5), "UsageError", "dropout 1.5"),
    (dict(exclude="(("), "UsageError", "(("),
    (dict(exclude="nothing_has_this"), "UsageError", "exclude nothing_has_this"),
    (dict(budget=10), "BudgetError", "10"),
    (dict(log="missing.jsonl"), "DataError", "missing.jsonl"),
    (dict(model="llama-99"), "UsageError", "llama-99: this is neither a preset nor a file"),
    (dict(model="missing/config.json"), "DataError", "missing/config.json"),
    (dict(model=tiny_config(num_hidden_layers=2)), "DataError", "which the model, of 2 layers, has not"),
    (dict(model={"model_type": "bert"}), "DataError", "give the module"),
    (dict(model=7), "UsageError", "model is a int"),
])
def test_what_cannot_be_planned_is_a_value_error_with_the_reason(log, config, arguments, kind, message):
    arguments = {"log": log, "model": config, "base_rank": 4, **arguments}
    with pytest.raises(ValueError) as refusal:
        hydra_lora.plan(**arguments)
    assert type(refusal.value).__name__ == kind, refusal.value
    assert message in str(refusal.value)
    assert "--" not in str(refusal.value)


def test_nan_in_a_log_is_a_numerical_error(tmp_path, config):
    log = write_log(tmp_path / "nan.jsonl")
    text = log.read_text().replace('{"A": 0.1,', '{"A": NaN,')
    log.write_text(text)
    with pytest.raises(hydra_lora.NumericalError, match="skip_non_finite"):
        hydra_lora.plan(log, config, 4)


def test_modules_outside_the_plan_are_a_warning(tmp_path, config):
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(4)] + ["lm_head"]
    log = write_log(tmp_path / "head.jsonl", names)
    with pytest.warns(UserWarning, match="lm_head"):
        hydra_lora.plan(log, config, 4)
    assert "lm_head" in hydra_lora.plan(log, config, 4, include="lm_head").ranks


def test_a_trained_adapter_passes_and_a_changed_one_does_not(log, model, tmp_path):
    schedule = hydra_lora.plan(log, model, 4)
    adapted = get_peft_model(model, schedule.lora_config())
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.add_(0.01)
    adapted.save_pretrained(tmp_path / "adapter", safe_serialization=True)
    found = hydra_lora.verify(tmp_path / "adapter", tiny_config(), base_rank=4)
    assert found and found.passed and found.problems == []
    assert found.trainable_parameters == schedule.trainable_parameters
    assert found.budget == schedule.budget.allowed
    assert found.adapted_modules == found.model_modules == 28
    assert {consumer.name: consumer.right for consumer in found.consumers}["PEFT"]
    assert hydra_lora.verify(tmp_path / "adapter", tiny_model(), base_rank=4) == found
    # The model inside of PEFT's wrapper is the same model.
    assert hydra_lora.verify(tmp_path / "adapter", adapted, base_rank=4) == found
    file = tmp_path / "adapter" / "adapter_config.json"
    changed = json.loads(file.read_text())
    changed["rank_pattern"] = {}
    file.write_text(json.dumps(changed))
    broken = hydra_lora.verify(tmp_path / "adapter", tiny_config(), base_rank=4)
    assert not broken and broken.problems
    with pytest.raises(hydra_lora.DataError, match="adapter_config.json"):
        hydra_lora.verify(tmp_path / "nowhere", tiny_config())


def test_a_peft_model_is_verified_without_a_folder(log, model):
    adapted = get_peft_model(model, hydra_lora.plan(log, model, 4).lora_config())
    found = hydra_lora.verify(adapted, tiny_config(), base_rank=4)
    # It was not trained, and that is a problem.
    assert not found.passed and found.adapted_modules == 28
