"""Will an adapter do what it is meant to do, and where?"""

import os
import tempfile
from dataclasses import dataclass
from typing import Any, List, Optional

from . import _native
from ._call import Path, call
from ._model import described


@dataclass(frozen=True)
class Consumer:
    """What a program that serves LoRA makes of an adapter."""

    name: str
    right: bool
    least: Optional[float]
    """Smallest factor by which it scales an update, times PEFT's."""
    most: Optional[float]
    """Largest."""
    reason: Optional[str]


@dataclass(frozen=True)
class Verification:
    """What was found of an adapter; `bool()` of it says whether it passed."""

    passed: bool
    problems: List[str]
    notes: List[str]
    adapted_modules: int
    model_modules: int
    largest_rank: int
    trainable_parameters: int
    budget: Optional[int]
    vllm_max_lora_rank: Optional[int]
    consumers: List[Consumer]
    not_checked: List[str]

    def __bool__(self) -> bool:
        return self.passed


def verify(adapter: Any, model: Any, base_rank: Optional[int] = None) -> Verification:
    """Checks an adapter module by module, by PEFT's own rules: tensors, patterns, values, budget, and its scale in other
    programs.

    Args:
        adapter: a folder that `save_pretrained` wrote, or a `peft.PeftModel`.
        model: the model that it is for, as `plan` takes it.
        base_rank: rank of the uniform LoRA whose parameters are the budget.

    Raises:
        DataError: files that are missing or damaged, an adapter that is none of LoRA.
    """
    if isinstance(adapter, (str, os.PathLike)):
        return _verify(adapter, model, base_rank)
    with tempfile.TemporaryDirectory() as folder:
        # What PEFT before 0.7 did only when asked.
        adapter.save_pretrained(folder, safe_serialization=True)
        return _verify(folder, model, base_rank)


def _verify(folder: Path, model: Any, base_rank: Optional[int]) -> Verification:
    found = call(_native.verify, folder, described(model), base_rank, stacklevel=4)
    adapted, of_model = found["modules"]
    consumers = [
        Consumer(**{name: consumer.get(name) for name in ("name", "right", "least", "most", "reason")})
        for consumer in found["consumers"]
    ]
    same = ("passed", "problems", "notes", "largest_rank", "trainable_parameters", "vllm_max_lora_rank", "not_checked")
    return Verification(
        adapted_modules=adapted,
        model_modules=of_model,
        budget=found.get("budget"),
        consumers=consumers,
        **{name: found[name] for name in same},
    )
