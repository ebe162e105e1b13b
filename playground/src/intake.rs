//! What dropped files, another model or a run's folder do to a session.

mod run;

use std::sync::Arc;

use hydra_shared::gradients::{FileReport, GradientProfile, IngestReport, KeyGroup};
use hydra_shared::layout::{Layout, Module, Ranks};
use hydra_shared::schedule::{Counting, PlanConfig, RankSchedule, StageChoice};

use crate::analysis::Analysis;
use crate::documents::{Document, GivenRanks, layout_of_schedule};
use crate::files::given;
use crate::link::{self, from_link};
use crate::messages::ingest::{IngestRequest, Profiled, ReadFiles, ReadLog, Reading};
use crate::messages::performance::Measured;
use crate::profile_text::{profile_to_text, rounded};
use crate::samples::Sample;
use crate::session::{GivenConfig, LogChoice, Pinned, Session, Source, unknown_profile};
use crate::trial_result::Scores;

pub use self::run::{Run, RunError};

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
    pub study: Option<Measured>,
    /// What a trial scored, by task, and the file that says so: to be told to a study.
    pub scores: Option<(String, Scores)>,
    /// Whether the rank of the run is not known: that of [`ASSUMED_RANK`] stands for it until somebody says it.
    pub asks_rank: bool,
}

/// What stands for the rank of a run that no file says.
pub const ASSUMED_RANK: u32 = 16;

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

impl Findings {
    /// Files of which nothing was used: those with a problem, then those beside a log that are none.
    pub fn unread(&self) -> Vec<&str> {
        let problems = self.problems.iter().map(|(file, _)| file.as_str());
        let beside = self.log.iter().flat_map(|log| &log.files).filter(|file| file.format.is_none());
        problems.chain(beside.map(|file| file.name.as_str())).collect()
    }
}

/// The keys of gradients in a file that were left out, in a line: how many, and the first of them.
pub fn left_out(file: &FileReport) -> Option<String> {
    let count: usize = file.skipped.iter().map(|group| group.count).sum();
    let examples = file.skipped.iter().flat_map(|KeyGroup { examples, .. }| examples);
    let first: Vec<&str> = examples.map(String::as_str).take(3).collect();
    let more = if count > first.len() { format!(" and {} more", count - first.len()) } else { String::new() };
    (count > 0).then(|| format!("Keys left out ({count}): {}{more}", first.join(", ")))
}

impl Session {
    /// Takes what was read of files: first models, then the log, then what holds ranks. A file that does not fit changes
    /// nothing. `held` is the source of the session whose log the reader of files still held before.
    pub fn take(&mut self, files: ReadFiles, held: Option<&Source>) -> Taken {
        let ReadFiles { documents, problems, log, studies, reading, .. } = files;
        let sample = log.as_ref().and_then(|log| self.sample_of(log));
        let mut taken = Taken::default();
        let mut findings =
            Findings { problems, log: log.as_ref().map(|log| log.report.clone()), ..Findings::default() };
        for (file, document) in &documents {
            let Document::Model(model, notes) = document else { continue };
            taken.warnings.extend(notes.iter().map(|note| format!("{file}: {note}")));
            let what = format!("model configuration: {} layers", model.blocks().len());
            // The log that came with it was read for it.
            if log.is_none() {
                match self.take_layout(Arc::new(model.as_ref().clone()), held) {
                    Ok(None) => (taken.changed, taken.deselect) = (true, true),
                    Ok(request) => taken.requests.extend(request),
                    Err(problem) => {
                        findings.problems.push((file.clone(), problem));
                        continue;
                    }
                }
            }
            findings.documents.push((file.clone(), what));
        }
        if let Some(log) = log {
            self.take_log(log, sample, reading, &mut taken);
        }
        let beside_log = taken.held.is_some() && sample.is_none();
        for (file, document) in documents {
            match self.take_document(&file, document, beside_log, &mut taken) {
                Some(Ok(what)) => findings.documents.push((file, what)),
                Some(Err(problem)) => findings.problems.push((file, problem)),
                None => {}
            }
        }
        taken.study = studies.into_iter().next();
        if let Some(Measured { about, trials, .. }) = &taken.study {
            let what = format!("study journal: {trials} trials of \"{}\"", about.name);
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
            is_sample: matches!(self.source, Source::Sample(_)),
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
    /// to be read for it first, which the request asks: nothing is changed before the answer. Without a log, a profile that
    /// does not fit goes.
    ///
    /// # Errors
    /// A model that the profile of a log is not of, which keeps its place; with what is needed.
    pub fn take_layout(&mut self, layout: Arc<Layout>, held: Option<&Source>) -> Result<Option<IngestRequest>, String> {
        if matches!(self.source, Source::Log(_)) && held == Some(&self.source) {
            return Ok(Some(IngestRequest::Profile(Reading { layout, ..self.reading() })));
        }
        let fits = self.profile.fits(&layout);
        if !fits && matches!(self.source, Source::Log(_)) {
            return Err(format!(
                "it is of {}, and the log that is shown, {}, is of {}: nothing was changed. Drop the log of that model with it",
                layout.size(),
                self.source.name(),
                self.layout.size()
            ));
        }
        self.by_hand.clear();
        self.pinned = None;
        if fits {
            self.plan = fitting(self.plan.clone(), &layout);
            self.layout = layout;
            if matches!(self.source, Source::Sample(_)) {
                self.source = Source::Log(vec![self.source.name()]);
            }
        } else if let Some(sample) = Sample::ALL.into_iter().find(|sample| sample.layout() == layout) {
            *self = Self::of_sample(sample);
        } else {
            self.plan = fitting(self.plan.clone(), &layout);
            self.profile = unknown_profile(&layout);
            self.source = Source::Unknown;
            self.layout = layout;
        }
        Ok(None)
    }

    /// Takes a profile that was made again of the log that is shown, for the model that was asked for, with those of its
    /// modules that the log holds and that were chosen; one of another model is passed over. Says whether the modules have
    /// become others.
    pub fn take_profile(&mut self, made: Profiled, asked: &Layout) -> bool {
        let Profiled { layout, profile, of_log, .. } = made;
        if layout.model() != asked.model() || !profile.fits(&layout) {
            return false;
        }
        let others = !self.layout.same_modules(&layout);
        if others {
            self.plan = fitting(self.plan.clone(), &layout);
            self.by_hand.clear();
            self.pinned = None;
        }
        self.layout = layout;
        self.profile = rounded(profile);
        self.of_log = of_log;
        others
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

    fn take_log(&mut self, log: ReadLog, sample: Option<Sample>, reading: u32, taken: &mut Taken) {
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
        let profile = rounded(profile);
        // Read another way, or opened once more: another run's log may have the same name.
        let is_known = sample.is_some() || reading == self.reading;
        let again = source == self.source && (is_known || profile == self.profile);
        taken.held = Some(source.clone());
        if sample.is_none() {
            // Another run: ranks by hand belonged to the last one.
            self.by_hand.clear();
            self.rebalance = false;
            self.plan.schedule_kind = None;
        }
        if !again {
            // Rank and budget are those of a run: another one's say nothing of this.
            self.plan.base_rank = log.rank.unwrap_or(ASSUMED_RANK).max(1);
            self.plan.budget = None;
            (self.peft, self.given) = Default::default();
            taken.asks_rank = log.rank.is_none();
        }
        if self.layout != layout {
            self.pinned = None;
            self.plan = fitting(self.plan.clone(), &layout);
        }
        if let Some(rank) = log.rank.filter(|rank| !again && *rank > self.plan.base_rank) {
            taken.warnings.push(format!(
                "The log says r = {rank}, which is more than the matrices of the model leave room to move in: {} is used.",
                self.plan.base_rank
            ));
        }
        (self.layout, self.source, self.of_log) = (layout, source, of_log);
        (self.profile, self.reading) = (profile, reading);
    }

    /// Takes what is neither a log nor a model, and says what it was, or why it does not fit.
    fn take_document(
        &mut self,
        file: &str,
        document: Document,
        beside_log: bool,
        taken: &mut Taken,
    ) -> Option<Result<String, String>> {
        let what = match document {
            Document::Model(..) => return None,
            Document::Weights => return Some(Ok("weights: their shapes were read".to_owned())),
            Document::Scores(scores) => {
                let tasks: Vec<&str> = scores.iter().map(|(task, _)| task.as_str()).collect();
                let what = format!("what a trial scored: {}", tasks.join(", "));
                taken.scores = Some((file.to_owned(), scores));
                return Some(Ok(what));
            }
            Document::Session(link) => return Some(self.restore(&link, taken)),
            Document::Schedule(schedule) => {
                // Where its session cannot be restored, it is a schedule like any other.
                if let Some(Ok(restored)) = session_of(&schedule).map(|link| self.restore(&link, taken)) {
                    return Some(Ok(restored));
                }
                let layout = layout_of_schedule(&schedule, &self.layout);
                let what = format!("schedule: {} modules of {}", layout.len(), layout.model());
                if let Err(problem) = self.show_modules(&layout, None) {
                    return Some(Err(problem));
                }
                self.set_by_hand(&schedule.ranks);
                self.plan.base_rank = schedule.base_rank;
                self.plan.scale = schedule.scale;
                self.plan.counting = schedule.budget.counting;
                self.plan.budget = Some(schedule.budget.allowed);
                what
            }
            Document::Ranks(given) => {
                let GivenRanks { ranks, scale, peft, config, profile, notices } = *given;
                let layout = Arc::clone(ranks.layout());
                if let Err(problem) = self.show_modules(&layout, profile.map(|profile| (profile, file))) {
                    return Some(Err(problem));
                }
                taken.warnings.extend(notices.into_iter().map(|notice| format!("{file}: {notice}")));
                self.spend(&ranks);
                (self.plan.scale, self.peft) = (scale.unwrap_or(self.plan.scale), peft);
                let given = |text| Arc::new(GivenConfig { text, ranks: ranks.clone(), scale: self.plan.scale });
                self.given = config.map(given);
                let uniform = ranks.all_equal();
                let what = match uniform {
                    Some(rank) => format!("ranks: r = {rank} in {} modules of {}", layout.len(), layout.model()),
                    None => format!("ranks of {} modules of {}", layout.len(), layout.model()),
                };
                if beside_log && uniform.is_some() {
                    self.by_hand.clear();
                    self.pinned = Some(Pinned { name: file.to_owned(), ranks });
                    what + ": the LoRA of today, pinned as A for comparison"
                } else {
                    self.set_by_hand(&ranks);
                    what + ", shown as set by hand"
                }
            }
        };
        (taken.changed, taken.asks_rank) = (true, false);
        taken.deselect = true;
        Some(Ok(what))
    }

    /// Takes over the session of a file that this page wrote, and says what it was.
    ///
    /// # Errors
    /// One whose profile was too large for the file, unless the log that it is of is shown.
    fn restore(&mut self, link: &str, taken: &mut Taken) -> Result<String, String> {
        let mut linked = from_link(link);
        if !linked.log_to_drop.is_empty() {
            let log = linked.log_to_drop.join(", ");
            let is_shown = self.source == Source::Log(std::mem::take(&mut linked.log_to_drop));
            let whole = is_shown.then(|| from_link(&format!("{link}&p={}", profile_to_text(&self.profile))));
            let whole =
                whole.filter(|whole| whole.session.layout == self.layout && whole.session.source == self.source);
            linked = whole.ok_or_else(|| {
                format!(
                    "it is a session of {log}, whose gradient profile is too large for such a file: nothing was changed. Drop \
                     {log} first, and then this file"
                )
            })?;
            // A link holds it rounded.
            linked.session.profile.clone_from(&self.profile);
        }
        let is_same = linked.session.source == self.source && linked.session.profile == self.profile;
        *self = Self { reading: if is_same { self.reading } else { 0 }, ..linked.session };
        (taken.changed, taken.asks_rank) = (true, false);
        taken.warnings.extend(linked.notices);
        Ok("a file that this page wrote: its session was restored".to_owned())
    }

    /// Shows these modules, with what is known of their gradients.
    ///
    /// # Errors
    /// Modules of which the log that is shown holds no gradients: it keeps its place.
    fn show_modules(&mut self, layout: &Arc<Layout>, own: Option<(GradientProfile, &str)>) -> Result<(), String> {
        if self.layout.same_modules(layout) && self.source != Source::Unknown {
            return Ok(());
        }
        let part = part_of(&self.profile, &self.layout, layout).filter(|_| self.source != Source::Unknown);
        match (part, own) {
            (Some(part), _) => {
                match &self.source {
                    Source::Log(_) => self.exclude_but(layout),
                    source => self.source = Source::Log(vec![source.name()]),
                }
                self.profile = part;
            }
            (None, _) if matches!(self.source, Source::Log(_)) => {
                return Err(format!(
                    "it is for {}, and the log that is shown, {}, is of {}: nothing was changed. Drop the log of its run with \
                     it, or choose a sample first",
                    layout.size(),
                    self.source.name(),
                    self.layout.size()
                ));
            }
            (None, Some((profile, file))) => {
                (self.profile, self.source, self.of_log) =
                    (profile, Source::Log(vec![file.to_owned()]), LogChoice::default());
            }
            (None, None) => {
                (self.profile, self.source, self.of_log) =
                    (unknown_profile(layout), Source::Unknown, LogChoice::default());
            }
        }
        self.pinned = None;
        self.plan = fitting(self.plan.clone(), layout);
        self.layout = Arc::clone(layout);
        Ok(())
    }

    /// Makes the log's other kinds of modules excluded ones, so that they stay away when it is measured again.
    fn exclude_but(&mut self, layout: &Layout) {
        let left = self.layout.modules().iter().filter(|module| !layout.kinds().contains(&module.kind));
        let ends = left.map(|module| module.name.rsplit('.').next().unwrap_or_default().to_owned());
        let mut kinds: Vec<String> = Vec::new();
        for end in ends {
            if !kinds.contains(&end) {
                kinds.push(end);
            }
        }
        if !kinds.is_empty() {
            let others = format!(r"\.({})$", kinds.join("|"));
            let before = std::mem::take(&mut self.of_log.exclude);
            self.of_log.exclude = if before.is_empty() { others } else { format!("{before}|{others}") };
        }
    }

    /// Shows ranks as set by hand, every one.
    fn set_by_hand(&mut self, ranks: &Ranks) {
        self.plan.schedule_kind = None;
        self.rebalance = false;
        self.by_hand = ranks.as_slice().iter().copied().enumerate().collect();
    }

    /// Makes the budget what ranks use: that of uniform LoRA where no rank unit more would fit it.
    fn spend(&mut self, ranks: &Ranks) {
        let layout = ranks.layout();
        let (used, unit) = (ranks.parameters(), layout.lora_parameters(1).max(1));
        let base = ((used as f64 / unit as f64).round() as u32).max(1);
        let least = layout.modules().iter().map(Module::rank_unit_cost).min().unwrap_or(1);
        let uniform = layout.lora_parameters(base);
        self.plan.counting = Counting::Parameters;
        self.plan.base_rank = base;
        self.plan.budget = (used > uniform || uniform - used >= least).then_some(used);
    }
}

/// A profile of some of its modules; none where it lacks one of them.
fn part_of(profile: &GradientProfile, of: &Layout, part: &Layout) -> Option<GradientProfile> {
    let norm = |module: &Module| {
        let (place, found) = of.find(&module.name)?;
        profile.modules.get(place).copied().filter(|_| found.shape() == module.shape())
    };
    let modules = part.modules().iter().map(norm).collect::<Option<Vec<_>>>()?;
    Some(GradientProfile { modules, ..profile.clone() })
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
