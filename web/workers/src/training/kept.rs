//! A run as the browser keeps it, so that a page that is loaded again goes on with it.

use hydra_playground::messages::training::TrainingSetup;
use serde::{Deserialize, Serialize};

use super::trainer::{Measured, Snapshot};

/// A run between two steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptRun {
    /// What it was made from, as JSON.
    setup: String,
    /// What its steps measured.
    pub measured: Vec<Measured>,
    /// Its state after them.
    pub snapshot: Snapshot,
}

impl KeptRun {
    /// A run of a setup.
    pub fn new(setup: &TrainingSetup, measured: Vec<Measured>, snapshot: Snapshot) -> Self {
        Self { setup: text_of(setup), measured, snapshot }
    }

    /// As bytes; none where there is no memory for them.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        postcard::to_allocvec(self).ok()
    }

    /// From bytes; none where they are no run of this setup, whose beginning is `fresh`.
    pub fn from_bytes(bytes: &[u8], setup: &TrainingSetup, fresh: &Snapshot) -> Option<Self> {
        let (run, rest): (Self, _) = postcard::take_from_bytes(bytes).ok()?;
        let steps = run.measured.iter().map(|measured| measured.step).eq(1..=run.snapshot.step);
        (rest.is_empty() && steps && run.setup == text_of(setup) && run.snapshot.fits(fresh)).then_some(run)
    }
}

fn text_of(setup: &TrainingSetup) -> String {
    // Numbers and names always have a text.
    serde_json::to_string(setup).unwrap_or_default()
}

#[cfg(target_family = "wasm")]
pub use in_browser::{find, keep};

#[cfg(target_family = "wasm")]
mod in_browser {
    use hydra_playground::messages::training::NamedRun;
    use js_sys::Uint8Array;
    use wasm_bindgen::prelude::*;
    use wasm_bindgen_futures::JsFuture;
    use web_sys::{Cache, CacheStorage, Response};

    use super::{KeptRun, Snapshot};
    use crate::scope;

    /// Where the browser keeps runs. The service worker deletes what begins with `hydra-` when the page is renewed.
    const CACHE: &str = "kept-training";
    /// Most that are kept, of two megabytes each: those of some tabs, and the last ones of each.
    const MOST: u32 = 16;

    async fn cache() -> Result<Cache, JsValue> {
        // There is none where the page comes from another machine without TLS.
        let caches: CacheStorage = js_sys::Reflect::get(&scope(), &"caches".into())?.dyn_into()?;
        Ok(JsFuture::from(caches.open(CACHE)).await?.unchecked_into())
    }

    fn address(name: u32) -> String {
        format!("./kept-run?{name}")
    }

    /// Keeps a run; says whether the browser did, which it need not.
    pub async fn keep(name: u32, run: &KeptRun) -> bool {
        async fn put(name: u32, mut bytes: Vec<u8>) -> Result<(), JsValue> {
            let cache = cache().await?;
            let response = Response::new_with_opt_u8_array(Some(&mut bytes))?;
            JsFuture::from(cache.put_with_str(&address(name), &response)).await?;
            let kept: js_sys::Array = JsFuture::from(cache.keys()).await?.unchecked_into();
            for oldest in kept.iter().take(kept.length().saturating_sub(MOST) as usize) {
                JsFuture::from(cache.delete_with_request(oldest.unchecked_ref())).await?;
            }
            Ok(())
        }
        match run.to_bytes() {
            Some(bytes) => put(name, bytes).await.is_ok(),
            None => false,
        }
    }

    /// The run that the browser keeps, of which `fresh` is the beginning.
    pub async fn find(run: &NamedRun, fresh: &Snapshot) -> Option<KeptRun> {
        async fn get(name: u32) -> Result<Vec<u8>, JsValue> {
            let found = JsFuture::from(cache().await?.match_with_str(&address(name))).await?;
            let response: Response = found.dyn_into()?;
            Ok(Uint8Array::new(&JsFuture::from(response.array_buffer()?).await?).to_vec())
        }
        KeptRun::from_bytes(&get(run.name).await.ok()?, &run.setup, fresh)
    }
}
