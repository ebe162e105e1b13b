//! Fine-tunes the tiny MobileVLM for the page.

fn main() {
    // Natively only the library is tested.
    #[cfg(target_family = "wasm")]
    hydra_workers::training::worker::start();
}
