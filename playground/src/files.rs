//! Files and folders that are dropped: which of their files are read, and as what.
//!
//! A file is known by its path: its name, or its place in a folder that was dropped, from that folder's own name on, with
//! `/` between the parts.

use hydra_shared::gradients::{AIM_FOLDER, DEEPEST, LAST_VALUES, is_hidden, is_read_first, may_be_log, reading_order};

/// What was dropped: files and folders, by their names.
pub fn given(paths: &[String]) -> Vec<String> {
    let mut given: Vec<String> = Vec::new();
    for path in paths {
        let name = path.split_once('/').map_or(path.as_str(), |(folder, _)| folder);
        if !given.iter().any(|known| known == name) {
            given.push(name.to_owned());
        }
    }
    given
}

/// The folder of a file below the folder that was dropped; empty for a file that was dropped itself or lies directly in that.
pub fn folder_of(path: &str) -> &str {
    let below = path.split_once('/').map_or("", |(_, below)| below);
    below.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// How far a file lies from what was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It was dropped itself.
    Itself,
    /// It lies directly in a folder that was dropped.
    Directly,
    /// It lies in a folder below one that was dropped.
    Deeper,
    /// It is passed over, as hidden files are, and what lies too deep.
    Hidden,
    /// It is part of aim's repository, which is not read.
    Aim,
}

/// Where a file lies.
pub fn place(path: &str) -> Place {
    let parts: Vec<&str> = path.split('/').collect();
    let folders = parts.split_last().map_or(&[][..], |(_, folders)| folders);
    if folders.iter().take(2).any(|folder| *folder == AIM_FOLDER) {
        return Place::Aim;
    }
    let hidden = parts.iter().skip(1).any(|part| is_hidden(part));
    match folders.len() {
        _ if hidden => Place::Hidden,
        0 => Place::Itself,
        1 => Place::Directly,
        depth if depth <= DEEPEST + 1 => Place::Deeper,
        _ => Place::Hidden,
    }
}

/// Which files are read as a log, in the order in which they are read. Of a folder those directly in it are, as `trainer plan`
/// does it; `deeper`, those of the folders below it, too.
pub fn logs<'a>(paths: impl IntoIterator<Item = (usize, &'a str)>, deeper: bool) -> Vec<usize> {
    let paths: Vec<(usize, &str)> = paths.into_iter().collect();
    let (last, all) = LAST_VALUES;
    let holds_all = |folder: &str| {
        let inside = |path: &str| path.strip_prefix(folder).is_some_and(|below| below.starts_with(all));
        folder.ends_with('/') && paths.iter().any(|(_, path)| inside(path))
    };
    let is_read = |path: &str| match place(path) {
        Place::Itself => true,
        _ if path.strip_suffix(last).is_some_and(holds_all) => false,
        Place::Directly | Place::Deeper if deeper => may_be_log(path.rsplit('/').next().unwrap_or(path)),
        Place::Directly => true,
        Place::Deeper | Place::Hidden | Place::Aim => false,
    };
    let mut files: Vec<(usize, &str)> = paths.iter().copied().filter(|(_, path)| is_read(path)).collect();
    files.sort_by(|(_, a), (_, b)| is_read_first(b).cmp(&is_read_first(a)).then_with(|| reading_order(a, b)));
    files.into_iter().map(|(file, _)| file).collect()
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use super::*;

    fn read(paths: &[&'static str], deeper: bool) -> Vec<&'static str> {
        logs(paths.iter().copied().enumerate(), deeper).into_iter().map(|file| paths[file]).collect()
    }

    #[test]
    fn of_a_folder_the_files_directly_in_it_are_read_and_deeper_ones_only_where_these_do_not_do() {
        let paths =
            ["run/b/x.csv", "run/z.csv", "run/model.png", "own.png", "run/.hidden/x.csv", "run/b/.x", "run/b/a.bin"];
        assert_eq!(read(&paths, false), ["own.png", "run/model.png", "run/z.csv"]);
        assert_eq!(read(&paths, true), ["own.png", "run/z.csv", "run/b/x.csv"]);
    }

    #[test]
    fn what_says_what_other_files_hold_is_read_before_them() {
        assert_eq!(read(&["log/a/1.log", "log/b/runs.swanlab"], true), ["log/b/runs.swanlab", "log/a/1.log"]);
    }

    #[test]
    fn dvclives_last_values_are_not_read_beside_all_of_them() {
        let all = "run/plots/metrics/loss.tsv";
        assert_eq!(read(&["run/metrics.json", all], true), [all]);
        assert_eq!(read(&["run/metrics.json", "run/other/metrics.json"], false), ["run/metrics.json"]);
    }

    #[test]
    fn files_and_folders_are_called_as_they_were_dropped() {
        let paths = ["mlruns/0/ab/metrics/x", "mlruns/0/ab/metrics/y", "own.csv"].map(str::to_owned);
        assert_eq!(given(&paths), ["mlruns", "own.csv"]);
        assert_eq!(["own.csv", "run/x.csv", "run/a/b/x.csv"].map(folder_of), ["", "", "a/b"]);
    }

    #[test]
    fn an_aim_repository_is_known_by_its_folder() {
        assert_eq!(place(".aim/meta/x"), Place::Aim);
        assert_eq!(place("repo/.aim/meta/x"), Place::Aim);
        assert_eq!(place("repo/a/.aim/x"), Place::Hidden);
        assert_eq!(place(".own.csv"), Place::Itself);
        assert_eq!(place(&format!("{}x", "d/".repeat(DEEPEST + 2))), Place::Hidden);
    }
}
