//! Parallel work on several things.

/// The results of `work` on every item, natively in Rayon's threads, in which Burn's kernels run too: from a thread of another
/// kind each of them would wait for the pool. Items share nothing, so that the results do not depend on it. Without the features
/// that bring Rayon one after the other.
pub(crate) fn par_map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Send + Sync) -> Vec<R> {
    #[cfg(all(not(target_family = "wasm"), any(feature = "performance", feature = "vlm")))]
    {
        use rayon::prelude::*;
        // Of many small items several at a time: to wake a thread takes as long as one of them.
        let at_once = items.len() / (16 * rayon::current_num_threads());
        items.par_iter().with_min_len(at_once.max(1)).map(work).collect()
    }
    #[cfg(not(all(not(target_family = "wasm"), any(feature = "performance", feature = "vlm"))))]
    items.iter().map(work).collect()
}
