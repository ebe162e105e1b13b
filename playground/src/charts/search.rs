//! The search: what the models predicted and what was measured, how the search has fared, and why a schedule is proposed.

use hydra_shared::model_spec::{ModelSpec, Projection};
use hydra_shared::performance::{Estimate, ModelKind};
use hydra_shared::search::{Acquisition, Origin, Trial, TrialState};

use super::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::messages::performance::{Fitted, Improvement, ModelChoice, Next, Progress, Proposed, Why};
use crate::scale::{Scale, horizontal_axis, vertical_axis};
use crate::table::Table;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 30.0;
/// Room under a plot for the axis and its name.
const BOTTOM: f64 = 44.0;

/// Fewer complete trials than this get a warning: HyDRA's own searches begin with eight and end at sixteen.
const FEW_TRIALS: usize = 12;

/// Predicted against measured scores of one model: with every trial seen, with it left out, and as forecast before it was
/// run.
pub fn predictions(progress: &Progress, model: ModelKind) -> Chart {
    let side = 380.0;
    let right = LEFT + side;
    let mut drawing = Drawing {
        width: right + 20.0,
        height: TOP + side + BOTTOM,
        title: format!("Predicted against measured: {}", model.title()),
        ..Drawing::default()
    };
    let mut table = Table::new([
        "trial",
        "origin",
        "measured",
        "predicted",
        "std",
        "predicted left out",
        "forecast",
        "forecast std",
    ]);
    let fitted = match progress.fits.iter().find(|fit| fit.model == model).map(|fit| &fit.outcome) {
        Some(Ok(fitted)) => fitted,
        Some(Err(reason)) => return without_plot(drawing, table, reason),
        None => return without_plot(drawing, table, "no model is fitted on so many trials"),
    };
    let points = points(progress, fitted, model);
    let digits = digits(points.iter().map(|point| point.measured));
    let ends = |e: &Estimate| [e.mean - e.std, e.mean + e.std];
    let values = points.iter().flat_map(|point| {
        let forecast = point.forecast.iter().flat_map(&ends);
        [point.measured, point.left_out].into_iter().chain(ends(&point.seen)).chain(forecast)
    });
    let values: Vec<f64> = values.collect();
    // One scale for both axes, so that the diagonal is where predictions are right.
    let x = Scale::around(values.iter().copied(), LEFT, right);
    let y = Scale::around(values.iter().copied(), TOP + side, TOP);
    vertical_axis(&mut drawing, &y, LEFT, right, "predicted mean score");
    horizontal_axis(&mut drawing, &x, TOP + side, "measured mean score");
    let (low, high) = x.domain();
    drawing.marks.push(Mark::dashed(x.at(low), y.at(low), x.at(high), y.at(high), Paint::Soft));
    let mean = points.iter().map(|point| point.measured).sum::<f64>() / points.len().max(1) as f64;
    drawing.marks.push(
        Mark::line(LEFT, y.at(mean), right, y.at(mean), Paint::Soft)
            .faded(0.6)
            .with_tip(format!("Mean of the trials: {mean:.digits$}")),
    );
    for point in &points {
        let (at, subject) = (x.at(point.measured), Subject::Trial(point.number));
        let seen = point.seen;
        drawing.marks.push(Mark::line(at, y.at(seen.mean), at, y.at(point.left_out), Paint::Grid).about(subject));
        for end in error_bar(at, &y, seen, Paint::First) {
            drawing.marks.push(end.about(subject));
        }
        let tip = format!(
            "Trial {}: measured {:.digits$}, predicted {:.digits$} ± {:.digits$}",
            point.number, point.measured, seen.mean, seen.std
        );
        drawing.marks.push(Mark::circle(at, y.at(seen.mean), 4.0, Paint::First).about(subject).with_tip(tip));
        let tip = format!(
            "Trial {} left out: measured {:.digits$}, predicted {:.digits$}",
            point.number, point.measured, point.left_out
        );
        let hollow = Mark::circle(at, y.at(point.left_out), 4.5, Paint::Page).outlined(Paint::Second, 2.0);
        drawing.marks.push(hollow.about(subject).with_tip(tip));
        if let Some(forecast) = point.forecast {
            for end in error_bar(at, &y, forecast, Paint::Text) {
                drawing.marks.push(end.about(subject));
            }
            let tip = format!(
                "Trial {} before it was run: predicted {:.digits$} ± {:.digits$}, then measured {:.digits$}",
                point.number, forecast.mean, forecast.std, point.measured
            );
            let square = Mark::rect(at - 3.5, y.at(forecast.mean) - 3.5, 7.0, 7.0, Paint::Text);
            drawing.marks.push(square.about(subject).with_tip(tip));
        }
        table.push([
            point.number.to_string(),
            point.origin.clone(),
            point.measured.to_string(),
            seen.mean.to_string(),
            seen.std.to_string(),
            point.left_out.to_string(),
            point.forecast.map(|f| f.mean.to_string()).unwrap_or_default(),
            point.forecast.map(|f| f.std.to_string()).unwrap_or_default(),
        ]);
    }
    legend(&mut drawing, points.iter().any(|point| point.forecast.is_some()));
    let error = fitted.error;
    drawing.summary = format!(
        "{} trials. Left out, they are predicted with an error of {:.digits$}; predicting the mean of the others has \
         {:.digits$}.",
        points.len(),
        error.rmse,
        error.baseline_rmse
    );
    Chart { drawing: drawing.into(), table }
}

/// One complete trial as a model sees it.
struct Point {
    number: usize,
    origin: String,
    measured: f64,
    seen: Estimate,
    left_out: f64,
    /// What this model predicted before the trial was run, where it proposed it.
    forecast: Option<Estimate>,
}

fn points(progress: &Progress, fitted: &Fitted, model: ModelKind) -> Vec<Point> {
    let complete = progress.trials.iter().filter(|trial| trial.state == TrialState::Complete);
    let predicted = fitted.seen.iter().zip(&fitted.left_out);
    complete
        .zip(predicted)
        .filter_map(|(trial, (&seen, &left_out))| {
            let forecast = match &trial.origin {
                Origin::Proposed { model: by, predicted, .. } if by == model.name() => Some(*predicted),
                _ => None,
            };
            let origin = origin(trial);
            Some(Point { number: trial.number, origin, measured: trial.objective?, seen, left_out, forecast })
        })
        .collect()
}

fn error_bar(x: f64, y: &Scale, estimate: Estimate, paint: Paint) -> [Mark; 3] {
    let (low, high) = (y.at(estimate.mean - estimate.std), y.at(estimate.mean + estimate.std));
    [
        Mark::line(x, low, x, high, paint),
        Mark::line(x - 3.0, low, x + 3.0, low, paint),
        Mark::line(x - 3.0, high, x + 3.0, high, paint),
    ]
}

fn legend(drawing: &mut Drawing, forecasts: bool) {
    let y = 14.0;
    let label = |x: f64, text: &str| Mark::text(x, y + 4.0, Anchor::Start, 11.0, Paint::Text, text);
    drawing.marks.push(Mark::circle(LEFT + 4.0, y, 4.0, Paint::First));
    drawing.marks.push(label(LEFT + 13.0, "seen, ± std"));
    drawing.marks.push(Mark::circle(LEFT + 98.0, y, 4.5, Paint::Page).outlined(Paint::Second, 2.0));
    drawing.marks.push(label(LEFT + 107.0, "left out"));
    if forecasts {
        drawing.marks.push(Mark::rect(LEFT + 166.0, y - 3.5, 7.0, 7.0, Paint::Text));
        drawing.marks.push(label(LEFT + 178.0, "forecast before the trial, ± std"));
    }
}

/// How the search has fared: every trial, the best so far, and, where the response is made up, the rivals and the optimum.
pub fn history(progress: &Progress) -> Chart {
    let (height, right) = (300.0, WIDTH - 120.0);
    let mut drawing = Drawing {
        width: WIDTH,
        height: TOP + height + BOTTOM,
        title: "Best score so far".to_owned(),
        ..Drawing::default()
    };
    let best_measured = best_measured(&progress.trials);
    let scores = progress.trials.iter().filter_map(|trial| trial.objective);
    let digits = digits(scores.clone().chain(progress.optimum.iter().map(|optimum| optimum.bound)));
    let values = scores
        .chain(progress.curves.iter().flat_map(|curve| curve.best.iter().copied()))
        .chain(progress.optimum.iter().map(|optimum| optimum.bound));
    let y = Scale::around(values, TOP + height, TOP);
    let last = progress.trials.last().map_or(0, |trial| trial.number);
    let longest = progress.curves.iter().map(|curve| curve.best.len()).max().unwrap_or(0);
    let x = Scale::new(0.0, last.max(longest.saturating_sub(1)).max(1) as f64, LEFT + 8.0, right - 8.0);
    vertical_axis(&mut drawing, &y, LEFT, right, "mean score");
    horizontal_axis(&mut drawing, &x, TOP + height, "trial");

    let mut labels: Vec<(f64, Paint, String)> = Vec::new();
    if let Some(optimum) = &progress.optimum {
        let at = y.at(optimum.bound);
        let tip = format!("Best possible within the budget: {:.digits$}", optimum.bound);
        drawing.marks.push(Mark::dashed(LEFT, at, right, at, Paint::Text).with_tip(tip));
        labels.push((at, Paint::Text, "best possible".to_owned()));
    }
    // The search that is shown is drawn last, over its rivals.
    for curve in progress.curves.iter().filter(|curve| !curve.shown).chain(progress.curves.iter().filter(|c| c.shown)) {
        let Some(&end) = curve.best.last() else { continue };
        let steps = steps(curve.best.iter().enumerate().map(|(trial, score)| (x.at(trial as f64), y.at(*score))));
        let mut line = Mark::polyline(steps, paint(curve.model));
        line.stroke_width = if curve.shown { 3.0 } else { 1.5 };
        drawing.marks.push(line.with_tip(format!("{}: {end:.digits$}", curve.title())));
        labels.push((y.at(end), paint(curve.model), curve.title().to_owned()));
    }
    if progress.curves.is_empty() {
        let steps = steps(best_measured.iter().map(|(number, score)| (x.at(*number as f64), y.at(*score))));
        let mut line = Mark::polyline(steps, Paint::First);
        line.stroke_width = 3.0;
        drawing.marks.push(line);
        labels.extend(best_measured.last().map(|(_, score)| (y.at(*score), Paint::First, "best so far".to_owned())));
    }
    for trial in &progress.trials {
        let (at, subject) = (x.at(trial.number as f64), Subject::Trial(trial.number));
        let Some(score) = trial.objective else {
            let tip = format!("Trial {} failed: {}", trial.number, trial.error.as_deref().unwrap_or("no score"));
            let cross = Mark::text(at, TOP + height - 4.0, Anchor::Middle, 14.0, Paint::Alarm, "×");
            drawing.marks.push(cross.about(subject).with_tip(tip));
            continue;
        };
        let tip = format!("Trial {}, {}: {score:.digits$}", trial.number, origin(trial));
        let dot = match trial.origin {
            Origin::Proposed { .. } => Mark::circle(at, y.at(score), 4.0, Paint::Text),
            _ => Mark::circle(at, y.at(score), 3.5, Paint::Page).outlined(Paint::Text, 1.5),
        };
        drawing.marks.push(dot.about(subject).with_tip(tip));
    }
    for (at, paint, text) in apart(labels) {
        drawing.marks.push(Mark::text(right + 6.0, at + 4.0, Anchor::Start, 11.0, paint, text));
    }
    let dots = "dots: trials as measured, filled if a model proposed them";
    // Noise can make another schedule seem the best: such a line may fall.
    let lines = if progress.curves.is_empty() { "" } else { "; lines: the worth, without noise, of the best so far" };
    let legend = format!("{dots}{lines}");
    drawing.marks.push(Mark::text(LEFT, 16.0, Anchor::Start, 11.0, Paint::Soft, legend));
    drawing.summary = history_summary(progress, &best_measured, digits);
    Chart { drawing: drawing.into(), table: history_table(progress) }
}

/// The colour of a model, the same wherever it stands; of random proposals without one.
fn paint(model: Option<ModelKind>) -> Paint {
    match model {
        Some(ModelKind::Transformer) => Paint::First,
        Some(ModelKind::Ridge) => Paint::Second,
        Some(ModelKind::GaussianProcess) => Paint::Text,
        None => Paint::Soft,
    }
}

/// A line that keeps its height until the next point.
fn steps(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    for (x, y) in points {
        let before = line.last().map(|&(_, before)| (x, before));
        line.extend(before);
        line.push((x, y));
    }
    line
}

/// Labels from top to bottom, moved so that none covers another.
fn apart(mut labels: Vec<(f64, Paint, String)>) -> Vec<(f64, Paint, String)> {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::NEG_INFINITY;
    for (at, ..) in &mut labels {
        *at = at.max(free);
        free = *at + 13.0;
    }
    labels
}

/// The best measured score after each complete trial, by the trial's number.
fn best_measured(trials: &[Trial]) -> Vec<(usize, f64)> {
    let mut best = f64::NEG_INFINITY;
    let scored = trials.iter().filter_map(|trial| Some((trial.number, trial.objective?)));
    scored
        .map(|(number, score)| {
            best = best.max(score);
            (number, best)
        })
        .collect()
}

fn history_summary(progress: &Progress, best: &[(usize, f64)], digits: usize) -> String {
    let Some((_, best)) = best.last() else { return "No trial has been run.".to_owned() };
    let shown = progress.curves.iter().find(|curve| curve.shown).and_then(|curve| curve.best.last());
    match (&progress.optimum, shown) {
        (Some(optimum), Some(score)) => format!(
            "After {} trials the best one's schedule scores {score:.digits$} without noise, {:.digits$} below the best \
             possible.",
            progress.trials.len(),
            optimum.bound - score
        ),
        _ => format!("The best of {} trials scored {best:.digits$}.", progress.trials.len()),
    }
}

fn history_table(progress: &Progress) -> Table {
    let mut columns = vec!["trial".to_owned(), "origin".to_owned(), "score".to_owned()];
    if progress.curves.is_empty() {
        columns.push("best so far".to_owned());
    }
    for curve in &progress.curves {
        columns.push(format!("best so far, {}", curve.title()));
        columns.push(format!("regret, {}", curve.title()));
    }
    let mut table = Table { columns, rows: Vec::new() };
    let mut best = f64::NEG_INFINITY;
    for (index, trial) in progress.trials.iter().enumerate() {
        let mut row = vec![trial.number.to_string(), origin(trial)];
        row.push(trial.objective.map_or_else(|| "failed".to_owned(), |score| score.to_string()));
        if progress.curves.is_empty() {
            best = trial.objective.map_or(best, |score| best.max(score));
            row.push(if best.is_finite() { best.to_string() } else { String::new() });
        }
        for curve in &progress.curves {
            let score = curve.best.get(index);
            row.push(score.map(f64::to_string).unwrap_or_default());
            let regret = score.zip(progress.optimum.as_ref()).map(|(score, optimum)| optimum.bound - score);
            row.push(regret.map(|regret| regret.to_string()).unwrap_or_default());
        }
        table.push(row);
    }
    table
}

/// The models' leave-one-out errors as bars, beside the error of predicting the mean of the other trials.
pub fn errors(progress: &Progress) -> Chart {
    // It stands in half of the room.
    let (width, row, left, right) = (400.0, 30.0, 120.0, 270.0);
    let bottom = TOP + row * ModelKind::ALL.len() as f64;
    let mut drawing =
        Drawing { width, height: bottom + BOTTOM, title: "Leave-one-out error".to_owned(), ..Drawing::default() };
    let mut table = Table::new(["model", "error", "error of the mean", "share explained", "rank correlation"]);
    let fits: Vec<(ModelKind, &Result<Fitted, String>)> =
        progress.fits.iter().map(|fit| (fit.model, &fit.outcome)).collect();
    let fitted = fits.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    let Some(baseline) = fitted.clone().map(|fitted| fitted.error.baseline_rmse).next() else {
        let reason = fits.iter().find_map(|(_, outcome)| outcome.as_ref().err());
        return without_plot(drawing, table, reason.map_or("no model is fitted on so many trials", String::as_str));
    };
    let most = fitted.map(|fitted| fitted.error.rmse).fold(baseline, f64::max);
    let digits = digits([0.0, most]);
    let x = Scale::new(0.0, 1.05 * most, left, right);
    horizontal_axis(&mut drawing, &x, bottom, "root mean square error of trials that were left out");
    let mut better: Vec<&str> = Vec::new();
    for (index, (model, outcome)) in fits.iter().enumerate() {
        let top = TOP + row * index as f64;
        let text = top + row / 2.0 + 4.0;
        drawing.marks.push(Mark::text(left - 8.0, text, Anchor::End, 12.0, Paint::Text, model.title()));
        let error = match outcome {
            Ok(fitted) => fitted.error,
            Err(reason) => {
                drawing.marks.push(Mark::text(left + 6.0, text, Anchor::Start, 11.0, Paint::Alarm, reason));
                continue;
            }
        };
        let tip = format!("{}: {:.digits$}", model.title(), error.rmse);
        let bar = Mark::rect(left, top + 4.0, x.at(error.rmse) - left, row - 8.0, paint(Some(*model)));
        drawing.marks.push(bar.rounded(2.0).with_tip(tip));
        let explains = format!("{:.digits$}, explains {}", error.rmse, percent(error.skill()));
        let at = x.at(error.rmse).max(x.at(baseline)) + 6.0;
        drawing.marks.push(Mark::text(at, text, Anchor::Start, 11.0, Paint::Text, explains));
        if error.rmse < error.baseline_rmse {
            better.push(model.title());
        }
        table.push([
            model.title().to_owned(),
            error.rmse.to_string(),
            error.baseline_rmse.to_string(),
            error.skill().to_string(),
            error.rank_correlation.map(|r| r.to_string()).unwrap_or_default(),
        ]);
    }
    let at = x.at(baseline);
    let tip = format!("Predicting the mean of the other trials: {baseline:.digits$}");
    drawing.marks.push(Mark::dashed(at, TOP - 6.0, at, bottom, Paint::Alarm).with_tip(tip));
    let label = format!("predicting the mean: {baseline:.digits$}");
    drawing.marks.push(Mark::text(at, TOP - 12.0, Anchor::Middle, 11.0, Paint::Alarm, label));
    drawing.summary = if better.is_empty() {
        "No model predicts trials that it has not seen better than their mean does.".to_owned()
    } else {
        format!("Better than predicting the mean: {}.", better.join(", "))
    };
    Chart { drawing: drawing.into(), table }
}

/// What is proposed and why, a sentence each.
pub fn reasons(progress: &Progress, model: &ModelSpec) -> Vec<String> {
    let proposed = match &progress.next {
        Next::Try(proposed) => proposed,
        Next::Over(ending) => return vec![ending.text().to_owned()],
    };
    let best = proposed.best.and_then(|number| progress.trials.iter().find(|trial| trial.number == number));
    let mut sentences = Vec::new();
    if proposed.begun {
        sentences.push(format!("Trial {} was begun and has not been reported: it comes first.", proposed.number));
    }
    match &proposed.why {
        Why::Start(name) => sentences.push(format!("Trial {} is a starting schedule, {name}.", proposed.number)),
        Why::Random(None) => {
            sentences.push(format!("Trial {} is drawn at random from the feasible schedules.", proposed.number));
        }
        Why::Random(Some(reason)) => {
            sentences.push(format!("Trial {} is drawn at random: {reason}.", proposed.number));
        }
        Why::Foreign => sentences.push(format!("Trial {} was put into the study by another program.", proposed.number)),
        Why::Model(choice) => sentences.extend(reasons_of_model(progress, proposed, choice)),
    }
    sentences.extend(best.map(|best| moves(model, &best.ranks, &proposed.ranks, best.number)));
    sentences
}

fn reasons_of_model(progress: &Progress, proposed: &Proposed, choice: &ModelChoice) -> Vec<String> {
    let scores = progress.trials.iter().filter_map(|trial| trial.objective);
    let digits = digits(scores.chain([choice.predicted.mean]));
    let name = ModelKind::from_name(&choice.model).map_or(choice.model.as_str(), |model| model.title());
    let Improvement { best, exploit, explore } = choice.improvement;
    let total = choice.improvement.total();
    let mut sentences = vec![format!(
        "{name} predicts {:.digits$} ± {:.digits$} for trial {}; the best so far scored {best:.digits$}.",
        choice.predicted.mean, choice.predicted.std, proposed.number
    )];
    sentences.push(match Acquisition::from_name(&choice.rule) {
        Some(Acquisition::ExpectedImprovement) => {
            format!("Of all candidates it has the highest expected improvement: {:.digits$}.", choice.value)
        }
        _ => "Of all candidates it has the highest predicted score.".to_owned(),
    });
    sentences.push(if exploit < 0.0 {
        format!(
            "It explores: it is predicted below the best so far, and its expected improvement of {total:.digits$} is there \
             only because the prediction may be wrong."
        )
    } else if explore > exploit {
        format!(
            "It explores more than it exploits: of its expected improvement of {total:.digits$}, {explore:.digits$} comes \
             from the uncertainty and {exploit:.digits$} from the predicted gain."
        )
    } else {
        format!(
            "It exploits more than it explores: of its expected improvement of {total:.digits$}, {exploit:.digits$} comes \
             from the predicted gain and {explore:.digits$} from the uncertainty."
        )
    });
    let error = choice.error;
    sentences.push(if error.rmse < error.baseline_rmse {
        format!(
            "On {} trials, each left out in turn, the model is wrong by {:.digits$}; predicting the mean is wrong by \
             {:.digits$}.",
            choice.fitted_on, error.rmse, error.baseline_rmse
        )
    } else {
        format!(
            "On {} trials, each left out in turn, the model is wrong by {:.digits$}, no less than predicting the mean \
             ({:.digits$}): what it proposes is a guess.",
            choice.fitted_on, error.rmse, error.baseline_rmse
        )
    });
    sentences
}

/// How a schedule differs from the best so far.
fn moves(model: &ModelSpec, best: &[u32], ranks: &[u32], number: usize) -> String {
    let changed = best.iter().zip(ranks).filter(|(a, b)| a != b).count();
    if changed == 0 {
        return format!("It is the schedule of trial {number}, the best so far.");
    }
    let ratio = |which: &dyn Fn(usize, Projection) -> bool| {
        let (mut before, mut after) = (0_u64, 0_u64);
        for (module, (a, b)) in model.modules().zip(best.iter().zip(ranks)) {
            if which(module.layer, module.projection) {
                (before, after) = (before + u64::from(*a), after + u64::from(*b));
            }
        }
        (before > 0).then(|| after as f64 / before as f64 - 1.0)
    };
    let layers = model.decoder.layers;
    let mut groups: Vec<(String, f64)> = Vec::new();
    for projection in Projection::ALL {
        let change = ratio(&|_, p| p == projection);
        groups.extend(change.map(|change| (format!("{projection} in all layers"), change)));
    }
    for (name, third) in ["the first", "the middle", "the last"].into_iter().zip(0..3) {
        let change = ratio(&|layer, _| layer * 3 / layers.max(1) == third);
        groups.extend(change.map(|change| (format!("{name} third of the layers"), change)));
    }
    groups.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut sentence = format!(
        "Against trial {number}, the best so far, it changes the rank of {changed} of {} modules",
        best.len().min(ranks.len())
    );
    if let (Some(most), Some(least)) = (groups.first(), groups.last()) {
        for (name, change) in [most, least] {
            if change.abs() >= 0.005 {
                sentence += &format!("; {name}: {}{}", if *change > 0.0 { "+" } else { "−" }, percent(change.abs()));
            }
        }
    }
    sentence + "."
}

/// What a reader should keep in mind, a sentence each.
pub fn warnings(progress: &Progress, shown: ModelKind) -> Vec<String> {
    let complete = progress.trials.iter().filter(|trial| trial.state == TrialState::Complete).count();
    let failed = progress.trials.len() - complete;
    let mut sentences = Vec::new();
    let fit = progress.fits.iter().find(|fit| fit.model == shown);
    match fit.map(|fit| &fit.outcome) {
        Some(Err(reason)) => sentences.push(format!("There is nothing to predict from yet: {reason}.")),
        Some(Ok(fitted)) => {
            if complete < FEW_TRIALS {
                sentences.push(format!(
                    "{complete} trials are few: the predictions and even their leave-one-out error can be far off."
                ));
            }
            let error = fitted.error;
            if error.baseline_rmse == 0.0 {
                sentences.push("Every trial scored the same: there is nothing to learn from.".to_owned());
            } else if error.rmse >= error.baseline_rmse {
                sentences.push(format!(
                    "{} does not predict unseen trials better than their mean does. Its proposals are guesses.",
                    shown.title()
                ));
            }
        }
        None => {}
    }
    if failed > 0 {
        let trials = if failed == 1 { "1 trial" } else { &format!("{failed} trials") };
        sentences.push(format!("{trials} failed; no model learns from that."));
    }
    // Forecasts are the hardest test: they were made before the score was known.
    let forecasts = progress.trials.iter().filter_map(|trial| match &trial.origin {
        Origin::Proposed { predicted, .. } => Some((*predicted, trial.objective?)),
        _ => None,
    });
    let forecasts: Vec<(Estimate, f64)> = forecasts.collect();
    let within =
        forecasts.iter().filter(|(estimate, score)| (score - estimate.mean).abs() <= 2.0 * estimate.std).count();
    if forecasts.len() >= 3 {
        sentences.push(format!(
            "{within} of {} proposals scored within two standard deviations of their forecast; 95 % would if the \
             uncertainty were right.",
            forecasts.len()
        ));
    }
    sentences
}

/// Where a trial comes from, in a word or two.
pub fn origin(trial: &Trial) -> String {
    match &trial.origin {
        Origin::Start { name } => format!("start: {name}"),
        Origin::Random { .. } => "random".to_owned(),
        Origin::Proposed { model, .. } => {
            let title = ModelKind::from_name(model).map_or(model.as_str(), |model| model.title());
            format!("proposed by {title}")
        }
        Origin::Foreign => "another program".to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// As many decimals as tell scores apart: a hundredth of what they differ by.
fn digits(scores: impl IntoIterator<Item = f64>) -> usize {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for score in scores {
        (low, high) = (low.min(score), high.max(score));
    }
    let extent = high - low;
    if !extent.is_finite() || extent <= 0.0 {
        return 2;
    }
    // At most eight, so the conversion is exact.
    (2.0 - libm::floor(libm::log10(extent))).clamp(0.0, 8.0) as usize
}

fn without_plot(mut drawing: Drawing, table: Table, reason: &str) -> Chart {
    let (x, y) = (0.5 * drawing.width, 0.5 * drawing.height);
    drawing.marks.push(Mark::text(x, y, Anchor::Middle, 12.0, Paint::Soft, reason));
    drawing.summary = reason.to_owned();
    Chart { drawing: drawing.into(), table }
}

#[cfg(test)]
mod tests {
    use hydra_shared::performance::HeldOutError;
    use hydra_shared::search::Optimum;
    use indexmap::IndexMap;

    use super::*;
    use crate::drawing::Theme;
    use crate::messages::performance::{Curve, Ending, Fit};

    const ERROR: HeldOutError = HeldOutError { rmse: 0.5, baseline_rmse: 1.0, rank_correlation: Some(0.8) };

    fn trial(number: usize, objective: Option<f64>, origin: Origin) -> Trial {
        Trial {
            number,
            ranks: vec![2 + number as u32; 14],
            state: if objective.is_some() { TrialState::Complete } else { TrialState::Failed },
            scores: IndexMap::new(),
            objective,
            origin,
            seed: 0,
            wall_seconds: None,
            error: objective.is_none().then(|| "<b>diverged</b>".to_owned()),
        }
    }

    fn start(number: usize, objective: Option<f64>) -> Trial {
        trial(number, objective, Origin::Start { name: format!("s{number}") })
    }

    fn proposal(number: usize, objective: f64, mean: f64, std: f64) -> Trial {
        let origin = Origin::Proposed {
            model: "transformer".to_owned(),
            acquisition: "predicted-mean".to_owned(),
            predicted: Estimate { mean, std },
            predicted_scores: IndexMap::new(),
            held_out: ERROR,
            fitted_on: number,
        };
        trial(number, Some(objective), origin)
    }

    fn progress() -> Progress {
        let trials = vec![
            start(0, Some(60.0)),
            start(1, None),
            start(2, Some(62.0)),
            start(3, Some(61.0)),
            proposal(4, 63.0, 62.5, 0.4),
        ];
        let seen = [60.1, 61.9, 61.0, 62.9].map(|mean| Estimate { mean, std: 0.2 }).to_vec();
        let fitted = Fitted { seen, left_out: vec![60.5, 61.5, 61.2, 62.0], error: ERROR };
        let choice = ModelChoice {
            model: "transformer".to_owned(),
            rule: "predicted-mean".to_owned(),
            predicted: Estimate { mean: 63.4, std: 0.2 },
            value: 63.4,
            improvement: Improvement::new(Estimate { mean: 63.4, std: 0.2 }, 63.0),
            error: ERROR,
            fitted_on: 4,
        };
        let mut ranks = vec![6; 14];
        ranks[0] = 9;
        ranks[6] = 3;
        let why = Why::Model(Box::new(choice));
        Progress {
            id: 1,
            trials,
            fits: vec![
                Fit { model: ModelKind::Transformer, outcome: Ok(fitted) },
                Fit { model: ModelKind::Ridge, outcome: Err("the arithmetic failed".to_owned()) },
            ],
            next: Next::Try(Box::new(Proposed { number: 5, ranks, why, begun: false, best: Some(4) })),
            optimum: Some(Optimum { ranks: vec![5; 14], score: 65.0, bound: 65.0 }),
            curves: vec![
                Curve { model: Some(ModelKind::Transformer), shown: true, best: vec![60.0, 62.0, 62.0, 63.0] },
                Curve { model: None, shown: false, best: vec![60.0, 62.0, 62.0, 62.0] },
            ],
            milliseconds: 1.0,
        }
    }

    fn model() -> ModelSpec {
        let mut model = ModelSpec::preset("smollm2-135m").unwrap();
        model.decoder.layers = 2;
        model
    }

    #[test]
    fn predictions_show_every_complete_trial_seen_left_out_and_as_forecast() {
        let chart = predictions(&progress(), ModelKind::Transformer);
        assert_eq!(chart.table.rows.len(), 4, "the failed trial has no score");
        assert_eq!(chart.table.rows[1][..4], ["2", "start: s2", "62", "61.9"]);
        assert_eq!(chart.table.rows[3][5..], ["62", "62.5", "0.4"]);
        let about = |trial| chart.drawing.marks.iter().filter(|m| m.subject == Subject::Trial(trial)).count();
        assert_eq!([about(0), about(1), about(4)], [6, 0, 10]);
        assert!(chart.drawing.summary.contains("4 trials") && chart.drawing.summary.contains("0.50"));
        // A proposal of another model is no forecast of this one.
        let mut other = progress();
        other.fits[0].model = ModelKind::GaussianProcess;
        assert_eq!(predictions(&other, ModelKind::GaussianProcess).table.rows[3][6], "");
    }

    #[test]
    fn a_model_without_a_fit_says_why() {
        for chart in [
            predictions(&progress(), ModelKind::Ridge),
            errors(&Progress { fits: progress().fits.split_off(1), ..progress() }),
        ] {
            assert_eq!(chart.drawing.summary, "the arithmetic failed");
        }
        let none = Progress { fits: Vec::new(), ..progress() };
        assert!(errors(&none).drawing.summary.contains("so many trials"));
    }

    #[test]
    fn history_shows_curves_the_optimum_and_failures_and_its_table_has_the_regret() {
        let chart = history(&progress());
        assert_eq!(
            chart.table.columns[3..],
            ["best so far, Transformer", "regret, Transformer", "best so far, Random", "regret, Random"]
        );
        assert_eq!(chart.table.rows[3][3..5], ["63", "2"]);
        assert_eq!(chart.table.rows[1][2], "failed");
        assert!(chart.drawing.summary.ends_with("2.00 below the best possible."), "{}", chart.drawing.summary);
        let svg = chart.drawing.to_svg(Theme::Dark, None);
        assert!(svg.contains("best possible") && !svg.contains("<b>"));
    }

    #[test]
    fn a_dropped_study_has_a_history_without_optimum_and_one_without_trials_too() {
        let dropped = Progress { optimum: None, curves: Vec::new(), ..progress() };
        let chart = history(&dropped);
        assert_eq!(chart.table.columns[3..], ["best so far"]);
        assert_eq!(
            chart.table.rows.iter().map(|row| row[3].to_string()).collect::<Vec<_>>(),
            ["60", "60", "62", "62", "63"]
        );
        let empty = Progress { trials: Vec::new(), fits: Vec::new(), ..dropped };
        assert_eq!(history(&empty).drawing.summary, "No trial has been run.");
        assert!(warnings(&empty, ModelKind::Ridge).is_empty());
    }

    #[test]
    fn errors_stand_beside_the_error_of_the_mean() {
        let chart = errors(&progress());
        assert_eq!(chart.table.rows, [["Transformer", "0.5", "1", "0.75", "0.8"]]);
        assert_eq!(chart.drawing.summary, "Better than predicting the mean: Transformer.");
        let mut useless = progress();
        if let Ok(fitted) = &mut useless.fits[0].outcome {
            fitted.error.rmse = 1.2;
        }
        assert!(errors(&useless).drawing.summary.starts_with("No model predicts"));
        assert!(warnings(&useless, ModelKind::Transformer).iter().any(|w| w.contains("guesses")));
    }

    #[test]
    fn reasons_name_prediction_rule_exploitation_error_and_what_moves() {
        let sentences = reasons(&progress(), &model());
        assert_eq!(sentences.len(), 5);
        assert_eq!(sentences[0], "Transformer predicts 63.40 ± 0.20 for trial 5; the best so far scored 63.00.");
        assert!(sentences[2].starts_with("It exploits more"), "{sentences:?}");
        assert_eq!(
            sentences[4],
            "Against trial 4, the best so far, it changes the rank of 2 of 14 modules; q in all layers: +25 %; down in all \
             layers: −25 %."
        );
        let explores = |mean, std| {
            let mut progress = progress();
            if let Next::Try(proposed) = &mut progress.next
                && let Why::Model(choice) = &mut proposed.why
            {
                choice.improvement = Improvement::new(Estimate { mean, std }, 63.0);
            }
            reasons(&progress, &model())[2].clone()
        };
        assert!(explores(63.1, 0.5).starts_with("It explores more"));
        assert!(explores(62.5, 0.5).starts_with("It explores: it is predicted below"));
        let over = Progress { next: Next::Over(Ending::NoGain), ..progress() };
        assert_eq!(reasons(&over, &model()), [Ending::NoGain.text()]);
    }

    #[test]
    fn warnings_tell_of_few_trials_failures_and_missed_forecasts() {
        let mut progress = progress();
        progress.trials.extend([proposal(5, 60.0, 62.0, 0.1), proposal(6, 61.0, 61.1, 0.1)]);
        let sentences = warnings(&progress, ModelKind::Transformer);
        assert_eq!(sentences.len(), 3);
        assert!(sentences[0].starts_with("6 trials are few"));
        assert!(sentences[1].starts_with("1 trial failed"));
        assert!(sentences[2].starts_with("2 of 3 proposals"));
        assert!(warnings(&progress, ModelKind::Ridge)[0].contains("the arithmetic failed"));
    }

    #[test]
    fn labels_keep_apart_and_lines_keep_their_height() {
        let labels = apart(vec![(12.0, Paint::Text, "b".to_owned()), (10.0, Paint::Soft, "a".to_owned())]);
        assert_eq!(
            labels.iter().map(|(at, _, text)| (*at, text.as_str())).collect::<Vec<_>>(),
            [(10.0, "a"), (23.0, "b")]
        );
        assert_eq!(steps([(0.0, 1.0), (5.0, 3.0)].into_iter()), [(0.0, 1.0), (5.0, 1.0), (5.0, 3.0)]);
        assert_eq!([digits([60.0, 63.0]), digits([0.5, 0.53]), digits([5.0]), digits([0.0, 1000.0])], [2, 4, 2, 0]);
    }
}
