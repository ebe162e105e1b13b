//! The view Train: the tiny model learns, on WebGPU and on the CPU.

use serde_json::json;

use crate::support::page::{on_the_page_at, on_the_page_without_tls};

/// Whether the page asks before it is left.
const ASKS: &str = "const leaving = new Event('beforeunload', {cancelable: true}); dispatchEvent(leaving); return leaving.defaultPrevented";

/// Notes every text that the line of what is under way has.
const NOTE_WHAT_LOADS: &str = "document.told = []; new MutationObserver(() => {
    const text = document.querySelector('#train-busy')?.textContent;
    if (text && text !== document.told.at(-1)) document.told.push(text);
}).observe(document.body, {subtree: true, childList: true, characterData: true})";

/// Megabytes that had come, and all of them, each time that they were told.
const HOW_MUCH_CAME: &str =
    "return document.told.map(text => /^loading the program: ([0-9.]+) of ([0-9.]+) MB…$/.exec(text))
    .filter(Boolean).map(found => [Number(found[1]), Number(found[2])])";

/// Keeps how far a training is, as long as nobody sees it, where another tab finds it.
const TELL_WHILE_HIDDEN: &str = "setInterval(() => document.hidden && localStorage.setItem('told', \
                                 document.querySelector('#train-progress').textContent), 200)";

/// The longest test of all: SwiftShader takes seconds a step.
#[test]
fn the_tiny_model_learns_on_webgpu_agrees_with_the_cpu_and_survives_the_loss_of_its_device() {
    on_the_page_at("#v=1&sample=tiny-mobilevlm&view=train", &["--enable-unsafe-webgpu"], async |page| {
        // By itself the page does not take an adapter that computes in software, which is slower than the CPU.
        page.until_text_for("#train-device-name", "No GPU", 120).await;
        assert!(page.text("#train-device-name").await.contains("software"));
        page.choose("#train-device", "gpu").await;
        page.set("#train-steps", "8").await;
        page.set("#train-batch", "2").await;
        page.click("#train-start").await;
        page.until_text_for("#train-device-name", "WebGPU on a software adapter", 120).await;
        page.until_text_for("#train-progress", "Step 0 of 8", 300).await;
        page.until_text_for("#train-pace", "ms on the CPU", 120).await;
        page.click("#train-play").await;
        // The state is kept every five steps.
        page.until_text_for("#train-progress", "Step 5 of", 600).await;
        page.until_text_for("#parity", "agrees with the CPU", 300).await;
        page.click("#lose-device").await;
        page.until_text_for("#train-events", "lost", 120).await;
        page.until_text_for("#train-progress", "Step 8 of", 600).await;
        page.click("#training-loss summary").await;
        let losses = page
            .js(
                "return [...document.querySelectorAll('#training-loss tbody tr')].map(r => Number(r.children[1].textContent))",
                vec![],
            )
            .await;
        let losses: Vec<f64> = losses.as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(losses.len() == 8 && mean(&losses[5..]) < mean(&losses[..3]), "{losses:?}");
    });
}

#[test]
fn without_webgpu_the_tiny_model_says_why_learns_on_the_cpu_and_hands_its_log_to_the_analysis() {
    on_the_page_at("#v=1&sample=tiny-mobilevlm", &[], async |page| {
        page.until_count("html[data-ready]", 1).await;
        page.js(NOTE_WHAT_LOADS, vec![]).await;
        page.click("#tab-train").await;
        page.until_text("#train-device-name", "No GPU").await;
        page.until_text("#train-device-name", "Why:").await;
        // How much has come is told while it comes, and not more often than it can be seen.
        let told = page.js(HOW_MUCH_CAME, vec![]).await;
        let told: Vec<[f64; 2]> = serde_json::from_value(told).expect("pairs of megabytes");
        assert!((5..=40).contains(&told.len()) && told.is_sorted(), "{told:?}");
        assert!(told.iter().all(|[came, whole]| came <= whole && *whole == told[0][1] && *whole > 1.0), "{told:?}");
        page.until_text_for("#train-progress", "Step 0 of 60", 300).await;
        // How long it will take is said before it begins.
        page.until_text_for("#train-progress", "from the first to the last", 120).await;
        page.until_text("#train-pace", "ms on the CPU. It computes what WebGPU would").await;
        // Before the first step other choices hold at once, and can be taken back.
        page.set("#train-steps", "30").await;
        page.until_text("#train-progress", "Step 0 of 30").await;
        page.click("#undo").await;
        page.until_value("#train-steps", "60").await;
        page.set("#train-steps", "20").await;
        page.until_text("#train-progress", "Step 0 of 20; about").await;
        assert_eq!(page.js(ASKS, vec![]).await, json!(false), "nothing was trained yet");
        assert_eq!(page.text("#train-pause").await, "", "nothing is seen yet");
        page.click("#train-play").await;
        page.until_text_for("#train-progress", "left", 120).await;
        page.until_text("#train-progress", "tokens a second").await;
        page.click("#train-play").await;
        page.until_text("#train-play", "Play").await;
        // A pause says what is seen, with the numbers of this run.
        page.until_text("#train-pause", "under the schedule").await;
        for part in ["under uniform LoRA", "the gradient of uniform LoRA is largest in", "times that of", "Answer now"]
        {
            page.until_text("#train-pause", part).await;
        }
        let step = page.text("#live-gradient-norms h2").await;
        assert!(step.starts_with("Gradient norms at step "), "{step}");
        page.click("#live-gradient-norms summary").await;
        page.until_text("#live-gradient-norms thead", "norm of the last step").await;
        page.click("#train-answer").await;
        page.until_text_for("#train-pause", "where the untouched model had", 120).await;
        assert_eq!(page.js(ASKS, vec![]).await, json!(false), "a page that is loaded again finds it");
        let losses = "return [...document.querySelectorAll('#training-loss tbody tr')].map(r => r.textContent)";
        page.click("#training-loss summary").await;
        let before = page.js(losses, vec![]).await;
        assert_ne!(before, json!([]));
        page.reload().await;
        page.until_text_for("#train-events", "which this browser kept", 120).await;
        page.until_text_for("#train-pace", "ms on the CPU", 120).await;
        page.until_value("#train-steps", "20").await;
        // Nobody chose anything here.
        page.until_count("#undo[disabled]", 1).await;
        page.click("#training-loss summary").await;
        assert_eq!(page.js(losses, vec![]).await, before);
        page.click("#train-play").await;
        page.until_text_for("#train-progress", "Step 20 of 20", 300).await;
        page.until_text_for("#train-pause", "Whether a schedule is better takes many seeds", 120).await;
        page.until_text_for("#train-pause", "where the untouched model had", 120).await;

        page.until_text_for("#train-pause", "Of 120 questions about 24 pictures that neither was trained on", 120)
            .await;

        // What was learned is taken away.
        let log = page.saved(async || page.click_text("button", "Save the log").await).await;
        assert!(log.starts_with("{\"hydra_grads\":1") && log.lines().count() == 21, "{log:.200}");
        let losses = page.saved(async || page.click("#training-loss [aria-label$='as CSV']").await).await;
        assert_eq!(losses.lines().count(), 21, "{losses}");
        let adapter = page.saved(async || page.click("#adapter-1").await).await;
        // The first of its files.
        assert!(adapter.contains("\"peft_type\": \"LORA\""), "{adapter:.200}");
        page.reload().await;
        page.until_text_for("#train-progress", "Step 20 of 20", 120).await;
        page.until_text_for("#train-pause", "Whether a schedule is better takes many seeds", 120).await;
        page.set("#train-steps", "30").await;
        page.until_text(".controls", "they hold from the next start on").await;
        page.click("#log-to-analysis").await;
        page.click("#tab-analyse").await;
        page.until_text("#report, .session", "steps from").await;
        page.until_count("#schedule rect[data-module]", 42).await;
    });
}

#[test]
fn a_training_that_the_browser_does_not_keep_goes_on_and_is_not_left_without_a_question() {
    on_the_page_without_tls("#v=1&sample=tiny-mobilevlm&view=train", async |page| {
        page.until_text_for("#train-pace", "ms on the CPU", 120).await;
        page.set("#train-steps", "12").await;
        page.until_text("#train-progress", "Step 0 of 12; about").await;
        // It goes on behind another tab.
        page.choose("#train-speed", "500").await;
        page.js(TELL_WHILE_HIDDEN, vec![]).await;
        page.click("#train-play").await;
        page.behind_another_tab(async |other| {
            let told = |step: usize| format!("return String(localStorage.getItem('told')).includes('Step {step} of')");
            // From a step on that was taken while it was hidden.
            other.until_true("return /Step [1-6] of/.test(localStorage.getItem('told'))", 120).await;
            other.until_true(&told(12), 240).await;
        })
        .await;
        page.until_text_for("#train-pause", "Whether a schedule is better takes many seeds", 120).await;
        assert_eq!(page.js(ASKS, vec![]).await, json!(true));
    });
}
