//! Studies whose trials somebody fine-tunes: what is asked and told stands in their file at once, as `trainer study` writes it.

use hydra_playground::messages::performance::{BegunHere, MOST_TRIALS, Measured, Next, SETTINGS, Written, ended};
use hydra_shared::json;
use hydra_shared::schedule::{PlanConfig, plan};
use hydra_shared::search::{
    Journal, JournalError, Outcome, Search, SearchConfig, Start, Step, Study, StudyMetadata, Timestamp, mended,
    starting_schedules,
};
use serde::{Deserialize, Serialize};

use super::{Contender, Live, LiveError, endless};

/// Seconds after which the trainer asks a trial again that was never told: a day.
const EXPIRES: u64 = 24 * 60 * 60;

/// The file of a study.
pub(super) struct Paper {
    journal: Journal,
    text: String,
    settings: Option<Settings>,
    /// The trials that were told here, and how long the file was before each.
    told: Vec<(usize, usize)>,
}

/// How a study is searched: what `trainer study create` keeps in its file, as far as it counts here.
#[derive(Debug, Clone, Deserialize)]
struct Settings {
    plan: PlanConfig,
    search: SearchConfig,
}

/// The same, as the file has it.
#[derive(Serialize)]
struct InFile<'a> {
    #[serde(flatten)]
    begun: &'a BegunHere,
    search: SearchConfig,
    expires: u64,
}

impl Paper {
    /// Begins the file of a study.
    fn begin(about: &StudyMetadata, begun: &BegunHere, search: SearchConfig) -> Result<Self, LiveError> {
        let mut journal = Journal::default();
        let settings = InFile { begun, search, expires: EXPIRES };
        let value = serde_json::to_value(&settings).unwrap_or_default();
        let text = journal.begin_study_with(about, &[(SETTINGS, value)])?;
        Ok(Self { journal, text, settings: Some(Settings { plan: begun.plan.clone(), search }), told: Vec::new() })
    }

    /// Opens the file of a study that was dropped.
    fn open(text: String, name: &str) -> Result<(Self, Study), LiveError> {
        // What is appended has to begin on a line of its own.
        let text = mended(text.as_bytes()).map_or(text, |mended| mended.text);
        let journal = Journal::parse(text.as_bytes())?;
        let record = journal.study(name).ok_or_else(|| JournalError::UnknownStudy(name.to_owned()))?;
        let study = record.to_study()?;
        let settings = record.user_attrs.get(SETTINGS).and_then(|value| json::from_str(&value.to_string()).ok());
        Ok((Self { journal, text, settings, told: Vec::new() }, study))
    }

    /// What the page is told of it.
    pub(super) fn written(&self, study: &Study) -> Written {
        let benchmarks = study.metadata.benchmarks.clone();
        let told = self.told.last().map(|(number, _)| *number);
        Written { text: self.text.clone(), benchmarks, trials: study.candidates().count(), ended: ended(study), told }
    }

    /// The schedules that the search begins with, as far as the budget holds them.
    fn starts(&self, about: &StudyMetadata) -> Result<Vec<Start>, LiveError> {
        let (Some(Settings { plan: config, .. }), Some(profile)) = (&self.settings, &about.profile) else {
            return Ok(Vec::new());
        };
        let fine = plan(&about.layout, profile, config)?;
        let coarse = plan(&about.layout, profile, &config.coarse_only())?;
        let mut starts = starting_schedules(&coarse, &fine, profile, config, config.seed())?;
        starts.retain(|start| about.budget.holds(&start.ranks));
        Ok(starts)
    }
}

impl Live {
    /// A study that is measured elsewhere; what it asks next is written down.
    pub(super) fn of_measured(
        id: u32,
        measured: Measured,
        config: SearchConfig,
        at: Timestamp,
    ) -> Result<Self, LiveError> {
        let Measured { about, text, begun, .. } = measured;
        let (paper, study) = match &begun {
            Some(begun) => {
                let search = SearchConfig { trials: config.trials.max(config.starts), ..config };
                (Paper::begin(&about, begun, search)?, Study::new(about))
            }
            None => Paper::open(text, &about.name)?,
        };
        let (search, next) = ask(&paper, study, config)?;
        let shown = Contender { search, next, best: Vec::new() };
        let mut live = Self { id, shown, rivals: Vec::new(), response: None, paper: Some(paper) };
        live.write_asked(at)?;
        Ok(live)
    }

    /// Takes down how a trial went, and asks the next.
    ///
    /// # Errors
    /// As [`Search::tell`]; a study that awaits what only the trainer can take.
    pub fn tell(
        &mut self,
        number: usize,
        scores: Result<Vec<(String, f64)>, String>,
        at: Timestamp,
    ) -> Result<(), LiveError> {
        let Some(paper) = &mut self.paper else {
            return Err(LiveError::Elsewhere("this study has no file that could take a score"));
        };
        if paper.settings.is_some() && self.shown.search.study().metadata.profile.is_none() {
            return Err(LiveError::Elsewhere(
                "the study awaits the gradient log of its first trial, which `trainer study tell` takes",
            ));
        }
        let outcome = match scores {
            Ok(scores) => Outcome::Complete { scores: scores.into_iter().collect(), wall_seconds: None },
            Err(error) => Outcome::Failed { error, wall_seconds: None },
        };
        let told = self.shown.search.tell(number, outcome)?.clone();
        let about = self.shown.search.study().metadata.clone();
        let lines = paper.journal.describe(&about)? + &paper.journal.end_trial(&about, &told, at)?;
        paper.told.push((number, paper.text.len()));
        paper.text.push_str(&lines);
        let (study, config) = (self.shown.search.study().clone(), *self.shown.search.config());
        let (search, next) = ask(paper, study, config)?;
        (self.shown.search, self.shown.next) = (search, next);
        self.write_asked(at)
    }

    /// Takes back what was told here last: Optuna never opens a trial again that has ended, so the file is what it was before, and
    /// asks that trial again. What was asked since, which may rest on it, is asked anew.
    ///
    /// # Errors
    /// A study in which nothing was told here.
    pub fn take_back(&mut self) -> Result<(), LiveError> {
        let name = self.shown.search.study().metadata.name.clone();
        let before = self.paper.as_ref().and_then(|paper| {
            let ((_, length), told) = paper.told.split_last()?;
            Some((paper.text.get(..*length)?.to_owned(), told.to_vec()))
        });
        let Some((text, told)) = before else {
            return Err(LiveError::Elsewhere("nothing was told here that could be taken back"));
        };
        let (opened, study) = Paper::open(text, &name)?;
        let paper = Paper { told, ..opened };
        let (search, next) = ask(&paper, study, *self.shown.search.config())?;
        (self.shown.search, self.shown.next) = (search, next);
        // Its text says that the trial was begun.
        self.paper = Some(paper);
        Ok(())
    }

    /// Writes down that the next trial was begun, unless that stands there already.
    fn write_asked(&mut self, at: Timestamp) -> Result<(), LiveError> {
        let (Some(paper), Next::Try(proposed)) = (&mut self.paper, &self.shown.next) else { return Ok(()) };
        if proposed.begun {
            return Ok(());
        }
        let study = self.shown.search.study();
        if let Some(trial) = study.pending().find(|trial| trial.number == proposed.number) {
            let lines = paper.journal.begin_trial(&study.metadata, trial, at)?;
            paper.text.push_str(&lines);
        }
        Ok(())
    }
}

/// The search of a study and what it asks next: as its file says, otherwise proposals without end.
fn ask(paper: &Paper, study: Study, config: SearchConfig) -> Result<(Search, Next), LiveError> {
    let too_many = study.complete().count() > MOST_TRIALS;
    let config = match &paper.settings {
        Some(Settings { search, .. }) => {
            SearchConfig { model: config.model, acquisition: config.acquisition, seed: config.seed, ..*search }
        }
        None => {
            // The trials were started elsewhere, so that what comes next is a proposal, however few they are.
            let starts = study.trials.iter().filter(|trial| trial.origin.is_start()).count();
            SearchConfig { starts, trials: study.trials.len() + 1, replicates: 0, ..endless(config) }
        }
    };
    let starts = paper.starts(&study.metadata)?;
    let mut search = Search::new(config, study, starts)?;
    if too_many {
        return Ok((search, Next::TooManyTrials));
    }
    let next = match search.ask()? {
        Step::Run(proposal) => {
            let asked = Contender { search, next: Next::TooManyTrials, best: Vec::new() };
            let next = Next::Try(Box::new(asked.proposed(proposal.trial, proposal.resumed)));
            return Ok((asked.search, next));
        }
        Step::Done(reason) => Next::Over(reason),
    };
    Ok((search, next))
}
