//! What a model predicts against what was measured.

use hydra_shared::performance::{Estimate, ModelKind};
use hydra_shared::search::{Origin, TrialState};

use super::{BOTTOM, LEFT, TOP, digits, origin, without_plot};
use crate::charts::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::messages::performance::{Fitted, Progress};
use crate::scale::{Scale, horizontal_axis, vertical_axis};
use crate::table::Table;

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
