//! Reads dropped files as the ingest worker does, and binary logs, whose readers are large.

fn main() {
    hydra_workers::ingest::listen_for_files();
}
