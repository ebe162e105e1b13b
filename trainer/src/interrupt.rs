//! Ctrl-C and SIGTERM: long commands stop at the next step with their state saved.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::error::{Kind, failure};
use crate::output::write_stderr;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts listening. The first signal asks the command to stop at its next step; the second one ends the program at
/// once, with what was last saved.
///
/// # Errors
/// A system that refuses to install the handler.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            process::exit(i32::from(Kind::Interrupted.code()));
        }
        write_stderr(&"\nstopping at the next step; once more ends at once");
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether a stop was asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// An error of kind [`Kind::Interrupted`] that says how to go on.
pub fn interrupted(how_to_go_on: &str) -> anyhow::Error {
    failure(Kind::Interrupted, format!("interrupted; the state was saved. Go on with: {how_to_go_on}"))
}
