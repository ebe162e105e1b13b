//! The models' leave-one-out errors.

use hydra_shared::performance::ModelKind;

use super::{BOTTOM, TOP, digits, paint, percent, without_plot};
use crate::charts::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint};
use crate::messages::performance::{Fitted, Progress};
use crate::scale::{Scale, horizontal_axis};
use crate::table::Table;

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
