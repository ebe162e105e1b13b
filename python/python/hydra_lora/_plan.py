"""From a gradient log to a schedule, and from a schedule to PEFT."""

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Union

from . import _native
from ._call import Path, Paths, call, paths, texts
from ._model import described
from ._native import HydraError, UsageError

if TYPE_CHECKING:
    from peft import LoraConfig

# What a schedule decides of PEFT's configuration.
_DECIDED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "peft_type")


@dataclass(frozen=True)
class Budget:
    """What a schedule may use and uses: trainable parameters, or rank units (`counting`)."""

    allowed: int
    used: int
    counting: str = "parameters"


@dataclass(frozen=True)
class Schedule:
    """A rank for every module.

    Attributes:
        ranks: the rank of every module by its full name, in the order of the model; 0 leaves a module without LoRA.
        budget: what the ranks may use and use.
        base_rank: rank of the uniform LoRA that sets the budget.
        trainable_parameters: parameters of LoRA in these ranks.
        document: what `trainer plan --json` prints (stages, norms, notes, …); None of a schedule that was loaded.
        dropout: `lora_dropout` of the configuration.
    """

    ranks: Mapping[str, int]
    budget: Budget
    base_rank: int
    trainable_parameters: int
    document: Optional[Mapping[str, Any]] = field(repr=False)
    dropout: float
    _schedule_json: str = field(repr=False)
    _lora_json: str = field(repr=False)
    _document_json: Optional[str] = field(repr=False, default=None)

    @classmethod
    def _of(cls, made: Mapping[str, Any], dropout: float) -> "Schedule":
        schedule, document = json.loads(made["schedule"]), made.get("document")
        return cls(
            ranks=schedule["ranks"],
            budget=Budget(**schedule["budget"]),
            base_rank=schedule["base_rank"],
            trainable_parameters=made["trainable_parameters"],
            document=json.loads(document) if document else None,
            dropout=dropout,
            _schedule_json=made["schedule"],
            _lora_json=made["lora"],
            _document_json=document,
        )

    @classmethod
    def load(cls, path: Path, *, dropout: float = 0.0) -> "Schedule":
        """Reads a schedule's file, of `save`, of `trainer plan --out`, or the schedule.json of a trial.

        Raises:
            DataError: the file is missing or damaged.
        """
        return cls._of(call(_native.schedule, path, dropout), dropout)

    @property
    def stages(self) -> List[Dict[str, Any]]:
        """Layers of similar norms, and the coarse rank of each stage; empty of a schedule that was loaded."""
        return list(self.document["stages"]) if self.document else []

    def lora_config(self, **changes: Any) -> "LoraConfig":
        """A `peft.LoraConfig`: `r` is the largest rank, other modules stand in `rank_pattern` and `alpha_pattern`.

        Args:
            changes: any other argument of `peft.LoraConfig`, such as `lora_dropout`, `task_type` (CAUSAL_LM) or
                `modules_to_save`.

        Raises:
            UsageError: an argument that the schedule decides.
        """
        from peft import LoraConfig

        decided = [name for name in changes if name in _DECIDED]
        if decided:
            raise UsageError(f"{', '.join(decided)}: the schedule decides this; plan with other choices")
        return LoraConfig(**{**json.loads(self._lora_json), **changes})

    def to_json(self) -> str:
        """What `trainer plan --json` prints.

        Raises:
            HydraError: the schedule was loaded, so that nothing is known of its log.
        """
        if self._document_json is None:
            raise HydraError("a schedule that was loaded has no plan; its file has the ranks")
        return self._document_json

    def save(self, path: Path) -> None:
        """Writes the schedule's file, whole or not at all: `trainer train --schedule` and `load` read it."""
        _native.write_file(path, self._schedule_json)

    def save_lora_config(self, path: Path) -> None:
        """Writes PEFT's configuration as `trainer plan --peft` does: `LoraConfig(**json.load(open(path)))`."""
        _native.write_file(path, self._lora_json)


def plan(
    log: Paths,
    model: Any,
    base_rank: int,
    *,
    run: Optional[str] = None,
    include: Union[str, Sequence[str]] = (),
    exclude: Union[str, Sequence[str]] = (),
    dropout: float = 0.0,
    stages: Optional[int] = None,
    ratio: Optional[float] = None,
    stage_ranks: Optional[Sequence[int]] = None,
    stage_layers: Optional[str] = None,
    delta: Optional[int] = None,
    signs: Optional[str] = None,
    contiguous: Optional[bool] = None,
    schedule_kind: Optional[str] = None,
    signal: Optional[str] = None,
    warm_up_share: Optional[float] = None,
    skip_non_finite: Optional[bool] = None,
    layer_norm: Optional[str] = None,
    budget: Optional[int] = None,
    counting: Optional[str] = None,
    rank_cap: Optional[int] = None,
    min_rank: Optional[int] = None,
    scale: Optional[str] = None,
    seed: Optional[int] = None,
    restarts: Optional[int] = None,
) -> Schedule:
    """Ranks for every module that a gradient log holds, within the parameters of uniform LoRA at `base_rank`.

    What is None is as `trainer plan` has it by default.

    Args:
        log: gradient log, or a folder of them, in any format of docs/gradient-logs.md; several are read as one run.
        model: the model that was trained: the module itself (PEFT's wrapper around it, too), its configuration of
            transformers, or the path of a config.json, a checkpoint or the folder of either.
        base_rank: rank of the uniform LoRA that you would use otherwise.
        run: the run to read, where the log holds several.
        include: plan modules outside the decoder, too, whose names one of these regular expressions is found in.
        exclude: plan no module whose name one of these is found in.
        dropout: `lora_dropout` of the configuration.
        stages: how many clusters K-means makes of the layers.
        ratio: factor from one stage's rank to the next.
        stage_ranks: one rank per stage, in ascending order.
        stage_layers: layers of each stage by hand, lowest rank first, such as "0-11/12-17/18-23".
        delta: by how much the fine step moves the rank of a projection; 0 leaves the coarse ranks.
        signs: which projections give rank and which get it, such as "q=-,k=-,up=+".
        contiguous: every stage is a run of neighbouring layers.
        schedule_kind: "hydra", or a schedule to compare it with: "hydra-coarse", "uniform", "linear", "exponential",
            "random-feasible", "norm-proportional", "eva-like".
        signal: what is measured of a module's gradient in one step: "l2", "rms" or "fisher".
        warm_up_share: share of the run's steps that is left out at its start.
        skip_non_finite: leave out steps in which a norm is NaN or infinite.
        layer_norm: how a layer's norm follows from its projections': "mean" or "root-sum-squares".
        budget: trainable parameters (or rank units) allowed.
        counting: "parameters", or "rank-units" as AdaLoRA and EVA count.
        rank_cap: no rank above this one, for servers that have a limit.
        min_rank: lowest rank; with 0 the plan may drop modules.
        scale: how strongly a module's update counts: "constant:2", "fixed-alpha:256", "rslora:256".
        seed: seed of K-means++ and of the random schedule.
        restarts: runs of K-means from different starts, of which the best is kept.

    Raises:
        UsageError: an argument out of its range, or one that has no effect beside the others.
        DataError: a log or model that cannot be read, or that do not fit each other.
        NumericalError: norms that are NaN, infinite, or 0 everywhere.
        BudgetError: a budget too small for the lowest ranks.
    """
    settings = choices(locals())
    made = call(
        _native.plan,
        paths(log),
        described(model),
        run,
        texts("include", include),
        texts("exclude", exclude),
        dropout,
        json.dumps(settings),
    )
    return Schedule._of(made, dropout)


# The choices of a plan: keys of the table [plan] in a configuration of the trainer.
CHOICES = (
    "base_rank",
    "stages",
    "ratio",
    "stage_ranks",
    "stage_layers",
    "delta",
    "signs",
    "contiguous",
    "schedule_kind",
    "signal",
    "warm_up_share",
    "skip_non_finite",
    "layer_norm",
    "budget",
    "counting",
    "rank_cap",
    "min_rank",
    "scale",
    "seed",
    "restarts",
)


def choices(arguments: Mapping[str, Any]) -> Dict[str, Any]:
    """The choices of a plan that were given among a function's arguments."""
    given = {name: arguments[name] for name in CHOICES if arguments.get(name) is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def read_text(path: Path) -> str:
    with open(os.fspath(path), encoding="utf-8") as file:
        return file.read()
