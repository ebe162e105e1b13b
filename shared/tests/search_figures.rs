//! What fitting the performance model and proposing takes in WebAssembly, for `bench/search_wasm`: no test of anything.
//!
//! The cases are compiled in, because the runner hands no environment on: `HYDRA_SEARCH_CASES="16x24 transformer, 64x24 ridge"`,
//! trials × layers and the model.

#![cfg(all(target_family = "wasm", feature = "performance"))]
#![allow(clippy::unwrap_used, reason = "a measurement fails loudly")]

use hydra_shared::model_spec::ModelSpec;
use hydra_shared::performance::ModelKind;
use hydra_shared::search::made_up_study;
use js_sys::Date;
use wasm_bindgen_test::{console_log, wasm_bindgen_test};

#[wasm_bindgen_test]
#[ignore = "bench/search_wasm runs it"]
fn figures() {
    let cases = option_env!("HYDRA_SEARCH_CASES").unwrap_or("16x24 transformer");
    for case in cases.split(',').map(str::trim) {
        let (size, model) = case.split_once(' ').unwrap();
        let (trials, layers) = size.split_once('x').unwrap();
        let mut spec = ModelSpec::preset("mobilevlm-1.7b").unwrap();
        spec.decoder.layers = layers.parse().unwrap();
        let mut search = made_up_study(spec, trials.parse().unwrap(), 4, ModelKind::from_name(model).unwrap()).unwrap();
        let started = Date::now();
        search.next().unwrap();
        let seconds = (Date::now() - started) / 1000.0;
        console_log!(
            "FIGURE {{\"trials\": {trials}, \"layers\": {layers}, \"model\": \"{model}\", \"seconds\": {seconds}}}"
        );
    }
}
