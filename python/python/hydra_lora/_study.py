"""Searches over somebody's own training: ask for a schedule, tell its scores. Names are Optuna's."""

import enum
import json
import logging
import math
import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

from . import _native
from ._call import Path, Paths, call, paths, texts
from ._model import described
from ._native import DataError, NumericalError, TryAgain, UsageError
from ._plan import CHOICES, Schedule, choices, read_text

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger("hydra_lora")

# Name of a score that is told as a bare number.
_SCORE = "score"
# Seconds between two looks at a study whose running trials have to be told first.
_LOOK = 1.0

Values = Union[float, Mapping[str, float]]


class TrialState(enum.Enum):
    """Where a trial stands."""

    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Trial:
    """A trial to run: a schedule, and what its training should know.

    Attributes:
        number: its number in the study.
        seed: seed of the training; the same for all schedules that are tried, another one where a schedule is tried again.
        folder: a folder of its own, with `lora.json` and `schedule.json`.
        gradients: where the first trial of a study without a log has to write its gradient log (for `HydraCallback`); None
            where the study has its profile.
        origin: why this schedule is tried.
        again: whether it was handed out before and never told.
    """

    number: int
    seed: int
    folder: FilePath
    gradients: Optional[FilePath]
    origin: Mapping[str, Any]
    again: bool

    @property
    def schedule(self) -> Schedule:
        """Its schedule."""
        return Schedule.load(self.folder / "schedule.json", dropout=json.loads(self._lora())["lora_dropout"])

    @property
    def ranks(self) -> Mapping[str, int]:
        """The rank of every module by its full name."""
        return self.schedule.ranks

    def lora_config(self, **changes: Any) -> "LoraConfig":
        """Its `peft.LoraConfig`, as `Schedule.lora_config` makes it."""
        return self.schedule.lora_config(**changes)

    def _lora(self) -> str:
        return read_text(self.folder / "lora.json")


@dataclass(frozen=True)
class FrozenTrial:
    """A trial of a study as it stands.

    Attributes:
        value: mean of its scores, which the search maximises.
        values: its scores by task.
        schedule: its schedule.
    """

    number: int
    state: TrialState
    value: Optional[float]
    values: Mapping[str, float]
    origin: Mapping[str, Any]
    seed: int
    seconds: Optional[float]
    error: Optional[str]
    ranks: Mapping[str, int] = field(repr=False)
    schedule: Schedule = field(repr=False)

    @classmethod
    def _of(cls, found: Dict[str, Any]) -> "FrozenTrial":
        made = found.pop("schedule")
        dropout = json.loads(made["lora"])["lora_dropout"]
        return cls(**{**found, "state": TrialState(found["state"])}, schedule=Schedule._of(made, dropout))

    def lora_config(self, **changes: Any) -> "LoraConfig":
        """Its `peft.LoraConfig`, as `Schedule.lora_config` makes it."""
        return self.schedule.lora_config(**changes)


@dataclass(frozen=True)
class Pick:
    """The trial whose schedule a study recommends, and what that rests on.

    Attributes:
        trial: the trial.
        basis: "shown" where the schedule was found and is better with fresh seeds, "not-shown" where the best that was found is
            not and the best schedule that needs no search is recommended (uniform LoRA or the plan), "untested" where there
            were no fresh seeds, or not all of them yet: the largest posterior mean.
        found, safe: numbers of the two trials that were compared.
        difference: mean score of the found schedule minus that of the other, over the last fresh seeds.
        low, high: 95 % interval of the difference.
        probability: that the found schedule is better.
        seeds: fresh seeds behind these.
    """

    trial: FrozenTrial
    basis: str
    found: Optional[int] = None
    safe: Optional[int] = None
    difference: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    probability: Optional[float] = None
    seeds: int = 0


class Study:
    """A search for a schedule. `create_study` and `load_study` give one.

    Everything is in its file, Optuna's journal: several processes may ask and tell, `trainer study` as well, and whoever stops
    can be followed by another.
    """

    def __init__(self, storage: Path) -> None:
        self.storage = FilePath(os.fspath(storage))
        self._stop = False

    def __repr__(self) -> str:
        return f"Study({str(self.storage)!r})"

    def ask(self) -> Optional[Trial]:
        """A trial to run; None where the search is over.

        Several may be asked before any is told; each has another schedule, or another seed. One that was asked for and not told within
        `expires` seconds is given again.

        Raises:
            TryAgain: a running trial must be told first, or another process holds the file for long.
        """
        asked = call(_native.study_ask, self.storage)["trial"]
        if asked is None:
            return None
        gradients = asked.get("gradients")
        return Trial(
            number=asked["number"],
            seed=asked["seed"],
            folder=FilePath(asked["folder"]),
            gradients=FilePath(gradients) if gradients else None,
            origin=asked["origin"],
            again=asked["again"],
        )

    def tell(
        self,
        trial: Union[Trial, int],
        values: Optional[Values] = None,
        state: Union[TrialState, str, None] = None,
        *,
        log: Paths = (),
        seconds: Optional[float] = None,
        error: Optional[str] = None,
    ) -> None:
        """Takes down how a trial went.

        Args:
            trial: the trial, or its number.
            values: its score, or scores by task, higher being better: the same tasks in every trial. Without them and without
                a state they are read from `result.json` in the trial's folder.
            state: `TrialState.FAIL` (or "fail", or Optuna's) where it gave none.
            log: gradient log of the first trial where the study awaits it; else what `Trial.gradients` names is read.
            seconds: how long it took.
            error: why it failed.

        Raises:
            UsageError: a trial that is unknown or was told.
            NumericalError: a score that is NaN or infinite.
            DataError: other tasks than the first trial's, a log that cannot be the profile.
        """
        number = trial if isinstance(trial, int) else trial.number
        name = getattr(state, "name", state)
        if name is not None and str(name).upper() not in ("COMPLETE", "FAIL"):
            raise UsageError(f"state is {state}; a trial is told as COMPLETE or FAIL")
        failed = name is not None and str(name).upper() == "FAIL"
        if failed and values is not None:
            raise UsageError("values are told of a trial that is COMPLETE, not of one that failed")
        if error is not None and not failed:
            raise UsageError('error is told of a trial that failed: state="fail"')
        reason = (error or "it was told as failed") if failed else None
        scores = None if values is None else _scores(values)
        call(_native.study_tell, self.storage, number, scores, reason, paths(log), seconds)

    def optimize(
        self,
        func: Callable[[Trial], Values],
        n_trials: Optional[int] = None,
        timeout: Optional[float] = None,
        catch: Union[Type[Exception], Sequence[Type[Exception]]] = (),
        callbacks: Optional[Sequence[Callable[["Study", FrozenTrial], None]]] = None,
    ) -> None:
        """Asks, calls `func`, tells, until the search is over.

        Several processes may do so at once on one file. Where nothing can be asked before another one's trial is told, this
        waits for it. A trial whose `func` raises is told as failed, and the exception goes on unless `catch` names it; so
        does one whose score is NaN or infinite. On Ctrl-C the trial is given to whoever asks next.

        Args:
            func: trains with `trial.lora_config()` and gives a score, or scores by task, higher being better.
            n_trials: most trials of this call; None goes on to the end of the search.
            timeout: seconds after which no further trial is begun.
            catch: exceptions after which the search goes on.
            callbacks: called with the study and each trial that was told.
        """
        caught: Tuple[Type[Exception], ...] = (catch,) if isinstance(catch, type) else tuple(catch)
        self._stop = False
        started, done, waits = time.monotonic(), 0, False
        while not self._stop and (n_trials is None or done < n_trials):
            if timeout is not None and time.monotonic() - started >= timeout:
                return
            try:
                trial = self.ask()
            except TryAgain as busy:
                if not waits:
                    logger.warning("%s; this is waited for", busy)
                waits = True
                time.sleep(_LOOK)
                continue
            if trial is None:
                return
            waits = False
            self._run(trial, func, caught)
            done += 1
            if callbacks:
                told = next((known for known in self.trials if known.number == trial.number), None)
                for callback in callbacks:
                    if told is not None:
                        callback(self, told)

    def stop(self) -> None:
        """Ends `optimize` after the trial that runs; for its callbacks."""
        self._stop = True

    def _run(self, trial: Trial, func: Callable[[Trial], Values], caught: Tuple[Type[Exception], ...]) -> None:
        begun = time.monotonic()
        try:
            values = func(trial)
            scores = _scores(values)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._tell(trial, state=TrialState.FAIL, error=reason, seconds=time.monotonic() - begun)
            # The first trial is asked again: it would fail for ever.
            if not isinstance(error, caught) or trial.gradients is not None:
                raise
            logger.warning("trial %d failed: %s", trial.number, reason)
            return
        except BaseException:
            call(_native.study_let_go, self.storage, trial.number)
            raise
        seconds = time.monotonic() - begun
        bad = [task for task, score in scores if not math.isfinite(score)]
        if bad:
            reason = f"the score of {', '.join(bad)} is NaN or infinite"
            if trial.gradients is not None:
                call(_native.study_let_go, self.storage, trial.number)
                raise NumericalError(f"trial {trial.number}: {reason}; without its gradient log the search cannot begin")
            warnings.warn(f"trial {trial.number} failed: {reason}", stacklevel=3)
            self._tell(trial, state=TrialState.FAIL, error=reason, seconds=seconds)
            return
        try:
            self._tell(trial, dict(scores), seconds=seconds)
        except DataError:
            # Told it is not: other tasks, or no gradient log. Whoever asks next may do better.
            call(_native.study_let_go, self.storage, trial.number)
            raise
        except UsageError as error:
            if trial.gradients is not None and not trial.gradients.exists():
                call(_native.study_let_go, self.storage, trial.number)
                raise DataError(
                    f"trial {trial.number}: schedules are planned from its gradient log, and there is none in "
                    f"{trial.gradients}; train it with HydraCallback(trial.gradients), or begin the study with log=LOG"
                ) from error
            # It took so long that it expired, and whoever asked for it again was quicker: one score each is enough.
            if self.trials[trial.number].state in (TrialState.COMPLETE, TrialState.FAIL):
                logger.warning("trial %d was told by another process meanwhile; its scores here are left out", trial.number)
                return
            raise

    def _tell(self, trial: Trial, *arguments: Any, **named: Any) -> None:
        """`tell`, however long another process holds the file: what a training found out must not be lost."""
        while True:
            try:
                return self.tell(trial, *arguments, **named)
            except TryAgain as busy:
                logger.warning("%s; this is waited for", busy)

    @property
    def trials(self) -> List[FrozenTrial]:
        """All trials, in the order in which they were asked."""
        return [FrozenTrial._of(found) for found in call(_native.study_trials, self.storage)]

    @property
    def best_trial(self) -> FrozenTrial:
        """The trial with the best mean score, which is mostly luck; `pick` says what to use.

        Raises:
            HydraError: none has been scored.
        """
        return FrozenTrial._of(call(_native.study_best, self.storage))

    @property
    def best_value(self) -> float:
        """The best mean score."""
        value = self.best_trial.value
        return math.nan if value is None else value

    @property
    def pick(self) -> Pick:
        """The trial whose schedule is recommended: the best score of many is mostly luck.

        Raises:
            HydraError: none has been scored.
        """
        found = call(_native.study_pick, self.storage)
        return Pick(FrozenTrial._of(found["trial"]), found["basis"], **(found["last_round"] or {}))

    @property
    def best_schedule(self) -> Schedule:
        """The recommended schedule."""
        return self.pick.trial.schedule

    @property
    def status(self) -> Dict[str, Any]:
        """How many trials are complete, failed, running, expired and in the queue; what `trainer study status --json` prints."""
        status: Dict[str, Any] = call(_native.study_status, self.storage)
        return status


def _scores(values: Values) -> List[Tuple[str, float]]:
    if isinstance(values, Mapping):
        named = values
    elif isinstance(values, (str, bytes)) or isinstance(values, Sequence):
        raise UsageError("several scores need names: give {task: score}")
    else:
        named = {_SCORE: values}
    try:
        return [(str(task), float(score)) for task, score in named.items()]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{values!r} is no score; give a number, or numbers by task") from error


def load_study(storage: Path) -> Study:
    """The study of a file, of `create_study` or of `trainer study create`.

    Raises:
        DataError: there is none, or it is damaged.
        UsageError: it is of `trainer search` without --trial, whose trials nobody else can run.
    """
    if not call(_native.study_exists, storage):
        raise DataError(f"{os.fspath(storage)}: there is no study; begin one with create_study")
    return Study(storage)


def create_study(
    storage: Path,
    model: Any,
    base_rank: int,
    *,
    log: Paths = (),
    load_if_exists: bool = False,
    run: Optional[str] = None,
    include: Union[str, Sequence[str]] = (),
    exclude: Union[str, Sequence[str]] = (),
    dropout: float = 0.0,
    expires: int = 24 * 60 * 60,
    n_trials: Optional[int] = None,
    n_startup_trials: Optional[int] = None,
    patience: Optional[int] = None,
    min_gain: Optional[float] = None,
    n_candidates: Optional[int] = None,
    n_replicates: int = 8,
    performance_model: Optional[str] = None,
    acquisition: Optional[str] = None,
    trial_seed: Optional[int] = None,
    **plan_choices: Any,
) -> Study:
    """Begins a search in a new file, with the settings of `trainer study create`.

    Args:
        storage: file of the study, Optuna's journal. Folders of trials come beside it, in `trials/`.
        model: the model that is trained, as `plan` takes it.
        base_rank: rank of the uniform LoRA that sets the budget.
        log: gradient log that schedules are planned from. Without one the first trial is uniform LoRA and must leave a log at
            `Trial.gradients`.
        load_if_exists: go on with the study that the file holds.
        run, include, exclude, dropout: as `plan` has them.
        expires: seconds after which a trial that was asked for and not told is asked again.
        n_trials: trials of different schedules, failed ones included (16).
        n_startup_trials: of these, schedules that no model chose (8).
        patience: proposals in a row that gain nothing before the search ends (4).
        min_gain: smallest improvement of the mean score that counts as one (0).
        n_candidates: candidates that the performance model chooses from (256).
        n_replicates: fresh seeds of the last two schedules of which one is recommended, when the trials are over: at least 4, or
            0 for none. 8 cost at most 26 trainings beside the trials.
        performance_model: "transformer", "ridge" or "gaussian-process".
        acquisition: "predicted-mean", "expected-improvement" or "random".
        trial_seed: seed of the proposals and of every trial (0); fresh seeds follow it.
        plan_choices: the choices of `plan`, such as `stages` or `scale`.

    Raises:
        UsageError: an argument out of its range, a file that holds a study already.
        DataError: as `plan`.
    """
    if load_if_exists and call(_native.study_exists, storage):
        return Study(storage)
    unknown = set(plan_choices) - set(CHOICES)
    if unknown:
        raise TypeError(f"create_study() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    search = {
        "trials": n_trials,
        "starts": n_startup_trials,
        "patience": patience,
        "min_gain": min_gain,
        "candidates": n_candidates,
        "replicates": n_replicates,
        "model": performance_model,
        "acquisition": acquisition,
        "seed": trial_seed,
    }
    call(
        _native.study_create,
        storage,
        described(model),
        paths(log),
        run,
        texts("include", include),
        texts("exclude", exclude),
        dropout,
        expires,
        json.dumps(choices({"base_rank": base_rank, **plan_choices})),
        json.dumps({key: value for key, value in search.items() if value is not None}),
    )
    return Study(storage)
