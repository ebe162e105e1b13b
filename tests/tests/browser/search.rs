//! The view Search: made-up studies and measured ones.

use crate::support::page::on_the_page;

#[test]
fn a_search_on_a_known_surface_runs_step_by_step_and_through() {
    on_the_page(async |page| {
        page.click_text("button", "Tiny MobileVLM log").await;
        page.click("#tab-search").await;
        page.until_count("#search-rule", 1).await;
        // Choices of a search are taken back like any other.
        page.choose("#search-rule", "expected-improvement").await;
        page.click("#undo").await;
        page.until_value("#search-rule", "predicted-mean").await;
        page.until_text("main", "trials; the last answer took").await;
        page.click_text("button", "Step").await;
        page.until_text("main", "9 trials; the last answer took").await;
        page.until_count("main [aria-busy='false']", 2).await;
        // The button that was clicked leaves its keys to the view.
        page.press(".").await;
        page.until_text("main", "10 trials; the last answer took").await;
        // What one notch more would cost or change is told before it is made.
        for (slider, told) in [
            ("#search-replicates", "fine-tunes more, "),
            ("#search-starts", "for a model to propose"),
            ("#search-trials", "changed what the best schedule is worth by"),
            ("#search-agreement", "HyDRA's plan is worth"),
            ("#search-noise", "two fine-tunes of one schedule differ by"),
        ] {
            page.focus(slider).await;
            page.until_text(".tip.shown", told).await;
        }
        page.set("#search-speed", "0").await;
        page.click_text("button", "Play").await;
        page.until_text("main", "16 trials").await;
        page.until_count("#predicted-measured svg circle", page.count("#predicted-measured svg circle").await.max(1))
            .await;
        page.until_text("#leave-one-out svg", "Ridge").await;
    });
}

#[test]
fn a_search_ends_with_a_verdict_that_goes_into_analyse_and_every_export() {
    on_the_page(async |page| {
        page.click_text("button", "Tiny MobileVLM log").await;
        page.click("#tab-search").await;
        page.until_text("main", "The scores on this page are made up").await;
        page.until_text("#verdict-title", "Recommended so far").await;
        // A model that is quick to fit.
        page.choose("#search-model", "ridge").await;
        page.set("#search-trials", "10").await;
        page.until_text("#search-status", "8 trials; the last answer took").await;
        page.set("#search-speed", "0").await;
        page.click_text("button", "Play").await;
        page.until_text("#verdict-title", "Recommended: ").await;
        let verdict = page.text("#verdict").await;
        for part in [
            "uniform LoRA",
            "HyDRA's plan",
            "recommended",
            "with a probability of",
            "Luck: trial",
            "none within the budget",
        ] {
            assert!(verdict.contains(part), "{part}: {verdict}");
        }
        assert_eq!(page.count("#verdict tr.recommended").await, 1);
        page.click("#take-best").await;
        page.until_count("#schedule rect[data-module]", 42).await;
        assert!(!page.text("#budget-text").await.contains("over"));
        assert_eq!(page.value("#base-rank").await, "4");
        assert!(page.exported("adapter_config.json").await.contains("target_modules"));
    });
}

#[test]
fn scores_of_ones_own_training_are_told_and_the_study_goes_on_from_its_file() {
    use hydra_shared::search::{Journal, TrialState};

    on_the_page(async |page| {
        page.click_text("button", "Tiny MobileVLM log").await;
        page.click("#tab-search").await;
        page.choose("#search-model", "ridge").await;
        page.click("#begin-own").await;
        page.until_text("#asked-trial", "Trial 0, seed").await;
        let peft = page.saved(async || page.click("#asked-peft").await).await;
        assert!(peft.contains("\"r\": 4"), "{peft}");
        // No number is refused where it stands.
        page.click("#tell").await;
        page.until_text("#score-problem", "Write the score as a number").await;
        for (trial, score) in ["61.5", "62.25", "60"].into_iter().enumerate() {
            page.until_text("#asked-trial", &format!("Trial {trial}, seed")).await;
            page.set("#score-0", score).await;
            page.click("#tell").await;
        }
        page.until_text("#asked-trial", "Trial 3, seed").await;
        // A slip is taken back: the trial is asked again, and the file knows nothing of it.
        page.set("#score-0", "6225.75").await;
        page.click("#tell").await;
        page.until_text("#asked-trial", "Trial 4, seed").await;
        page.until_text("#take-back", "told of trial 3").await;
        let slip = page.saved(async || page.click("#save-study").await).await;
        assert!(slip.contains("6225.75"), "{slip}");
        page.js("window.confirm = question => !question.includes('trial 3')", vec![]).await;
        page.click("#take-back").await;
        page.until_text("#asked-trial", "Trial 4, seed").await;
        page.js("window.confirm = question => question.includes('counts for nothing')", vec![]).await;
        page.click("#take-back").await;
        page.until_text("#asked-trial", "Trial 3, seed").await;
        page.until_text("#take-back", "told of trial 2").await;
        page.until_text("#measured", "There is something in it that was not saved").await;
        let text = page.saved(async || page.click("#save-study").await).await;
        assert!(slip.starts_with(&text) && !text.contains("6225.75"), "{text}");
        page.click("#take-back").await;
        page.until_text("#asked-trial", "Trial 2, seed").await;
        page.set("#score-0", "60").await;
        page.click("#tell").await;
        page.until_text("#asked-trial", "Trial 3, seed").await;
        // A file of scores fills the boxes, if it is of the same tasks.
        page.drop_files(&[("result.json", br#"{"scores": {"vqa": 61.5}, "seconds": 9}"#)]).await;
        page.until_text("#score-problem", "scores of vqa; those of this study are of score").await;
        page.until_text("#verdict-title", "Recommended so far").await;
        page.until_text("#measured", "There is something in it that was not saved").await;
        let text = page.saved(async || page.click("#save-study").await).await;
        let study = Journal::parse(text.as_bytes()).unwrap().study("hydra").unwrap().to_study().unwrap();
        let told: Vec<Option<f64>> = study.trials.iter().map(|trial| trial.objective).collect();
        assert_eq!(told, [Some(61.5), Some(62.25), Some(60.0), None]);
        assert_eq!(study.trials[3].state, TrialState::Running, "it was handed out");

        // Next week, from the file or from what the browser kept.
        page.reload().await;
        page.click("#tab-analyse").await;
        page.click("#recent-hydra-study").await;
        page.until_text("#asked-trial", "Trial 3, seed").await;
        page.until_text("#measured", "There is something in it that was not saved").await;
        assert_eq!(page.saved(async || page.click("#save-study").await).await, text);
        page.reload().await;
        page.drop_files(&[("study.journal", text.as_bytes())]).await;
        page.until_text("#asked-trial", "Trial 3, seed").await;
        page.drop_files(&[("result.json", br#"{"scores": {"score": 63.0}}"#)]).await;
        page.until_value("#score-0", "63").await;
        page.click("#tell").await;
        page.until_text("#asked-trial", "Trial 4, seed").await;
        page.until_text("#verdict", "63").await;
    });
}

#[test]
fn a_dropped_journal_opens_the_search_and_shows_what_would_be_tried_next() {
    let journal = dropped_journal();
    on_the_page(async |page| {
        page.drop_files(&[("study.journal", journal.as_bytes())]).await;
        page.until_text("main", "6 trials").await;
        page.until_text("main", "Next schedule").await;
        page.until_count("#next-against-best rect[data-module]", 42).await;
    });
}

#[test]
fn a_measured_study_is_one_click_away_and_what_is_marked_of_it_is_told_beside_the_rest() {
    on_the_page(async |page| {
        page.click("#tab-search").await;
        page.choose("#search-model", "ridge").await;
        page.click("#measured-sample").await;
        page.until_text("main", "41 trials").await;
        page.until_text("#verdict", "with 3 fresh seeds it is").await;
        page.until_text("#verdict", "(3)").await;
        page.until_text("#marked-told", "41 trials. Mark a part").await;
        let faint = "#search-history svg circle[opacity='0.15']";
        assert_eq!(page.count(faint).await, 0);
        page.click("#mark-by-sliders summary").await;
        page.set("#mark-3-to", "40").await;
        page.until_text("#marked-told", "of 41 trials are marked").await;
        let marked: u64 = page.text("#marked-told").await.split(' ').next().unwrap().parse().unwrap();
        assert!(marked > 0 && marked < 41);
        assert_eq!(page.count(faint).await, 41 - marked);
        page.click("#mark-all").await;
        page.until_text("#marked-told", "41 trials. Mark a part").await;
        // With the pointer, along the axis of the ratio.
        page.drag("#coordinates svg.picture", (0.247, 0.5), (0.247, 0.95)).await;
        page.until_text("#marked-told", "of 41 trials are marked").await;
        page.drag("#coordinates svg.picture", (0.247, 0.7), (0.247, 0.7)).await;
        page.until_text("#marked-told", "41 trials. Mark a part").await;
    });
}

/// A study of six complete trials on the tiny model, as Optuna's journal has it.
fn dropped_journal() -> String {
    use std::sync::Arc;

    use hydra_shared::schedule::{Baseline, Budget, Counting};
    use hydra_shared::search::{Journal, Origin, StudyMetadata, Timestamp, Trial, TrialState};
    use hydra_shared::vlm::spec::preset_layout;

    let layout = preset_layout("tiny-mobilevlm").unwrap();
    let metadata = StudyMetadata {
        name: "dropped".to_owned(),
        budget: Budget::uniform(&layout, 4, Counting::Parameters),
        rank_cap: None,
        base_rank: 4,
        benchmarks: vec!["score".to_owned()],
        profile: None,
        layout: Arc::clone(&layout),
    };
    let mut journal = Journal::default();
    let mut text = journal.begin_study(&metadata).unwrap();
    let flat = hydra_playground::session::unknown_profile(&layout);
    for number in 0..6 {
        let seed = number as u64;
        let baseline = if number == 0 { Baseline::Uniform } else { Baseline::RandomFeasible };
        let ranks = baseline.ranks(&layout, &flat, 4, None.into(), seed).unwrap();
        let score = 50.0 + ranks.iter().take(7).map(|(_, rank)| f64::from(rank)).sum::<f64>();
        let mut trial = Trial {
            number,
            ranks,
            state: TrialState::Running,
            scores: Default::default(),
            objective: None,
            origin: Origin::Start { name: format!("start-{number}") },
            seed,
            wall_seconds: None,
            error: None,
        };
        let at = Timestamp::from_unix_micros(1_700_000_000_000_000);
        text += &journal.begin_trial(&metadata, &trial, at).unwrap();
        trial.state = TrialState::Complete;
        trial.scores = [("score".to_owned(), score)].into_iter().collect();
        trial.objective = Some(score);
        text += &journal.end_trial(&metadata, &trial, at).unwrap();
    }
    text
}
