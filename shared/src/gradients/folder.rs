//! Which files of a folder are read as a log, and in which order.
//!
//! Of a folder the files directly in it are read; where they hold no gradients
//! ([`LogProblem::may_lie_deeper`](super::LogProblem::may_lie_deeper)), those of the folders below it are, too.

use std::cmp::Ordering;

/// Folders inside one another that are looked into: deeper than those of any tracker.
pub const DEEPEST: usize = 12;
/// Most files of the folders below a folder.
pub const MOST_FILES: usize = 50_000;

/// What is said of a folder of aim's.
pub const AIM: &str = "this is an aim repository, which is not read; export the run with aim's Run.metrics() as a CSV of step, \
                       name and value";
/// The folder that makes another one aim's repository.
pub const AIM_FOLDER: &str = ".aim";

/// Endings of files beside logs that hold none, and may be large.
const NO_LOGS: [&str; 16] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "png",
    "jpg",
    "lock",
    "db-wal",
    "db-shm",
    "swanlab-wal",
    "yaml",
    "yml",
    "md",
    "py",
];

/// Files of trackers that repeat the last values of a run.
const REPEATED: [&str; 2] = ["wandb-summary.json", "_summary.json"];

/// dvclive's file of last values, and the folder beside it that holds all of them.
pub const LAST_VALUES: (&str, &str) = ("metrics.json", "plots/metrics");

/// Whether a file or folder of that name is passed over, as what programs hide is.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Whether a file of that name is read where whole trees of folders are: many of them hold something else.
pub fn may_be_log(name: &str) -> bool {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    !(NO_LOGS.contains(&ending) || REPEATED.contains(&name))
}

/// Whether a file is read before all others: swanlab's table of folders, which says what the files in them hold.
pub fn is_read_first(name: &str) -> bool {
    name.ends_with("runs.swanlab")
}

/// The order of two files of one folder, given by their paths below it with `/` between the parts: by name, and the files of
/// a folder before those of the folders in it.
pub fn reading_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('/').peekable(), b.split('/').peekable());
    loop {
        let (Some(part), Some(other)) = (a.next(), b.next()) else { return Ordering::Equal };
        let is_folder = (a.peek().is_some(), b.peek().is_some());
        let order = is_folder.0.cmp(&is_folder.1).then_with(|| part.cmp(other));
        if order != Ordering::Equal || is_folder != (true, true) {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn files_come_by_name_and_before_those_of_the_folders_beside_them() {
        let ordered = ["b.csv", "c.csv", "a/z.csv", "a/b/a.csv", "a.d/a.csv", "b/a.csv", "b/c/a.csv"];
        let mut files = ordered;
        files.reverse();
        files.sort_by(|a, b| reading_order(a, b));
        assert_eq!(files, ordered);
    }

    #[test]
    fn weights_pictures_and_summaries_are_no_logs() {
        for name in ["model.safetensors", "a.png", "wandb-summary.json", "mlflow.db-wal", "meta.yaml"] {
            assert!(!may_be_log(name), "{name}");
        }
        for name in ["run-1.wandb", "grads.jsonl.gz", "summary.json", "lock", "lora_A.weight"] {
            assert!(may_be_log(name), "{name}");
        }
    }
}
