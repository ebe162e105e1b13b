//! Work on several things at once.

/// Works on every part, natively in threads: parts share nothing, so that the results do not depend on it.
pub(super) fn side_by_side<P: Sync, T: Send>(parts: &[P], work: impl Fn(&P) -> T + Send + Sync) -> Vec<T> {
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        parts.par_iter().map(work).collect()
    }
    #[cfg(target_family = "wasm")]
    parts.iter().map(work).collect()
}
