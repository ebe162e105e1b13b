//! What the browser checks need around them.

pub mod browser;
pub mod page;
pub mod server;
