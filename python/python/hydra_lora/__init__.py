"""LoRA ranks per layer and projection from gradient norms.

    schedule = hydra_lora.plan("grads.jsonl", model, base_rank=16)
    model = peft.get_peft_model(model, schedule.lora_config())

`HydraCallback` and `HydraLightningCallback` log the gradients, `plan` makes a `Schedule` of a log, `create_study` and
`load_study` give a `Study`, which searches for a better one, and `verify` checks a trained adapter. Everything is computed by
the same code as by HyDRA's `trainer`: files of the one are files of the other.
"""

from typing import TYPE_CHECKING, Any

from ._native import BudgetError, DataError, HydraError, NumericalError, TryAgain, UsageError
from ._plan import Budget, Schedule, plan
from ._study import FrozenTrial, Pick, Study, Trial, TrialState, create_study, load_study
from ._verify import Consumer, Verification, verify

if TYPE_CHECKING:
    from .grad_logger import GradientLog, HydraCallback, HydraLightningCallback

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "BudgetError",
    "Consumer",
    "DataError",
    "FrozenTrial",
    "GradientLog",
    "HydraCallback",
    "HydraError",
    "HydraLightningCallback",
    "NumericalError",
    "Pick",
    "Schedule",
    "Study",
    "Trial",
    "TrialState",
    "TryAgain",
    "UsageError",
    "Verification",
    "create_study",
    "load_study",
    "plan",
    "verify",
]

# Importing them imports transformers and Lightning, which takes seconds.
_LOGGERS = ("GradientLog", "HydraCallback", "HydraLightningCallback")


def __getattr__(name: str) -> Any:
    if name in _LOGGERS:
        from . import grad_logger

        return getattr(grad_logger, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
