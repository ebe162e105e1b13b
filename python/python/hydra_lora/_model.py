"""The argument `model`: its shapes come from whatever is given."""

import json
import os
from typing import Any, Dict, List, Optional, Tuple

from . import _native
from ._native import UsageError

_LORA = (".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B.", ".lora_magnitude_vector.")


def described(model: Any) -> str:
    """JSON for the compiled part: a path or preset, a configuration, or a module's names and shapes."""
    if isinstance(model, (str, os.PathLike)):
        return json.dumps({"path": os.fspath(model)})
    if callable(getattr(model, "named_modules", None)):
        parameters, config = _parameters(model), getattr(model, "config", None)
        return json.dumps({"parameters": {"name": type(_bare(model)).__name__, "parameters": parameters,
                                          "config": _text(config)}})
    text = _text(model)
    if text is None:
        raise UsageError(
            f"model is a {type(model).__name__}; give a module, a configuration of transformers, or the path of a config.json "
            "or checkpoint"
        )
    if not isinstance(model, dict) and not _native.is_known(text):
        empty = _without_weights(model)
        if empty is not None:
            return described(empty)
    return json.dumps({"config": text})


def _without_weights(config: Any) -> Any:
    """The module of a configuration that only transformers knows, on PyTorch's meta device; None where it cannot be made."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    for name in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM", "AutoModel"):
        try:
            with torch.device("meta"):
                return getattr(transformers, name).from_config(config)
        # A class that has no such model, a PyTorch without that context: the next one, or the configuration's own refusal.
        except Exception:
            continue
    return None


def _text(config: Any) -> Optional[str]:
    """A configuration as its config.json has it, with what is left at its default."""
    if isinstance(config, dict):
        return json.dumps(config)
    if not callable(getattr(config, "to_json_string", None)):
        return None
    try:
        return str(config.to_json_string(use_diff=False))
    except TypeError:
        return str(config.to_json_string())


def _bare(model: Any) -> Any:
    """The model inside of PEFT's wrapper."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def _parameters(model: Any) -> List[Tuple[str, List[int]]]:
    """Names and shapes of a module's parameters, those of linear modules as wide as their products.

    PEFT's pairs are left out, and its layers have the names of those that they wrap. Weights that are packed (bitsandbytes,
    GPTQ) have the widths of their matrix.
    """
    widths: Dict[str, List[int]] = {}
    for path, module in model.named_modules():
        inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
        if isinstance(inputs, int) and isinstance(outputs, int):
            widths[_plain(path)] = [outputs, inputs]
    shapes: Dict[str, List[int]] = {}
    for name, parameter in model.named_parameters():
        if any(part in f".{name}." for part in _LORA) or ".modules_to_save." in name:
            continue
        plain = _plain(name)
        path = plain[: -len(".weight")] if plain.endswith(".weight") else None
        shapes[plain] = widths[path] if path in widths else list(parameter.shape)
    # Of packed weights some are buffers.
    for path, shape in widths.items():
        if not any(part in f".{path}." for part in _LORA):
            shapes.setdefault(f"{path}.weight", shape)
    return list(shapes.items())


def _plain(name: str) -> str:
    name = f".{name}".replace(".base_layer", "").replace("._orig_mod", "").replace(".original_module", "")
    if name.startswith(".base_model.model."):
        name = name[len(".base_model.model") :]
    return name[1:]
