//! The loop of a search: trials are asked, evaluated and told, several at a time where what evaluates them can do that.

use std::collections::VecDeque;

use anyhow::Result;
use hydra_playground::text::significant;
use hydra_shared::search::{Origin, Outcome, Step, StopReason, Study, Trial};

use super::conversation::Conversation;
use crate::error::{Kind, failure};
use crate::interrupt;
use crate::output::Output;

/// What evaluates a schedule: this program's own training loop, or a command of somebody else's.
pub trait Evaluator {
    /// Begins a trial and comes back at once. What can run only one at a time leaves the work to [`Self::finish`].
    ///
    /// # Errors
    /// A trial that cannot be begun, which ends the search; the trial is begun again when it goes on.
    fn start(&mut self, trial: &Trial) -> Result<()>;

    /// Waits for the end of a trial that was begun. `study` holds what was told so far.
    ///
    /// # Errors
    /// What is not the schedule's fault, which ends the search; the trial is begun again when it goes on.
    fn finish(&mut self, trial: &Trial, study: &Study) -> Result<Outcome>;
}

/// Evaluates trials until the search says that it is over: those that the study holds unfinished, then new ones, up to
/// `parallel` at a time.
///
/// They are told in the order in which they were asked, and a new one is asked when the oldest was told. So which schedule is
/// chosen does not depend on which trial ends first: trial n is chosen when those up to n − `parallel` have been told, and the
/// proposer knows the schedules of the others.
///
/// # Errors
/// What the evaluator cannot go on after, [`Kind::Interrupted`], a disk that cannot be written.
pub fn drive(
    conversation: &mut Conversation,
    evaluator: &mut dyn Evaluator,
    parallel: usize,
    output: &Output,
) -> Result<StopReason> {
    let mut unfinished: VecDeque<Trial> = conversation.study().pending().cloned().collect();
    let mut running: VecDeque<Trial> = VecDeque::new();
    loop {
        while running.len() < parallel.max(1) {
            if interrupt::requested() {
                return Err(failure(Kind::Interrupted, "interrupted between two trials"));
            }
            let trial = match unfinished.pop_front() {
                Some(trial) => {
                    conversation.take_up(&trial, output)?;
                    trial
                }
                None => match conversation.ask()? {
                    Step::Run(trial) => trial,
                    Step::Done(reason) if running.is_empty() => return Ok(reason),
                    // A gain among those that are running may put the end off.
                    Step::Done(_) => break,
                },
            };
            evaluator.start(&trial)?;
            running.push_back(trial);
        }
        if let Some(trial) = running.pop_front() {
            let outcome = evaluator.finish(&trial, conversation.study())?;
            output.note(describe(conversation.tell(trial.number, outcome)?));
        }
    }
}

/// One line about a trial.
pub fn describe(trial: &Trial) -> String {
    let origin = describe_origin(&trial.origin);
    match (trial.objective, &trial.error) {
        (Some(score), _) => format!("trial {:>2}: {}  ({origin})", trial.number, significant(score)),
        (None, Some(error)) => {
            // What follows the first line is the end of a log.
            let error = error.lines().next().unwrap_or_default();
            format!("trial {:>2}: failed  ({origin}): {error}", trial.number)
        }
        (None, None) => format!("trial {:>2}: no score  ({origin})", trial.number),
    }
}

/// Why a schedule is tried, in words.
pub fn describe_origin(origin: &Origin) -> String {
    match origin {
        Origin::Start { name } => name.clone(),
        Origin::Random { .. } => "random".to_owned(),
        Origin::Proposed { model, predicted, .. } => {
            format!("proposed by {model}, predicted {} ± {}", significant(predicted.mean), significant(predicted.std))
        }
        Origin::Chosen { proposer } => format!("chosen by {proposer}"),
        Origin::Replicate { of } => format!("trial {of} again, with a fresh seed"),
        Origin::Foreign => "another program".to_owned(),
    }
}
