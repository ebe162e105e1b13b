import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import tiny_config, write_log
from peft import LoraConfig

import hydra_lora
from hydra_lora import TrialState

SEARCH = dict(n_trials=6, n_startup_trials=3, performance_model="ridge", n_replicates=0)


def study_of(tmp_path, log=None, **arguments):
    settings = {"base_rank": 4, "log": log or write_log(tmp_path / "log.jsonl"), **SEARCH, **arguments}
    return hydra_lora.create_study(tmp_path / "study.journal", tiny_config(), **settings)


def score_of(ranks):
    """Rank of the last layer's pays."""
    return sum(rank for name, rank in ranks.items() if ".3." in name) / 100


def objective(trial):
    return {"vqa": score_of(trial.ranks)}


def test_a_study_is_searched_to_its_end_and_the_best_trial_is_known(tmp_path):
    study = study_of(tmp_path)
    study.optimize(objective)
    trials = study.trials
    assert 3 < len(trials) <= 6
    assert all(trial.state is TrialState.COMPLETE for trial in trials)
    assert study.ask() is None
    best = max(trials, key=lambda trial: trial.value)
    assert study.best_trial == best and study.best_value == best.value
    assert best.values == {"vqa": best.value}
    assert (study.pick.basis, study.pick.probability) == ("untested", None)
    assert study.best_schedule.ranks == study.pick.trial.ranks
    assert isinstance(best.lora_config(), LoraConfig)
    assert study.best_schedule.budget.used <= study.best_schedule.budget.allowed
    assert study.status["complete"] == len(trials)


def test_optuna_opens_a_study_as_one_of_its_own(tmp_path):
    optuna = pytest.importorskip("optuna")
    study = study_of(tmp_path)
    study.optimize(lambda trial: {"a": score_of(trial.ranks), "b": 0.5})
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    storage = optuna.storages.JournalStorage(journal)
    (name,) = optuna.get_all_study_names(storage)
    theirs = optuna.load_study(study_name=name, storage=storage)
    assert theirs.direction.name == "MAXIMIZE" and theirs.best_value == study.best_value
    own = [(trial.number, trial.value) for trial in study.trials]
    assert [(trial.number, trial.value) for trial in theirs.get_trials(states=[optuna.trial.TrialState.COMPLETE])] == own


def test_a_schedule_is_recommended_by_fresh_seeds_alone(tmp_path):
    study = study_of(tmp_path, n_replicates=4)
    seeds = []

    def luckless(trial):
        seeds.append(trial.seed)
        return score_of(trial.ranks)

    study.optimize(luckless)
    again = [trial for trial in study.trials if trial.origin["kind"] == "replicate"]
    assert again and {trial.seed for trial in again} == {1, 2, 3, 4} and set(seeds) == {0, 1, 2, 3, 4}
    pick = study.pick
    found, safe = (study.trials[number].value for number in (pick.found, pick.safe))
    assert pick.difference == pytest.approx(found - safe) and pick.seeds == 2
    assert (pick.basis, pick.trial.number) == (("shown", pick.found) if found > safe else ("not-shown", pick.safe))
    assert study.best_schedule.ranks == pick.trial.ranks
    with pytest.raises(hydra_lora.UsageError, match="replicates"):
        hydra_lora.create_study(tmp_path / "other.journal", tiny_config(), 4, n_replicates=3)


def test_a_trial_has_a_folder_a_schedule_and_a_configuration(tmp_path):
    study = study_of(tmp_path, dropout=0.1)
    trial = study.ask()
    assert (trial.number, trial.again, trial.gradients) == (0, False, None)
    assert trial.lora_config() == LoraConfig(**json.loads((trial.folder / "lora.json").read_text()))
    assert trial.lora_config().lora_dropout == 0.1
    assert dict(trial.ranks) == json.loads((trial.folder / "schedule.json").read_text())["ranks"]
    (trial.folder / "result.json").write_text('{"scores": {"vqa": 0.5}}')
    study.tell(trial)
    assert study.best_value == 0.5


def strip_clock(journal):
    """A journal without the times at which its lines were written."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items() if not key.startswith("datetime_")
                    and key != "hydra:asked"}
        return [clean(inner) for inner in value] if isinstance(value, list) else value

    return [json.dumps(clean(line)) for line in lines]


@pytest.mark.parametrize("performance_model", ["ridge", "transformer"])
def test_a_conversation_leaves_the_trainers_file(tmp_path, trainer, performance_model):
    log = write_log(tmp_path / "log.jsonl")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    tiny_config().to_json_file(tmp_path / "config.json", use_diff=False)
    study = hydra_lora.create_study(ours / "s.journal", tmp_path / "config.json", 4, log=log, stages=2, scale="fixed-alpha:16",
                                    **{**SEARCH, "performance_model": performance_model})
    settings = ["search.trials=6", "search.starts=3", "search.replicates=0", f"search.model={performance_model}", "plan.stages=2",
                "plan.scale=fixed-alpha:16"]
    file = theirs / "s.journal"
    trainer("study", "create", file, "--model", tmp_path / "config.json", "--base-rank", 4, "--gradients", log,
            *(word for setting in settings for word in ("--set", setting)))
    for _ in range(5):
        trial = study.ask()
        if trial is None:
            break
        asked = json.loads(trainer("study", "ask", file, "--json"))["trial"]
        assert asked["number"] == trial.number and asked["origin"] == trial.origin
        score = score_of(trial.ranks)
        study.tell(trial, {"a": score, "b": 1 - score}, seconds=1.5)
        trainer("study", "tell", file, trial.number, "--scores", json.dumps({"a": score, "b": 1 - score}), "--seconds", 1.5)
    trial = study.ask()
    if trial:
        trainer("study", "ask", file)
        study.tell(trial, state="fail", error="no luck")
        trainer("study", "tell", file, trial.number, "--failed", "no luck")
    assert strip_clock(ours / "s.journal") == strip_clock(file)
    # And the one goes on with the other's.
    assert hydra_lora.load_study(file).status["complete"] == 5
    assert json.loads(trainer("study", "status", ours / "s.journal", "--json"))["complete"] == 5


def test_the_first_trials_log_becomes_the_profile_where_the_study_has_none(tmp_path):
    study = hydra_lora.create_study(tmp_path / "study.journal", tiny_config(), 4, **SEARCH)
    with pytest.raises(hydra_lora.DataError, match="HydraCallback"):
        study.optimize(lambda trial: 1.0, n_trials=1)
    seen = []

    def train(trial):
        seen.append(trial.gradients)
        if trial.gradients:
            assert set(trial.ranks.values()) == {4}
            write_log(trial.gradients)
        return score_of(trial.ranks)

    study.optimize(train, n_trials=3)
    assert seen[0] is not None and seen[1:] == [None, None]
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert study.best_trial.values.keys() == {"score"}


def test_a_trial_that_raises_is_told_as_failed_and_what_is_caught_goes_on(tmp_path):
    study = study_of(tmp_path)

    def diverges(trial):
        if trial.number == 1:
            raise FloatingPointError("loss is NaN")
        return 0.5 if trial.number != 2 else float("nan")

    with pytest.warns(UserWarning, match="trial 2 failed"):
        study.optimize(diverges, n_trials=4, catch=FloatingPointError)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].error == "FloatingPointError: loss is NaN"
    with pytest.raises(KeyError):
        study.optimize(lambda trial: {}["missing"], n_trials=1)
    assert study.trials[4].state is TrialState.FAIL


def test_callbacks_hear_every_trial_and_may_stop(tmp_path):
    study, heard = study_of(tmp_path), []

    def callback(study, trial):
        heard.append((trial.number, trial.value))
        if trial.number == 1:
            study.stop()

    study.optimize(objective, callbacks=[callback])
    assert heard == [(trial.number, trial.value) for trial in study.trials] and len(heard) == 2
    study.optimize(objective, timeout=0.0)
    assert len(study.trials) == 2


def test_a_study_goes_on_where_it_stopped_and_another_cannot_take_its_file(tmp_path):
    study_of(tmp_path).optimize(objective, n_trials=2)
    with pytest.raises(hydra_lora.UsageError, match="there is a study in this file already"):
        study_of(tmp_path)
    again = study_of(tmp_path, load_if_exists=True)
    again.optimize(objective)
    whole = tmp_path / "whole"
    whole.mkdir()
    at_once = study_of(whole)
    at_once.optimize(objective)
    assert [trial.ranks for trial in again.trials] == [trial.ranks for trial in at_once.trials]


def test_several_may_ask_before_any_is_told_and_who_expired_is_asked_again(tmp_path):
    study = study_of(tmp_path, expires=1, n_trials=2, n_startup_trials=2)
    first, second = study.ask(), study.ask()
    assert first.ranks != second.ranks
    with pytest.raises(hydra_lora.TryAgain, match="before trial 0 or 1 is told"):
        study.ask()
    time.sleep(1.1)
    again = study.ask()
    assert (again.number, again.again) == (0, True)


def test_a_trial_that_another_process_told_meanwhile_counts_once_and_optimize_goes_on(tmp_path):
    study = study_of(tmp_path, n_trials=2, n_startup_trials=2)

    def slow(trial):
        hydra_lora.load_study(study.storage).tell(trial, {"a": 1.0})
        return {"a": 2.0}

    study.optimize(slow)
    assert {trial.value for trial in study.trials} == {1.0}


ASKER = """
import sys, hydra_lora
study = hydra_lora.load_study(sys.argv[1])
print(*[study.ask().number for _ in range(3)])
"""


def test_two_processes_ask_for_different_trials(tmp_path):
    study = study_of(tmp_path, n_startup_trials=6)
    command = [sys.executable, "-c", ASKER, str(study.storage)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [int(number) for worker in workers for number in worker.communicate(timeout=120)[0].split()]
    assert sorted(found) == list(range(6))
    assert len({tuple(trial.ranks.values()) for trial in study.trials}) == 6


FORKER = """
import os, sys, hydra_lora
study = hydra_lora.load_study(sys.argv[1])
if os.fork() == 0:
    try:
        study.ask()
    except hydra_lora.HydraError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_forked_process_is_told_so_and_does_not_hang(tmp_path):
    command = [sys.executable, "-c", FORKER, str(study_of(tmp_path).storage)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "was forked" in printed and "spawn" in printed


WORKER = """
import signal, sys, time, hydra_lora
# Where the tests run in the background, what they start ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
study = hydra_lora.load_study(sys.argv[1])
def train(trial):
    print("training", trial.number, flush=True)
    time.sleep(float(sys.argv[2]))
    return 1.0
study.optimize(train)
"""


def test_ctrl_c_ends_optimize_and_the_trial_is_asked_again(tmp_path):
    study = study_of(tmp_path)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(study.storage), "60"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "training 0\n"
    worker.send_signal(signal.SIGINT)
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode in (1, 130, -signal.SIGINT) and "KeyboardInterrupt" in errors
    trial = study.ask()
    assert (trial.number, trial.again) == (0, True)


def test_ctrl_c_that_comes_while_a_schedule_is_chosen_gives_the_trial_back(tmp_path):
    study, returned = study_of(tmp_path, n_startup_trials=6), []

    def handler(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with pytest.raises(KeyboardInterrupt):
            while True:
                returned.append(study.ask())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    status = study.status
    assert status["running"] - status["expired"] == len(returned)


def test_two_processes_search_one_study_to_its_end(tmp_path):
    study = study_of(tmp_path)
    command = [sys.executable, "-c", WORKER, str(study.storage), "0.05"]
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    states = [trial.state for trial in study.trials]
    assert set(states) == {TrialState.COMPLETE} and len(states) <= 6
    assert study.ask() is None


@pytest.mark.parametrize("tell, kind, message", [
    (dict(trial=7, values=1.0), "UsageError", "trial 7 is unknown"),
    (dict(trial=0, values=float("nan")), "NumericalError", "NaN or infinite"),
    (dict(trial=0, values={}), "DataError", "holds no score"),
    (dict(trial=0, values=[1.0, 2.0]), "UsageError", "several scores need names"),
    (dict(trial=0, values="good"), "UsageError", "names"),
    (dict(trial=0, values=None), "DataError", "result.json was not written"),
    (dict(trial=0, values=1.0, state="fail"), "UsageError", "values are told"),
    (dict(trial=0, state="pruned"), "UsageError", "state is pruned"),
    (dict(trial=0, values=1.0, seconds=-1.0), "UsageError", "seconds"),
    (dict(trial=0, values=1.0, log="log.jsonl"), "UsageError", "log has no effect"),
])
def test_what_cannot_be_told_is_refused_and_the_trial_stays(tmp_path, tell, kind, message):
    study = study_of(tmp_path)
    study.ask()
    with pytest.raises(ValueError) as refusal:
        study.tell(**tell)
    assert type(refusal.value).__name__ == kind, refusal.value
    assert message in str(refusal.value)
    study.tell(0, 0.25)
    with pytest.raises(hydra_lora.UsageError, match="was told already, with 0.25"):
        study.tell(0, 0.5)
    study.ask()
    with pytest.raises(hydra_lora.DataError, match="still to be told"):
        study.tell(1, {"another": 1.0})


def test_what_cannot_be_begun_is_refused(tmp_path):
    with pytest.raises(hydra_lora.UsageError, match="min_rank is 0"):
        study_of(tmp_path, min_rank=0)
    with pytest.raises(hydra_lora.UsageError, match="annealing"):
        study_of(tmp_path, acquisition="annealing")
    with pytest.raises(TypeError, match="stage_count"):
        study_of(tmp_path, stage_count=2)
    with pytest.raises(hydra_lora.DataError, match="there is no study"):
        hydra_lora.load_study(tmp_path / "study.journal")
    assert not os.path.exists(tmp_path / "study.journal")
    (tmp_path / "broken.journal").write_text("no journal\n")
    with pytest.raises(hydra_lora.DataError, match="broken.journal"):
        hydra_lora.load_study(tmp_path / "broken.journal")
