//! What fitting the performance model and proposing takes in WebAssembly, for `bench/search_wasm`: no test of anything.
//!
//! On Node, whose environment names the case, trials × layers and the model: `HYDRA_SEARCH_CASE="16x24 transformer"`.

#![cfg(all(target_family = "wasm", feature = "performance"))]
#![allow(clippy::unwrap_used, reason = "a measurement fails loudly")]

use hydra_shared::performance::ModelKind;
use hydra_shared::search::made_up_study;
use hydra_shared::vlm::spec::ModelSpec;
use js_sys::Date;
use wasm_bindgen_test::{console_log, wasm_bindgen_test};

#[wasm_bindgen_test]
#[ignore = "bench/search_wasm runs it"]
fn figures() {
    let given = js_sys::eval("process.env.HYDRA_SEARCH_CASE").unwrap().as_string();
    let case = given.as_deref().unwrap_or("16x24 transformer");
    let (size, model) = case.split_once(' ').unwrap();
    let (trials, layers) = size.split_once('x').unwrap();
    let mut spec = ModelSpec::preset("mobilevlm-1.7b").unwrap();
    spec.decoder.layers = layers.parse().unwrap();
    let mut search =
        made_up_study(&spec.layout().unwrap(), trials.parse().unwrap(), 4, ModelKind::from_name(model).unwrap())
            .unwrap();
    let started = Date::now();
    search.ask().unwrap();
    console_log!("SECONDS {}", (Date::now() - started) / 1000.0);
}
