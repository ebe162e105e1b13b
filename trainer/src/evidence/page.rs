//! The page of evidence, from experiments' files and raw results alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use hydra_playground::drawing::{Drawing, Theme};
use hydra_shared::layout::Layout;
use hydra_shared::statistics::Interval;
use hydra_shared::vlm::spec::ModelSpec;

use super::analysis::{ArmResult, Comparison, Equivalent, GAP, Judged, compare, judge, rate_curves};
use super::figures;
use super::file::{Experiment, RuleBy, Tuned, experiments};
use super::nested::{Alone, NestedRun, Ordered, nested_cells, nested_path, ordered, read_nested, schedules};
use super::record::{Record, read_records, results_path};
use super::replay::{Replayed, read_replay, replay_path};
use super::signals::{Agreement, agreements, read_signals, signals_path};
use super::transfer::{Transfer, transfer};
use crate::output::thousands;
use crate::train::experiment::ExperimentConfig;

/// Name of the page.
pub const PAGE: &str = "evidence.md";
/// Folder of its figures, beside it.
const FIGURES: &str = "evidence";
/// Rows of a table before only the best and the worst are shown.
const MOST_ROWS: usize = 40;

/// The page's files, by their paths from its folder.
pub type Files = BTreeMap<PathBuf, String>;

/// Writes the page of all experiments of a folder.
///
/// # Errors
/// An experiment or its results that cannot be read.
pub fn page(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut text = String::from(
        "# What a rank is worth\n\n<!-- Written by `trainer experiment report`; a test compares it with bench/evidence. -->\n\n",
    );
    text.push_str(INTRODUCTION);
    for (path, experiment) in experiments(folder)? {
        let records = read_records(&results_path(&path))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        section(&mut text, &mut files, &name, &path, &experiment, &records)?;
    }
    files.insert(PathBuf::from(PAGE), text);
    Ok(files)
}

const INTRODUCTION: &str = "\
Everything here follows from the files in `bench/evidence`: each experiment's `.toml` was written before its runs and says what
is compared, on which replicates and at which numbers a rule fires; the `.jsonl` beside it holds one line per fine-tune.

- A **replicate** is a seed of adapters and data order and, where it says so, training and test pictures of its own. Arms are
  paired by replicate. Learning rates are chosen on other replicates and on validation pictures.
- **Score** is the mean over the tasks that count: those in which full fine-tuning is at least 5 points ahead of the baseline, where
  it was run; for a rule, ahead of the arm that the rule compares with. **Loss** is the held-out loss of an answer token in nats, over the
  same tasks; below 0 is better.
- **Intervals** hold the difference with 95 % confidence, by bootstrap over replicates (10,000 resamples, widened for few; below 8
  replicates Student's). With fresh test pictures in every replicate they cover the choice of pictures, too. **p** is two-sided by flipping
  signs, after Holm's correction over all arms within the budget.
- **Gap** is the share of the distance from the baseline to full fine-tuning. **As uniform** is the rank of uniform LoRA with the
  same score.
- **Cost** counts fine-tunes of the baseline by the operations of their matrix products: the arm's own, and the profile that its
  ranks follow from, which is a fine-tune of uniform LoRA or its first steps. Tuning a rate is not counted. A search costs a
  fine-tune for each of its trials besides.

";

fn section(
    text: &mut String,
    files: &mut Files,
    name: &str,
    path: &Path,
    experiment: &Experiment,
    records: &[Record],
) -> Result<()> {
    let config = experiment.config()?;
    text.push_str(&format!("## {}\n\n{}\n\n", experiment.question, experiment.about.trim()));
    text.push_str(&format!("`trainer experiment {} --resume` · {}\n\n", path.display(), design(experiment, &config)));
    let comparisons = compare(experiment, &config, records);
    if comparisons.is_empty() {
        text.push_str("No results yet.\n\n");
        return Ok(());
    }
    let mut figure = |text: &mut String, kind: &str, drawing: &Drawing| {
        let file = PathBuf::from(FIGURES).join(format!("{name}-{kind}.svg"));
        text.push_str(&format!("![{}]({})\n\n", drawing.title, file.display()));
        files.insert(file, drawing.to_svg(Theme::Light, None));
    };
    for judged in judge(experiment, &config, records) {
        text.push_str(&sentence(&judged, experiment));
    }
    for comparison in &comparisons {
        text.push_str(&format!("### {} steps\n\n", thousands(comparison.steps as u64)));
        text.push_str(&table(comparison, experiment));
        let (complete, planned) = comparison.replicates;
        if complete < planned {
            text.push_str(&format!("{complete} of {planned} replicates are complete.\n\n"));
        }
        let mut rows: Vec<(String, Interval)> = comparison
            .arms
            .iter()
            .filter(|arm| arm.within_budget && arm.name != experiment.baseline)
            .filter_map(|arm| Some((arm.name.clone(), arm.against.as_ref()?.points?)))
            .collect();
        if rows.len() > 1 {
            rows.sort_by(|a, b| b.1.estimate.total_cmp(&a.1.estimate));
            let title = format!("Difference to {}, {} steps", experiment.baseline, comparison.steps);
            let drawing = figures::intervals(&title, "points of the score", &shortened(rows));
            figure(text, &format!("{}-differences", comparison.steps), &drawing);
        }
    }
    rank_figure(experiment, &comparisons).iter().for_each(|drawing| figure(text, "ranks", drawing));
    for steps in &experiment.steps {
        let curves: Vec<_> = rate_curves(experiment, &config, records)
            .into_iter()
            .filter(|((_, length), curve)| length == steps && curve.iter().any(|point| point.score.is_some()))
            .map(|((arm, _), curve)| (experiment.arms[arm].name.clone(), curve))
            .collect();
        if !curves.is_empty() {
            let title = format!("Validation score by learning rate, {steps} steps");
            figure(text, &format!("{steps}-rates"), &figures::rate_curves(&title, &curves));
        }
    }
    if let Some(signals) = read_signals(&signals_path(path))? {
        text.push_str(&agreement_table(&agreements(experiment, &config, records, &signals, experiment.steps[0], 1)));
    }
    let schedules = schedules(experiment, &config, records);
    let cells = nested_cells(experiment, &config, records)?;
    text.push_str(&nested_table(experiment, &schedules, &read_nested(&nested_path(path), &cells)?));
    if let Some(layout) = layout_of(&config)?
        && let Some(found) = transfer(experiment, &config, records, &schedules, &layout)?
    {
        text.push_str(&transfer_table(&found));
    }
    text.push_str(&replay_table(&read_replay(&replay_path(path))?.map(|replay| replay.searches).unwrap_or_default()));
    // Runs are stopped for a while, and machines shared: the sum would tell of that.
    let mut seconds: Vec<f64> = records.iter().map(|record| record.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    text.push_str(&format!(
        "{} fine-tunes, {:.0} seconds each by the clock in the median; {} of them diverged.\n\n",
        thousands(records.len() as u64),
        seconds.get(seconds.len() / 2).copied().unwrap_or_default(),
        records.iter().filter(|record| record.error.is_some()).count()
    ));
    Ok(())
}

/// What is compared, in a line.
fn design(experiment: &Experiment, config: &ExperimentConfig) -> String {
    let model = match &config.base {
        Some(base) => base.display().to_string(),
        None => ModelSpec::preset("tiny-mobilevlm").map_or_else(|_| String::new(), |spec| spec.name),
    };
    let pictures = if experiment.fresh_pictures { ", pictures of its own in each" } else { "" };
    let tuned = match &experiment.tuning {
        None => format!("rate {}", config.training.optimizer.learning_rate),
        Some(tuning) => {
            let whose = match tuning.whose {
                Tuned::All => "every arm's rate",
                Tuned::Baseline => "the baseline's rate",
            };
            let (tries, replicates) = (tuning.rates.len(), tuning.replicates.count);
            format!("{whose} tuned with {tries} tries on {replicates} other replicates")
        }
    };
    format!(
        "{model}, {} arms, {} replicates{pictures}, {} test pictures; {tuned}",
        experiment.arms.len(),
        experiment.report.replicates.count,
        thousands(config.data.test_pictures as u64),
    )
}

fn sentence(judged: &Judged, experiment: &Experiment) -> String {
    let Judged { rule, steps, arm, gain, counted, fired } = judged;
    let by = match rule.by {
        RuleBy::Estimate => "the estimate",
        RuleBy::Low => "the lower end",
        RuleBy::High => "the upper end",
    };
    let over = rule.over.as_deref().unwrap_or(&experiment.baseline);
    let became =
        if *fired { format!("**fired**: {}", rule.meaning.trim_end_matches('.')) } else { "did not fire".to_owned() };
    format!(
        "> **{}** ({steps} steps; fires where {by} of the gain is below {}): {arm} is {} over {over} on {}; it {became}.\n\n",
        rule.name,
        percent(rule.below),
        relative(gain),
        counted.join(", "),
    )
}

fn table(comparison: &Comparison, experiment: &Experiment) -> String {
    let several = comparison.arms.len() > MOST_ROWS;
    let mut shown: Vec<&ArmResult> = comparison.arms.iter().collect();
    if several {
        shown.sort_by(|a, b| b.score.total_cmp(&a.score));
        let worst = shown.split_off(shown.len() - MOST_ROWS / 2);
        shown.truncate(MOST_ROWS / 2);
        shown.extend(worst);
    }
    let mut text = String::from("| arm | parameters | rate |");
    for task in &comparison.tasks {
        let mark = if comparison.counted.contains(task) { "" } else { " (not counted)" };
        text.push_str(&format!(" {task}{mark} |"));
    }
    text.push_str(" score | points | relative | loss | p | gap | as uniform | cost |\n|---|---:|---:|");
    text.push_str(&"---:|".repeat(comparison.tasks.len() + 8));
    text.push('\n');
    for arm in shown {
        let edge = if arm.at_edge { "!" } else { "" };
        text.push_str(&format!("| {} | {} | {}{edge} |", arm.name, thousands(arm.parameters), rate(arm.rate)));
        arm.tasks.iter().for_each(|score| text.push_str(&format!(" {score:.1} |")));
        text.push_str(&format!(" {:.1} |", arm.score));
        match &arm.against {
            None => text.push_str(" | | | | |"),
            Some(against) => {
                let show = |interval: &Option<Interval>, as_text: fn(&Interval) -> String| {
                    interval.as_ref().map_or_else(|| "–".to_owned(), as_text)
                };
                let p = if arm.within_budget { format!("{:.2}", against.adjusted_p) } else { String::new() };
                let gap = against.gap_closed.map_or_else(String::new, |gap| format!("{:.0} %", 100.0 * gap));
                text.push_str(&format!(
                    " {} | {} | {} | {p} | {gap} |",
                    show(&against.points, points),
                    show(&against.relative, relative),
                    show(&against.loss, loss),
                ));
            }
        }
        let is_uniform = experiment.arms[arm.arm].uniform_rank().is_some();
        let equivalent = match arm.equivalent_rank.filter(|_| !is_uniform) {
            Some(Equivalent::Rank(rank)) => format!("{rank:.1}"),
            Some(Equivalent::Below(rank)) => format!("< {rank}"),
            Some(Equivalent::Above(rank)) => format!("> {rank}"),
            None => String::new(),
        };
        text.push_str(&format!(" {equivalent} | {:.2} |\n", arm.cost));
    }
    text.push('\n');
    if comparison.counted.len() < comparison.tasks.len() {
        let why =
            format!("\"not counted\": full fine-tuning is less than {GAP} points ahead of {}.", experiment.baseline);
        text.push_str(&format!("{why}\n\n"));
    }
    if comparison.arms.iter().any(|arm| arm.at_edge) {
        text.push_str("\"!\": the lowest or highest rate that was tried was the best.\n\n");
    }
    if several {
        text.push_str(&format!(
            "Of {} arms the {} best and the {} worst are shown.\n\n",
            comparison.arms.len(),
            MOST_ROWS / 2,
            MOST_ROWS / 2
        ));
    }
    text
}

/// How signals agree with measured gains.
fn agreement_table(agreements: &[Agreement]) -> String {
    if agreements.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "How signals of the base model order what was measured: Kendall's τ between a signal and the gain of the arms that \
         concentrate rank in one kind of module or in one layer (1: the same order, 0: none, −1: the reverse).\n\n\
         | signal | points: kinds | layers | both | loss: kinds | layers | both |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for Agreement { signal, points, loss } in agreements {
        // A bar in a name would end its cell.
        text.push_str(&format!("| {} |", signal.replace('|', "\\|")));
        for tau in points.iter().chain(loss) {
            // Resamples of few replicates may not tell any two groups apart.
            let known = tau.as_ref().filter(|tau| tau.low.is_finite() && tau.high.is_finite());
            let shown = known.map_or_else(|| "–".to_owned(), |tau| between(tau, 2));
            text.push_str(&format!(" {shown} |"));
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// How nested runs order schedules that were trained alone.
fn nested_table(experiment: &Experiment, schedules: &[Alone], runs: &[NestedRun]) -> String {
    let ordered = ordered(experiment, schedules, runs);
    let length = experiment.steps[0];
    let count = |steps: usize| runs.iter().filter(|run| run.steps == steps).count();
    let median = |of: fn(&NestedRun) -> f64, steps: usize| {
        let mut seconds: Vec<f64> = runs.iter().filter(|run| run.steps == steps).map(of).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or_default()
    };
    let mut text = String::new();
    for Ordered { nested, steps, loss, points: score, first } in &ordered {
        let show = |interval: &Option<Interval>, decimals: usize| {
            interval.as_ref().map_or_else(|| "–".to_owned(), |interval| between(interval, decimals))
        };
        let what = match nested {
            None => "one fine-tune of each schedule".to_owned(),
            Some(steps) => format!(
                "a nested run of {steps} steps ({} of them, each {:.0} s of training and {:.0} s of scoring)",
                count(*steps),
                median(|run| run.training_seconds, *steps),
                median(|run| run.scoring_seconds, *steps),
            ),
        };
        let fine_tunes = *steps as f64 / length as f64;
        text.push_str(&format!(
            "| {what} | {fine_tunes} | {} | {} | {} |\n",
            show(loss, 2),
            show(score, 2),
            show(first, 1)
        ));
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "One run instead of many: each step of a nested run trains the truncation of its adapters to a schedule drawn as those of the \
         table, and afterwards every schedule of the table is a truncation whose held-out loss is taken without training. Kendall's τ \
         with the mean of the schedules trained alone, of which each replicate in turn is left out: it is what one fine-tune of each \
         schedule is judged by as well. Intervals are over replicates in the first row and over runs in the others; they hold no \
         other choice of schedules.\n\n\
         | what orders the schedules | fine-tunes | τ with the loss | τ with the score | lead of its first, points |\n\
         |---|---:|---:|---:|---:|\n{text}\n"
    )
}

/// The modules that get ranks; none of a base model of one's own, which the page is made without.
fn layout_of(config: &ExperimentConfig) -> Result<Option<Arc<Layout>>> {
    if config.base.is_some() {
        return Ok(None);
    }
    Ok(Some(ModelSpec::preset("tiny-mobilevlm")?.layout()?))
}

/// What tasks say of each other.
fn transfer_table(found: &Transfer) -> String {
    let mut text = String::from(
        "What a schedule is worth on one task and on another: Kendall's τ between what is known of one fine-tune of each schedule and \
         the mean held-out loss of the same schedules on each task in the other replicates, each replicate the known one in turn. On \
         the diagonal it is what repetition of the same task gives. The models are ridge regressions on what \
         performance models know of a schedule; a fifth of the schedules at a time is ordered by one that was fitted on the rest.\n\n| what is known |",
    );
    found.tasks.iter().for_each(|task| text.push_str(&format!(" τ with {task} |")));
    text.push_str(&format!("\n|---|{}\n", "---:|".repeat(found.tasks.len())));
    for (judge, taus) in &found.judges {
        text.push_str(&format!("| {judge} |"));
        for tau in taus {
            text.push_str(&format!(" {} |", tau.as_ref().map_or_else(|| "–".to_owned(), |tau| between(tau, 2))));
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// What replayed searches found.
fn replay_table(replayed: &[Replayed]) -> String {
    let Some(first) = replayed.first() else { return String::new() };
    let mut text = format!(
        "Searches replayed on these trials. A search sees one seed (and a second one where it runs schedules again); its pick is \
         judged on the other half of the seeds, where the best schedule of the table leads by {} points, and the one that is best on \
         the first half by {}. Believed: the lead of the best trial in the scores that the search saw. Regret: how far the pick stays \
         behind the best schedule; the pick is the model's where there is one. Intervals are over repetitions, not over other tables.\n\n\
         | search | trials | believed | true lead of the best trial | true lead of what the model predicts best | regret |\n\
         |---|---:|---:|---:|---:|---:|\n",
        signed(first.best_possible, 1),
        signed(first.best_seen, 1)
    );
    for found in replayed {
        let predicted = found.predicted_gain.as_ref().map_or_else(String::new, points);
        text.push_str(&format!(
            "| {} | {} | {} | {} | {predicted} | {} |\n",
            found.searcher.title(),
            found.trials,
            points(&found.believed),
            points(&found.gain),
            points(&found.regret)
        ));
    }
    text.push('\n');
    text
}

/// Score by rank of the uniform arms, a line for each length, where there are three or more.
fn rank_figure(experiment: &Experiment, comparisons: &[Comparison]) -> Option<Drawing> {
    let rank = |arm: &ArmResult| experiment.arms[arm.arm].uniform_rank().map(f64::from);
    let series: Vec<figures::Series> = comparisons
        .iter()
        .map(|comparison| {
            let points = comparison.arms.iter().filter_map(|arm| Some((rank(arm)?, arm.score))).collect();
            (format!("{} steps", comparison.steps), points)
        })
        .collect();
    let mut ranks: Vec<f64> = series.iter().flat_map(|(_, points)| points.iter().map(|point| point.0)).collect();
    ranks.sort_by(f64::total_cmp);
    ranks.dedup();
    let ticks: Vec<(f64, String)> = ranks.iter().map(|rank| (*rank, rank.to_string())).collect();
    (ranks.len() > 2)
        .then(|| figures::lines("Score by rank of uniform LoRA", ["rank of uniform LoRA", "score, %"], &ticks, &series))
}

/// The rows, or the best and the worst of many.
fn shortened(rows: Vec<(String, Interval)>) -> Vec<(String, Interval)> {
    if rows.len() <= MOST_ROWS {
        return rows;
    }
    let last = rows.len() - MOST_ROWS / 2;
    rows.into_iter().enumerate().filter(|(at, _)| *at < MOST_ROWS / 2 || *at >= last).map(|(_, row)| row).collect()
}

fn rate(rate: f64) -> String {
    format!("{rate:.1e}")
}

fn signed(value: f64, decimals: usize) -> String {
    format!("{value:+.decimals$}").replace('-', "−")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share).replace('-', "−")
}

/// An estimate and its ends.
fn between(interval: &Interval, decimals: usize) -> String {
    let Interval { estimate, low, high, .. } = *interval;
    format!("{} [{}, {}]", signed(estimate, decimals), signed(low, decimals), signed(high, decimals))
}

fn points(interval: &Interval) -> String {
    between(interval, 1)
}

fn relative(interval: &Interval) -> String {
    format!("{} %", points(&interval.scaled(100.0)))
}

fn loss(interval: &Interval) -> String {
    between(interval, 3)
}
