//! The view Analyse: choices, pictures, links.

use serde_json::json;

use crate::support::page::{on_the_page, on_the_page_at};

#[test]
fn every_control_changes_the_schedule_and_the_link_leads_back_to_it() {
    on_the_page(async |page| {
        page.click_text("summary", "Signal, budget, scale, seed").await;
        type Act = (&'static str, &'static str, &'static str);
        let acts: [Act; 14] = [
            ("#base-rank", "64", "r=64"),
            ("#stages", "4", "stages=4"),
            ("#ratio", "1.5", "ratio=1.5"),
            ("#delta", "6", "delta=6"),
            ("#contiguous", "on", "contiguous=1"),
            ("#seed", "9", "seed=9"),
            ("#signal", "rms", "signal=rms"),
            ("#layer-norm", "root-sum-squares", "norm=root-sum-squares"),
            ("#budget", "50000000", "budget=50000000"),
            ("#counting", "rank-units", "count=rank-units"),
            ("#cap", "300", "cap=300"),
            ("#scale", "rslora", "scale=rslora"),
            ("#scale-number", "77", "rslora%3A77"),
            ("#signs-by", "hand", "signs="),
        ];
        for (control, value, key) in acts {
            if value == "on" {
                page.click(control).await;
            } else {
                page.set(control, value).await;
            }
            page.until_link(key).await;
        }
        // Rank units are far fewer: the budget in parameters would leave everything at its cap.
        page.set("#budget", "20000").await;
        page.choose("#stage-ranks-by", "hand").await;
        page.set("#stage-ranks", "16, 32, 64, 128").await;
        page.until_link("ranks=16%2C32%2C64%2C128").await;
        page.click("#schedule rect[data-module='33']").await;
        page.set("#cell-rank", "99").await;
        page.until_link("hand=33%3A99").await;
        page.click_text("button", "Rebalance").await;
        page.until_link("rebalance=1").await;
        page.click_text("button", "Pin this schedule as A").await;
        page.until_link("pinned=").await;
        let (link, seen) = (page.link().await, page.seen().await);
        page.reload().await;
        assert_eq!(page.seen().await, seen);
        page.wait(400).await;
        assert_eq!(page.link().await, link);
    });
}

#[test]
fn a_link_with_bad_values_opens_with_a_notice_for_each() {
    on_the_page_at("#v=1&sample=smollm2&r=99999&delta=x&colour=red", &[], async |page| {
        page.until_text("#source-name", "SmolLM2").await;
        let notices = page.text(".notices").await;
        for part in ["r=99999", "1024 is used", "delta=x", "colour"] {
            assert!(notices.contains(part), "{part}: {notices}");
        }
    });
}

#[test]
fn a_cell_shows_its_arithmetic_by_mouse_and_by_keyboard() {
    on_the_page(async |page| {
        page.click("#schedule rect[data-module='161']").await;
        page.until_text("#arithmetic", "model.layers.23.self_attn.q_proj").await;
        let steps = page.text("#arithmetic").await;
        for part in
            ["Norm", "Layer norm", "Stage", "3 of 3", "Coarse rank", "is below the mean", "2,048", "of the budget"]
        {
            assert!(steps.contains(part), "{part}: {steps}");
        }
        page.focus(".cells").await;
        page.press("ArrowLeft").await;
        page.until_text("#arithmetic", "model.layers.22.self_attn.q_proj").await;
        page.press("ArrowDown").await;
        page.until_text("#arithmetic", "model.layers.22.self_attn.k_proj").await;
        page.press("Escape").await;
        page.until_text("#arithmetic", "No cell is selected").await;
    });
}

#[test]
fn ranks_set_by_hand_break_the_budget_and_one_click_mends_it() {
    on_the_page(async |page| {
        page.click("#schedule rect[data-module='0']").await;
        page.set("#cell-rank", "2000").await;
        page.until_text("#budget-text", "over the budget").await;
        page.click_text("button", "Rebalance").await;
        page.until_text("#budget-text", "left").await;
        assert!(page.text("#arithmetic").await.contains("2000 by hand"));
        page.click_text("button", "Forget ranks set by hand").await;
        page.until_text("#budget-text", "121,110,016 of").await;
    });
}

#[test]
fn k_means_can_be_played_stepped_and_scrubbed() {
    on_the_page(async |page| {
        page.set("#moment", "0").await;
        page.until_text("#k-means .caption", "drawn by K-means++").await;
        page.click("#k-means button[aria-label='One step on']").await;
        page.until_text("#k-means .caption", "goes to the mean of its layers").await;
        page.click_text("#k-means button", "Play").await;
        page.until_text("#k-means .caption", "nothing moves any more").await;
    });
}

#[test]
fn a_layer_under_the_pointer_is_marked_in_every_view() {
    on_the_page(async |page| {
        page.hover("#gradient-norms circle[data-layer='7']").await;
        page.until_count("#schedule rect.hovered", 7).await;
        assert_eq!(page.count("#k-means circle.hovered").await, 1);
        page.until_text(".tip", "Layer 7, stage").await;
        page.hover("#schedule rect[data-module='80']").await;
        page.until_text(".tip", "Layer 11, o: rank").await;
    });
}

#[test]
fn two_schedules_can_be_compared() {
    on_the_page(async |page| {
        page.choose("#pin-preset", "uniform").await;
        page.until_text("#compare-budgets", "A, uniform: 121,110,528 parameters").await;
        page.until_count("#difference rect[data-module]", 168).await;
        page.choose("#preset", "uniform").await;
        page.until_text("#compare-budgets", "B − A: +0").await;
        page.click_text("button", "Unpin").await;
        page.until_count("#difference", 0).await;
    });
}

#[test]
fn every_chart_has_its_table() {
    on_the_page(async |page| {
        for (figure, rows) in
            [("#gradient-norms", 24), ("#schedule", 24), ("#parameters-by-projection", 7), ("#k-means", 24)]
        {
            page.click(&format!("{figure} summary")).await;
            page.until_count(&format!("{figure} tbody tr"), rows).await;
        }
    });
}

#[test]
fn a_model_of_200_layers_is_shown_and_its_repaint_is_measured() {
    on_the_page(async |page| {
        let config = json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 200,
            "num_attention_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-6,
        });
        let mut log = "{\"hydra_grads\":1,\"lora\":{\"r\":16}}\n".to_owned();
        let projections =
            ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        for step in 1..=5 {
            let grads: Vec<String> = (0..200)
                .flat_map(|layer| {
                    projections.iter().enumerate().map(move |(p, name)| {
                        let b = 0.01 * (1.0 + layer as f64 * 0.02 + p as f64 * 0.3 + f64::from(step) * 0.01);
                        format!("\"model.layers.{layer}.{name}_proj\":{{\"A\":0.001,\"B\":{b}}}")
                    })
                })
                .collect();
            log += &format!("{{\"step\":{step},\"grads\":{{{}}}}}\n", grads.join(","));
        }
        page.drop_files(&[("config.json", config.to_string().as_bytes()), ("big.jsonl", log.as_bytes())]).await;
        page.until_count("#schedule rect[data-module]", 1400).await;
        let times = page.js_async(REPAINT).await;
        let paint =
            "return performance.getEntriesByName('first-contentful-paint').map(e => Math.round(e.startTime))[0]";
        println!("milliseconds to the first contentful paint: {}", page.js(paint, vec![]).await);
        println!("200 layers × 7 projections: milliseconds from an input to the next frame: {times}");

        // Its profile is too large for the address: the browser keeps it, and the page comes back with it.
        page.set("#delta", "5").await;
        page.until_link("delta=5").await;
        assert!(!page.link().await.contains("&p="));
        page.reload().await;
        page.until_text("#source-name", "big.jsonl").await;
        page.until_count("#schedule rect[data-module]", 1400).await;
        assert_eq!(page.value("#delta").await, "5");
        page.click_text("button", "MobileVLM-like profile").await;
        page.until_count("#schedule rect[data-module]", 168).await;
        page.click_text("#recent button", "big.jsonl").await;
        page.until_count("#schedule rect[data-module]", 1400).await;
        assert_eq!(page.text(".notices").await, "");
    });
}

/// Moves the slider of Δd and measures, for each move, the script's part and the time until the frame after it.
const REPAINT: &str = "
const done = arguments[0];
const slider = document.querySelector('#delta');
const script = [], frame = [];
const frames = () => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));
(async () => {
  for (let i = 0; i < 15; i++) {
    await frames();
    slider.value = String(i % 2 === 0 ? 6 : 3);
    const start = performance.now();
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await new Promise(r => setTimeout(r, 0));
    script.push(performance.now() - start);
    await new Promise(r => requestAnimationFrame(r));
    frame.push(performance.now() - start);
  }
  const median = list => list.slice().sort((a, b) => a - b)[list.length >> 1];
  done({ script: median(script), frame: median(frame) });
})();
";
