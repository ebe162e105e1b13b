//! Reads dropped files: logs in pieces, everything else as a whole.

fn main() {
    hydra_workers::ingest::listen_for_files();
}
