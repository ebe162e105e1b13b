use std::sync::Arc;

use hydra_shared::layout::Layout;
use hydra_shared::performance::{Estimate, HeldOutError};
use hydra_shared::search::{Basis, LastRound, Optimum, Pick, PlainTrial, StopReason, TrialState};
use hydra_shared::vlm::spec::ModelSpec;
use indexmap::IndexMap;

use super::history::{apart, steps};
use super::*;
use crate::charts::{NARROW, WIDTH};
use crate::drawing::{Subject, Theme};
use crate::messages::performance::{Curve, Fit, Fitted, Next, Progress, Proposed};

const ERROR: HeldOutError = HeldOutError { rmse: 0.5, baseline_rmse: 1.0, rank_correlation: Some(0.8) };

fn trial(number: usize, objective: Option<f64>, origin: Origin) -> PlainTrial {
    PlainTrial {
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

fn start(number: usize, objective: Option<f64>) -> PlainTrial {
    trial(number, objective, Origin::Start { name: format!("s{number}") })
}

fn proposed(mean: f64, std: f64, fitted_on: usize) -> Origin {
    Origin::Proposed {
        model: "transformer".to_owned(),
        acquisition: "predicted-mean".to_owned(),
        predicted: Estimate { mean, std },
        predicted_scores: IndexMap::new(),
        held_out: ERROR,
        fitted_on,
    }
}

fn proposal(number: usize, objective: f64, mean: f64, std: f64) -> PlainTrial {
    trial(number, Some(objective), proposed(mean, std, number))
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
    let mut ranks = vec![6; 14];
    ranks[0] = 9;
    ranks[6] = 3;
    let origin = proposed(63.4, 0.2, 4);
    Progress {
        id: 1,
        trials,
        fits: vec![
            Fit { model: ModelKind::Transformer, outcome: Ok(fitted) },
            Fit { model: ModelKind::Ridge, outcome: Err("the arithmetic failed".to_owned()) },
        ],
        next: Next::Try(Box::new(Proposed { number: 5, ranks, origin, begun: false, best: Some(4), seed: 7 })),
        optimum: Some(Optimum { ranks: vec![5; 14], score: 65.0, bound: 65.0 }),
        curves: vec![
            Curve {
                model: Some(ModelKind::Transformer),
                title: "Transformer".to_owned(),
                shown: true,
                best: vec![60.0, 62.0, 62.0, 63.0],
            },
            Curve { model: None, title: "Random".to_owned(), shown: false, best: vec![60.0, 62.0, 62.0, 62.0] },
        ],
        pick: None,
        fresh: Vec::new(),
        truths: Vec::new(),
        written: None,
        milliseconds: 1.0,
    }
}

fn layout() -> Arc<Layout> {
    let mut model = ModelSpec::preset("smollm2-135m").unwrap();
    model.decoder.layers = 2;
    model.layout().unwrap()
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
    let chart = history(&progress(), WIDTH);
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
fn on_a_telephone_history_is_narrower_and_says_the_same() {
    let (wide, slim) = (history(&progress(), WIDTH), history(&progress(), NARROW));
    assert_eq!((slim.table, slim.drawing.summary.clone()), (wide.table, wide.drawing.summary.clone()));
    assert!(slim.drawing.width < 500.0 && slim.drawing.height < wide.drawing.height);
    let svg = slim.drawing.to_svg(Theme::Light, None);
    assert!(svg.contains(">lines: the worth, without noise, of the best so far<"), "{svg}");
}

#[test]
fn a_dropped_study_has_a_history_without_optimum_and_one_without_trials_too() {
    let dropped = Progress { optimum: None, curves: Vec::new(), ..progress() };
    let chart = history(&dropped, WIDTH);
    assert_eq!(chart.table.columns[3..], ["best so far"]);
    assert_eq!(
        chart.table.rows.iter().map(|row| row[3].to_string()).collect::<Vec<_>>(),
        ["60", "60", "62", "62", "63"]
    );
    let empty = Progress { trials: Vec::new(), fits: Vec::new(), ..dropped };
    assert_eq!(history(&empty, WIDTH).drawing.summary, "No trial has been run.");
    assert!(warnings(&empty, ModelKind::Ridge).is_empty());
}

fn scored(score: Option<f64>) -> ScoredTrial {
    ScoredTrial {
        number: 0,
        origin: "proposed".to_owned(),
        proposed: true,
        predicted: None,
        score: score.ok_or_else(|| "no score".to_owned()),
    }
}

#[test]
fn the_best_so_far_never_falls_and_ignores_failed_trials() {
    let trials = [None, Some(2.0), Some(1.0), None, Some(3.0)].map(scored);
    let chart = scores("Scores", &trials, &[], None, WIDTH);
    assert_eq!(chart.table.rows.iter().map(|row| row[3].to_string()).collect::<Vec<_>>(), ["", "2", "2", "2", "3"]);
    let failed = scores("Scores", &trials[..1], &[], None, WIDTH);
    assert_eq!(failed.drawing.summary, "None of 1 trials has a score.");
}

#[test]
fn predictions_that_are_given_stand_beside_what_was_measured() {
    let predicted = Some(Estimate { mean: 2.5, std: 0.5 });
    let trials = [scored(Some(2.0)), ScoredTrial { number: 1, predicted, ..scored(None) }];
    let chart = scores("Scores", &trials, &[], None, WIDTH);
    assert_eq!(chart.table.columns[2..5], ["predicted", "standard deviation", "score"]);
    assert_eq!(chart.table.rows[1][1..5], ["proposed", "2.5", "0.5", "failed"]);
    assert_eq!(chart.table.rows[0][2..5], ["", "", "2"]);
    let svg = chart.drawing.to_svg(Theme::Light, None);
    assert!(svg.contains("rings: as predicted") && svg.contains("predicted 2.50 ± 0.50"), "{svg}");
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
    let sentences = reasons(&progress(), &layout());
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
        if let Next::Try(next) = &mut progress.next {
            next.origin = proposed(mean, std, 4);
        }
        reasons(&progress, &layout())[2].clone()
    };
    assert!(explores(63.1, 0.5).starts_with("It explores more"));
    assert!(explores(62.5, 0.5).starts_with("It explores: it is predicted below"));
    let over = Progress { next: Next::Over(StopReason::NoGain), ..progress() };
    assert_eq!(reasons(&over, &layout()), ["The search is over: the last proposals brought no gain."]);
    let over = Progress { next: Next::TooManyTrials, ..progress() };
    assert!(reasons(&over, &layout())[0].ends_with("The trainer goes on with it."));
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
    assert_eq!(labels.iter().map(|(at, _, text)| (*at, text.as_str())).collect::<Vec<_>>(), [(10.0, "a"), (23.0, "b")]);
    assert_eq!(steps([(0.0, 1.0), (5.0, 3.0)].into_iter()), [(0.0, 1.0), (5.0, 1.0), (5.0, 3.0)]);
    assert_eq!([digits([60.0, 63.0]), digits([0.5, 0.53]), digits([5.0]), digits([0.0, 1000.0])], [2, 4, 2, 0]);
}

/// A search that is over: uniform LoRA, the plan, and a schedule that was found.
fn ended(pick: Pick, fresh: Vec<(usize, f64)>) -> Progress {
    let mut over = progress();
    for (number, name) in [(0, "uniform"), (2, "coarse + fine")] {
        over.trials[number].origin = Origin::Start { name: name.to_owned() };
    }
    let truths = vec![60.2, 0.0, 62.1, 61.0, 62.3];
    Progress { next: Next::Over(StopReason::TrialsSpent), pick: Some(pick), fresh, truths, ..over }
}

fn round(difference: f64, probability: f64) -> LastRound {
    let (low, high) = (Some(difference - 0.2), Some(difference + 0.2));
    LastRound { found: 4, safe: 2, difference, low, high, probability: Some(probability), seeds: 4 }
}

#[test]
fn a_search_that_is_over_names_the_best_schedule_beside_uniform_lora_and_the_plan_and_how_sure_that_is() {
    let pick = Pick { trial: 4, basis: Basis::Shown, last_round: Some(round(0.3, 0.97)) };
    let fresh = vec![(4, 62.4), (4, 62.6), (2, 62.2), (2, 62.2), (0, 60.0)];
    let verdict = verdict(&ended(pick, fresh), ModelKind::Transformer).unwrap();
    assert!(verdict.over && verdict.trial == 4 && verdict.title == "trial 4, proposed by Transformer");
    assert_eq!(verdict.ranks, vec![6; 14]);
    let rows: Vec<_> =
        verdict.rows.iter().map(|row| (row.name.as_str(), row.score.as_str(), row.fresh.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("found: proposed by Transformer", "63.00", "62.50 (2)"),
            ("uniform LoRA", "60.00", "60.00 (1)"),
            ("HyDRA's plan", "62.00", "62.20 (2)")
        ]
    );
    assert_eq!(verdict.rows.iter().map(|row| row.recommended).collect::<Vec<_>>(), [true, false, false]);
    let text = verdict.sentences.join(" ");
    for part in [
        "trial 4 differs from HyDRA's plan by +0.30, 95 % interval +0.10 to +0.50; it is better with a probability of 97 %.",
        "Luck: trial 4 has the best of 4 scores, 63.00; with 2 fresh seeds it is 62.50, so that 0.50 was luck.",
        "worth 62.30, and none within the budget more than 65.00",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_schedule_that_is_not_shown_to_be_better_is_not_recommended() {
    let pick = Pick { trial: 2, basis: Basis::NotShown, last_round: Some(round(0.1, 0.7)) };
    let verdict = verdict(&ended(pick, vec![(4, 62.0)]), ModelKind::Transformer).unwrap();
    assert_eq!((verdict.title.as_str(), verdict.ranks[0]), ("HyDRA's plan", 4));
    assert!(verdict.sentences[0].contains("70 %, and 90 % would be needed to prefer it: HyDRA's plan is recommended"));
    assert!(verdict.rows[0].name.starts_with("found: ") && !verdict.rows[0].recommended);
}

#[test]
fn without_fresh_seeds_a_model_tells_how_sure_it_is_and_what_was_luck() {
    let pick = Pick { trial: 4, basis: Basis::Untested, last_round: None };
    let untested = ended(pick, Vec::new());
    let found = verdict(&untested, ModelKind::Transformer).unwrap();
    let text = found.sentences.join(" ");
    // (62.9 − 60.1) / (0.2·√2) is far out.
    assert!(text.contains("better than uniform LoRA with a probability of 100 %"), "{text}");
    assert!(text.contains("by Transformer it is 62.90, so that 0.10 was luck"), "{text}");
    assert!(found.rows.iter().all(|row| row.fresh.is_empty()));
    // A model that could not be fitted is not asked, and before a trial is complete there is no verdict.
    assert!(!verdict(&untested, ModelKind::Ridge).unwrap().sentences.join(" ").contains("probability"));
    assert_eq!(verdict(&progress(), ModelKind::Transformer), None);
}

/// Trials of a small model: the later layers get the more rank, the higher the number; the score falls with it.
fn sloped() -> (Progress, Arc<Layout>) {
    let mut model = ModelSpec::preset("smollm2-135m").unwrap();
    model.decoder.layers = 3;
    let layout = model.layout().unwrap();
    let trials = (0..12).map(|number| {
        let ranks = (0..layout.len()).map(|module| match layout.block_of(module) {
            0 => 4,
            1 => 4 + number as u32 % 2,
            _ => 4 + number as u32,
        });
        let luck = if number % 3 == 0 { 0.2 } else { -0.1 };
        let ranks = ranks.collect();
        PlainTrial { ranks, ..trial(number, Some(60.0 - number as f64 / 4.0 + luck), Origin::Random { reason: None }) }
    });
    (Progress { trials: trials.collect(), ..progress() }, layout)
}

#[test]
fn coordinates_are_what_the_words_say() {
    let (progress, layout) = sloped();
    let chart = Coordinates::new(&progress, &layout).chart(&Brush::default());
    let columns: Vec<&str> = chart.table.columns.iter().map(String::as_str).collect();
    assert_eq!(
        columns,
        ["trial", "origin", "stages", "ratio", "Δd", "last third, %", "attention, %", "mean score", "marked"]
    );
    let row = |number: usize| chart.table.rows[number].iter().map(ToString::to_string).collect::<Vec<String>>();
    let uniform = row(0);
    assert_eq!(uniform[2..5], ["1", "1", "0"]);
    assert!((uniform[5].parse::<f64>().unwrap() - 100.0 / 3.0).abs() < 1e-9);
    // Layers of rank 4, 5 and 15.
    let last = row(11);
    assert_eq!((last[2].as_str(), last[3].parse::<f64>().unwrap(), last[4].as_str()), ("3", 3.75, "0"));
}

#[test]
fn what_is_marked_is_told_beside_the_rest_with_its_interval() {
    let (progress, layout) = sloped();
    let all = Coordinates::new(&progress, &layout);
    assert!(all.sentence(&Brush::default()).starts_with("12 trials. Mark a part"));
    let mut brush = Brush::default();
    brush.0[1] = Some((1.0, 2.0));
    let sentence = all.sentence(&brush);
    assert!(sentence.starts_with("5 of 12 trials are marked, mean score "), "{sentence}");
    assert!(sentence.contains("more than luck of the seeds, if this part was not chosen"), "{sentence}");
    assert_eq!(all.outside(&brush), (5..12).collect());
    // A part without any bearing on the scores.
    let mut brush = Brush::default();
    brush.0[0] = Some((2.9, 3.1));
    assert!(all.sentence(&brush).ends_with("which cannot be told from luck."), "{}", all.sentence(&brush));
    let mut brush = Brush::default();
    brush.0[COORDINATES - 1] = Some((59.0, 61.0));
    assert!(all.sentence(&brush).contains("says nothing of the schedules"), "{}", all.sentence(&brush));
    brush.0[COORDINATES - 1] = Some((0.0, 1.0));
    assert_eq!(all.sentence(&brush), "None of 12 trials is marked.");
}

#[test]
fn what_is_not_marked_is_faint_in_every_chart_of_trials() {
    let (progress, layout) = sloped();
    let all = Coordinates::new(&progress, &layout);
    let mut brush = Brush::default();
    brush.0[1] = Some((1.0, 2.0));
    let outside = all.outside(&brush);
    let of = |chart: &Chart, number: usize| {
        let marks = chart.drawing.marks.iter().filter(|mark| mark.subject == Subject::Trial(number));
        marks.map(|mark| mark.opacity).fold(0.0, f64::max)
    };
    for chart in [all.chart(&brush), marked(history(&progress, WIDTH), &outside)] {
        assert!(of(&chart, 0) > 0.5 && of(&chart, 11) < 0.2, "{}", chart.drawing.title);
    }
}

#[test]
fn a_place_on_an_axis_is_a_value_of_it_and_between_two_axes_is_none() {
    let (progress, layout) = sloped();
    let all = Coordinates::new(&progress, &layout);
    let (axis, value) = all.at(60.0, 300.0).unwrap();
    assert_eq!((axis, value), (0, all.domain(0).0));
    assert_eq!(all.at(60.0, 900.0).unwrap().1, all.domain(0).0, "beyond its end it is its end's");
    assert_eq!(all.at(650.0, 58.0).unwrap(), (COORDINATES - 1, all.domain(COORDINATES - 1).1));
    assert_eq!(all.at(119.0, 100.0), None);
}

#[test]
fn a_schedules_score_is_the_mean_over_its_seeds() {
    let (mut progress, layout) = sloped();
    progress.fresh = vec![(3, 70.0), (3, 71.0), (4, 80.0)];
    let chart = Coordinates::new(&progress, &layout).chart(&Brush::default());
    let score = chart.table.rows[3][7].to_string().parse::<f64>().unwrap();
    assert!((score - (59.45 + 70.0 + 71.0) / 3.0).abs() < 1e-9, "{score}");
}
