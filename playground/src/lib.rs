//! What the playground shows, as plain data and pure functions. The page (`web`) turns them into elements, its workers
//! compute what takes longer than a frame.
//!
//! [`session::Session`] → [`analysis::Analysis`] → [`charts`]; [`link`] and [`export`] lead out of a session and back
//! into one; [`documents`] tells what a dropped file is, [`intake`] what it does to a session; [`messages`] is what page and workers say to each other.

pub mod analysis;
pub mod charts;
pub mod documents;
pub mod drawing;
pub mod export;
pub mod files;
pub mod intake;
pub mod link;
pub mod messages;
pub mod profile_text;
pub mod samples;
pub mod scale;
pub mod session;
pub mod table;
pub mod text;
pub mod trial_result;
