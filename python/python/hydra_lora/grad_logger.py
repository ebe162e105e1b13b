#!/usr/bin/env python3
"""Log the gradient norm of every LoRA matrix as HyDRA's JSON lines, from PyTorch, Hugging Face's Trainer or Lightning.

    {"hydra_grads":1,"model":…,"norm":"l2","clip":"pre","unit":"optimizer_step","lora":{"r":…,"alpha":…}}
    {"step":10,"loss":1.2,"grads":{"model.layers.0.self_attn.q_proj":{"A":0.01,"B":0.03}}}

Plain PyTorch, after backward() and before clipping:

    log = GradientLog("grads.jsonl", model)
    loss.backward(); log.record(step, loss=loss.item()); clip_grad_norm_(…); optimizer.step()

Hugging Face (also trl, axolotl, LLaMA-Factory):   Trainer(…, callbacks=[HydraCallback("grads.jsonl")])
Lightning:                                         Trainer(…, callbacks=[HydraLightningCallback("grads.jsonl")])

Trainer calls its callbacks after it has clipped. In one process the norms are therefore taken by a hook on each
parameter, when its gradient is whole and not yet clipped ("clip":"pre"); a hook sees a loss scale, so train in bf16 or
fp32. In several processes gradients are averaged after the hooks, so they are read after clipping ("clip":"post",
unless max_grad_norm is 0). Sharded gradients (FSDP, DeepSpeed ZeRO 2 and 3) are not whole on any process: for these
call GradientLog.record() with norms= from your engine's own accessor, such as DeepSpeed's safe_get_full_grad.
"""

import json
import os
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = object  # type: ignore[assignment,misc]
try:
    from lightning.pytorch.callbacks import Callback as LightningCallback
except ImportError:
    LightningCallback = object  # type: ignore[assignment,misc]

Path = Union[str, "os.PathLike[str]"]

LORA = re.compile(r"\.lora_(A|B)(\.[^.]+)?(\.weight)?$")
WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_forward_module)(?=\.)")


def module_and_matrix(name: str) -> Optional[Tuple[str, str]]:
    """`base_model.model.<module>.lora_A.default.weight` as (`<module>`, `A`); a full weight as (`<module>`, `W`)."""
    name = re.sub(r"^(module\.)+", "", WRAPPERS.sub(r"\1", name).replace("..", ".").lstrip("."))
    if "base_model.model." in name:
        name = name.rsplit("base_model.model.", 1)[1]
    found = LORA.search(name)
    if found:
        return name[: found.start()], found.group(1)
    return (name[: -len(".weight")], "W") if name.endswith(".weight") else None


class GradientLog:
    """Writes one line per recorded step. `every` is the distance between recorded steps."""

    def __init__(self, path: Path, model: Any, every: int = 1, clip: str = "pre", unit: str = "optimizer_step",
                 append: bool = False) -> None:
        self.every = max(1, every)
        self.parameters: List[Tuple[Tuple[str, str], Any]] = []
        for name, parameter in model.named_parameters():
            key = module_and_matrix(name)
            if parameter.requires_grad and key:
                self.parameters.append((key, parameter))
        self.hooked: Dict[Tuple[str, str], Any] = {}
        append = append and os.path.exists(path)
        self.file = open(path, "a" if append else "w", encoding="utf-8")
        if not append:
            header: Dict[str, Any] = {"hydra_grads": 1, "model": model_name(model), "norm": "l2", "clip": clip, "unit": unit}
            lora = lora_of(model)
            if lora:
                header["lora"] = lora
            self.write({key: value for key, value in header.items() if value is not None})

    def write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def watch(self) -> None:
        """Takes every norm when its gradient is whole; the last micro-batch of a step leaves the step's norm."""
        for key, parameter in self.parameters:
            if not hasattr(parameter, "register_post_accumulate_grad_hook"):
                raise RuntimeError("HyDRA's callback for Trainer needs PyTorch 2.1 or newer; in a loop of your own, "
                                   "GradientLog.record() works with any")
            parameter.register_post_accumulate_grad_hook(
                lambda parameter, key=key: self.hooked.__setitem__(key, parameter.grad.detach().float().norm())
            )

    def record(self, step: int, loss: Any = None, norms: Optional[Mapping[Tuple[str, str], Any]] = None) -> None:
        """Writes one optimizer step. `norms` replaces what is read from the parameters: {(module, matrix): norm}."""
        if step % self.every:
            return
        if norms is None:
            norms = self.hooked or {
                key: parameter.grad.detach().float().norm()
                for key, parameter in self.parameters
                if parameter.grad is not None
            }
        grads: Dict[str, Dict[str, float]] = {}
        for (module, matrix), norm in zip(norms, to_floats(list(norms.values()))):
            grads.setdefault(module, {})[matrix] = norm
        line: Dict[str, Any] = {"step": int(step)}
        if loss is not None:
            line["loss"] = float(loss)
        line["grads"] = grads
        self.write(line)
        self.hooked = {}

    def close(self) -> None:
        self.file.close()


def to_floats(values: List[Any]) -> List[float]:
    """One transfer for all norms that are tensors of one device."""
    if values and hasattr(values[0], "device") and len({value.device for value in values}) == 1:
        import torch

        floats: List[float] = torch.stack(values).tolist()
        return floats
    return [float(value) for value in values]


def model_name(model: Any) -> Optional[str]:
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def lora_of(model: Any) -> Optional[Dict[str, Any]]:
    """Rank and alpha of the active adapter, where every module has the same."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict) or not configs:
        return None
    active = getattr(model, "active_adapter", None)
    config = configs.get(active if isinstance(active, str) else None) or next(iter(configs.values()))
    if not getattr(config, "r", 0) or getattr(config, "rank_pattern", None):
        return None
    return {"r": config.r, "alpha": config.lora_alpha}


class HydraCallback(TrainerCallback):  # type: ignore[misc]
    """For Hugging Face's Trainer."""

    def __init__(self, path: Path, every: int = 1) -> None:
        if not hasattr(TrainerCallback, "on_pre_optimizer_step"):
            raise RuntimeError("HyDRA's callback needs a transformers whose Trainer calls on_pre_optimizer_step; "
                               "install a newer one, or call GradientLog.record() in a loop of your own")
        self.path, self.every = path, every
        self.log: Optional[GradientLog] = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        alone = args.world_size == 1
        clip = "pre" if alone or not args.max_grad_norm else "post"
        self.log = GradientLog(self.path, model, self.every, clip, append=state.global_step > 0)
        if alone:
            self.log.watch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.log:
            self.log.record(state.global_step + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.log:
            self.log.close()


class HydraLightningCallback(LightningCallback):  # type: ignore[misc]
    """For Lightning, which calls on_before_optimizer_step after unscaling and before clipping."""

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.every = path, every
        self.log: Optional[GradientLog] = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if trainer.is_global_zero:
            # A Lightning module holds its network as an attribute: the PEFT model, or the one with a configuration.
            networks = [child for child in module.children() if hasattr(child, "config")]
            self.log = GradientLog(self.path, networks[0] if networks else module, self.every, append=trainer.global_step > 0)

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if self.log:
            loss = trainer.callback_metrics.get("train_loss", trainer.callback_metrics.get("loss"))
            self.log.record(trainer.global_step + 1, loss=loss)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self.log:
            self.log.close()
