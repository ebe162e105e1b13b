//! What dropped files, another model or a run's folder do to a session.

use std::sync::Arc;

use hydra_shared::gradients::{Fit, GradientLog, IngestReport, ProfileConfig, ProfileError, Wish, fit, profile};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::{Plan, PlanConfig, RankSchedule, StageChoice, plan};
use hydra_shared::search::Study;

use crate::analysis::Analysis;
use crate::documents::{AdapterRanks, Document, layout_of_schedule, model_of_layout, model_of_log};
use crate::files::given;
use crate::link::{self, from_link};
use crate::messages::ingest::{IngestRequest, Profiled, ReadFiles, ReadLog, Reading};
use crate::profile_text::rounded;
use crate::samples::Sample;
use crate::session::{LogChoice, Session, Source, unknown_profile};

/// What files did to a session, and what is left for its owner to do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Taken {
    /// Whether the session was changed.
    pub changed: bool,
    /// Whether a module that was selected has become another.
    pub deselect: bool,
    /// What was in the files; none where a sample's own log was read again, of which there is nothing to tell.
    pub findings: Option<Findings>,
    /// What has to be told at once, in order.
    pub warnings: Vec<String>,
    /// Where the profile came from, if it is that of the log that the reader of files holds now.
    pub held: Option<Source>,
    /// What the reader of files is to be asked: profiles of the log that it holds, for models that came in.
    pub requests: Vec<IngestRequest>,
    /// A study, to be searched on.
    pub study: Option<Study>,
}

/// What was in files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    /// What each file that is no log was, by its name.
    pub documents: Vec<(String, String)>,
    /// Files that could not be used, and why.
    pub problems: Vec<(String, String)>,
    /// What was recognised in logs, what was left out, and why.
    pub log: Option<IngestReport>,
}

/// What is known of a trainer's run. A run of which there is neither a log nor a schedule makes a session without a
/// profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What gets the ranks, where a person names the model.
    pub layout: Option<Arc<Layout>>,
    /// The gradient log and its file's name.
    pub log: Option<(String, GradientLog)>,
    /// The schedule.
    pub schedule: Option<RankSchedule>,
    /// How it made its profile.
    pub profiling: ProfileConfig,
    /// Its choices of the method.
    pub plan: PlanConfig,
}

/// Why a run makes no session.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing tells the model.
    #[error("its model is none of the presets")]
    UnknownModel,
    /// The log makes no profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl Session {
    /// Takes what was read of files: first models, then the log, then what holds ranks. `held` is the source of the session
    /// whose log the reader of files still held before.
    pub fn take(&mut self, files: ReadFiles, held: Option<&Source>) -> Taken {
        let ReadFiles { documents, problems, log, studies, .. } = files;
        let sample = log.as_ref().and_then(|log| self.sample_of(log));
        let mut taken = Taken::default();
        let mut findings =
            Findings { problems, log: log.as_ref().map(|log| log.report.clone()), ..Findings::default() };
        for (file, document) in &documents {
            if let Document::Model(model, notes) = document {
                taken.warnings.extend(notes.iter().map(|note| format!("{file}: {note}")));
                let what = format!("model configuration: {} layers", model.blocks().len());
                findings.documents.push((file.clone(), what));
                taken.requests.extend(self.take_layout(Arc::new(model.as_ref().clone()), held));
                (taken.changed, taken.deselect) = (true, true);
            }
        }
        if let Some(log) = log {
            self.take_log(log, sample, &mut taken);
            if taken.held.is_some() {
                // It has taken the place of the log that a new model would have measured again.
                taken.requests.clear();
            }
        }
        for (file, document) in documents {
            if let Some(what) = self.take_document(&file, document, &mut taken) {
                findings.documents.push((file, what));
            }
        }
        taken.study = studies.into_iter().next();
        if let Some(study) = &taken.study {
            let what = format!("study journal: {} trials of \"{}\"", study.trials.len(), study.metadata.name);
            findings.documents.push(("journal".to_owned(), what));
        }
        taken.findings = sample.is_none().then_some(findings);
        taken
    }

    /// How a log is read for this session.
    pub fn reading(&self) -> Reading {
        Reading {
            layout: Arc::clone(&self.layout),
            profiling: self.profiling,
            of_log: self.of_log.clone(),
            base_rank: self.plan.base_rank,
        }
    }

    /// How files are read that come in. A run is that of a log: where other files are shown, it goes.
    pub fn reading_of(&self, paths: &[String]) -> Reading {
        let mut reading = self.reading();
        if matches!(&self.source, Source::Log(files) if *files != given(paths)) {
            reading.of_log.run = None;
        }
        reading
    }

    /// Takes another model. A log that the reader of files holds for this session (`held` is then the session's source) has
    /// to be read for it, which the request asks; without one, a profile that does not fit goes.
    pub fn take_layout(&mut self, layout: Arc<Layout>, held: Option<&Source>) -> Option<IngestRequest> {
        let (source, of_log) = (self.source.clone(), self.of_log.clone());
        let held = held == Some(&source);
        self.by_hand.clear();
        self.pinned = None;
        if self.profile.fits(&layout) {
            self.plan = fitting(self.plan.clone(), &layout);
            self.layout = Arc::clone(&layout);
            if matches!(self.source, Source::Sample(_)) {
                self.source = Source::Log(vec![self.source.name()]);
            }
        } else {
            let sample = Sample::ALL.into_iter().find(|sample| sample.layout() == layout);
            match sample.filter(|_| !held) {
                Some(sample) => *self = Self::of_sample(sample),
                None => {
                    self.plan = fitting(self.plan.clone(), &layout);
                    self.profile = unknown_profile(&layout);
                    self.source = Source::Unknown;
                    self.layout = Arc::clone(&layout);
                }
            }
        }
        held.then(|| {
            (self.source, self.of_log) = (source, of_log);
            IngestRequest::Profile(Reading { layout, ..self.reading() })
        })
    }

    /// Takes a profile that was made again of the log that is shown, with the modules of the model that the log holds and that
    /// were chosen; one of another model is passed over. Says whether the modules have become others.
    pub fn take_profile(&mut self, made: Profiled) -> bool {
        let Profiled { layout, profile, of_log, .. } = made;
        if layout.model() != self.layout.model() || !profile.fits(&layout) {
            return false;
        }
        let others = !self.layout.same_modules(&layout);
        if others {
            self.plan = fitting(self.plan.clone(), &layout);
            self.by_hand.clear();
            self.pinned = None;
            self.layout = layout;
        }
        self.profile = rounded(profile);
        self.of_log = of_log;
        others
    }

    /// The session of a run: its profile under its choices. Ranks that the plan does not give are shown as set by hand.
    ///
    /// # Errors
    /// A log of a model that is not known, or without a profile.
    pub fn of_run(run: Run) -> Result<Self, RunError> {
        let Run { layout: given, log, schedule, profiling, plan: choices } = run;
        let mut session = Self { profiling, plan: choices, ..Self::default() };
        match log {
            Some((file, log)) => {
                let of_schedule = || schedule.as_ref().map(|schedule| layout_of_schedule(schedule, &session.layout));
                // No model is shown yet, so none is preferred.
                let known = given.or_else(of_schedule).map(|layout| model_of_layout(&layout, None));
                let known = known.or_else(|| model_of_log(&log, None, &session.of_log));
                let Fit { layout, .. } = fit(&log, &known.ok_or(RunError::UnknownModel)?, |_| Wish::None)?;
                session.layout = layout;
                session.profile = rounded(profile(&log, &session.layout, &profiling)?);
                if let (None, Some(lora)) = (&schedule, log.meta.lora) {
                    session.plan.base_rank = lora.r.max(1);
                }
                session.source = Source::Log(vec![file]);
            }
            None => {
                let shown = given.unwrap_or_else(|| Arc::clone(&session.layout));
                if let Some(schedule) = &schedule {
                    session.layout = layout_of_schedule(schedule, &shown);
                }
                session.profile = unknown_profile(&session.layout);
                session.source = Source::Unknown;
            }
        }
        if let Some(schedule) = schedule {
            session.plan.base_rank = schedule.base_rank;
            session.plan.scale = schedule.scale;
            let of_kind =
                |plan: Plan| plan.of_kind(&session.layout, &session.profile, &session.plan, session.plan.seed());
            let planned = plan(&session.layout, &session.profile, &session.plan).and_then(of_kind).ok();
            if planned.is_none_or(|plan| plan.ranks != schedule.ranks) {
                session.plan.schedule_kind = None;
                session.by_hand = schedule.ranks.as_slice().iter().copied().enumerate().collect();
                session.plan.budget = Some(schedule.budget.allowed);
                session.plan.counting = schedule.budget.counting;
            }
        }
        Ok(session)
    }

    /// The sample that is shown, if this is its own log, which goes by its title: fetched to be measured another way, it keeps
    /// the session.
    fn sample_of(&self, log: &ReadLog) -> Option<Sample> {
        let of_log = log.made.as_ref().and_then(|made| made.as_ref().ok()).map(|made| &made.of_log);
        match self.source {
            // With other modules than its own it is a log like any other.
            _ if of_log.is_some_and(LogChoice::chooses_modules) => None,
            Source::Sample(sample) if log.files.iter().all(|file| file == sample.title()) => Some(sample),
            _ => None,
        }
    }

    fn take_log(&mut self, log: ReadLog, sample: Option<Sample>, taken: &mut Taken) {
        let Some(made) = log.made else {
            taken.warnings.push(format!(
                "The log has {} layers, and no model of so many is known here: drop its config.json beside it.",
                log.layers
            ));
            return;
        };
        let Profiled { layout, profile, of_log, outside } = match made {
            Ok(made) => made,
            Err(error) => {
                taken.warnings.push(error);
                return;
            }
        };
        taken.warnings.extend(log.left_out);
        taken.warnings.extend(outside);
        (taken.changed, taken.deselect) = (true, true);
        let source = sample.map_or(Source::Log(log.files), Source::Sample);
        taken.held = Some(source.clone());
        if sample.is_none() {
            // Another run: ranks by hand belonged to the last one.
            self.by_hand.clear();
            self.rebalance = false;
            self.plan.schedule_kind = None;
        }
        if self.layout != layout {
            self.pinned = None;
            if let Some(rank) = log.rank {
                self.plan.base_rank = rank.max(1);
            }
            self.plan = fitting(self.plan.clone(), &layout);
        }
        (self.layout, self.source, self.of_log) = (layout, source, of_log);
        self.profile = rounded(profile);
    }

    /// Takes what is neither a log nor a model, and says what it was.
    fn take_document(&mut self, file: &str, document: Document, taken: &mut Taken) -> Option<String> {
        let what = match document {
            Document::Model(..) => return None,
            Document::Session(link) => self.restore(&link, taken),
            Document::Schedule(schedule) => {
                if let Some(link) = session_of(&schedule) {
                    return Some(self.restore(&link, taken));
                }
                let layout = layout_of_schedule(&schedule, &self.layout);
                let what = format!("schedule: {} modules of {}", layout.len(), layout.model());
                self.show_ranks(layout, &schedule.ranks);
                self.plan.base_rank = schedule.base_rank;
                self.plan.scale = schedule.scale;
                self.plan.counting = schedule.budget.counting;
                self.plan.budget = Some(schedule.budget.allowed);
                (taken.changed, taken.deselect) = (true, true);
                what
            }
            Document::Adapter(adapter) => {
                let AdapterRanks { ranks, notices } = adapter;
                taken.warnings.extend(notices.into_iter().map(|notice| format!("{file}: {notice}")));
                self.show_ranks(Arc::clone(ranks.layout()), &ranks);
                (taken.changed, taken.deselect) = (true, true);
                "PEFT configuration: its ranks are shown as set by hand".to_owned()
            }
        };
        Some(what)
    }

    /// Takes the session of a link, and says what it was.
    fn restore(&mut self, link: &str, taken: &mut Taken) -> String {
        let linked = from_link(link);
        *self = linked.session;
        taken.changed = true;
        taken.warnings.extend(linked.notices);
        "a file that this page wrote: its session was restored".to_owned()
    }

    /// Shows given ranks as set by hand, every one.
    fn show_ranks(&mut self, layout: Arc<Layout>, ranks: &Ranks) {
        if !self.profile.fits(&layout) {
            self.profile = unknown_profile(&layout);
            self.source = Source::Unknown;
            self.pinned = None;
        }
        self.plan = fitting(self.plan.clone(), &layout);
        self.layout = layout;
        self.plan.schedule_kind = None;
        self.rebalance = false;
        self.by_hand = ranks.as_slice().iter().copied().enumerate().collect();
    }
}

/// The link to the session behind a schedule that this page exported, if its ranks are still those of the session: a schedule
/// that was edited since is a schedule like any other.
pub fn session_of(schedule: &RankSchedule) -> Option<String> {
    let link = link::find_in(&schedule.provenance.command)?;
    let analysis = Analysis::new(&from_link(&link).session).ok()?;
    (analysis.ranks == schedule.ranks).then_some(link)
}

/// The same choices for a model that may be smaller: a base rank that its matrices can hold, no stages by hand.
fn fitting(mut plan: PlanConfig, layout: &Layout) -> PlanConfig {
    let full = layout.modules().iter().map(|module| module.highest_rank(None)).min().unwrap_or(1);
    plan.base_rank = plan.base_rank.min((full / 2).max(1));
    if matches!(plan.stages, StageChoice::ByHand(_)) {
        plan.stages = PlanConfig::default().stages;
        plan.stage_ranks = PlanConfig::default().stage_ranks;
    }
    // A budget in parameters belongs to one model.
    plan.budget = None;
    plan
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
