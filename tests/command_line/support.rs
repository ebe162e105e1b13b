//! Running the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hydra_tests::named_by;
use serde_json::Value;

/// What one run of the program gave.
pub struct Run {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// The one JSON document on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.stdout, self.stderr))
    }

    /// Checks a failure: exit code, message on standard error, and with `--json` the same in the document.
    pub fn fails(&self, code: i32, kind: &str, parts: &[&str]) {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        let document = self.json();
        assert_eq!(document["error"]["code"], code);
        assert_eq!(document["error"]["kind"], kind);
        let message = document["error"]["message"].as_str().unwrap();
        for part in parts {
            assert!(message.contains(part), "{part:?} is missing in: {message}");
            assert!(self.stderr.contains(part), "{part:?} is missing in: {}", self.stderr);
        }
    }
}

/// Runs `trainer` in `folder`, without any HYDRA variable of the caller's.
pub fn trainer_in(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HYDRA_") {
            command.env_remove(name);
        }
    }
    let output: Output =
        command.args(arguments).envs(environment.iter().copied()).current_dir(folder).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `trainer` in an empty folder and requires that it left nothing there.
pub fn trainer(arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let run = trainer_in(folder.path(), arguments, &[]);
    assert!(names(folder.path()).is_empty(), "left behind: {:?}", names(folder.path()));
    run
}

/// Names of everything in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A file of `static/samples`.
pub fn sample(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "static", "samples", name].iter().collect();
    assert!(path.exists(), "{}", path.display());
    path.to_string_lossy().into_owned()
}

/// A folder of `tests/command_line/cases`: small inputs as people have them.
pub fn case(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/command_line/cases").join(name);
    assert!(path.is_dir(), "{}", path.display());
    path
}

/// A file or folder of `tests/reference`.
pub fn reference(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(path);
    assert!(path.exists(), "{}", path.display());
    path
}

/// A file's bytes.
pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Python with torch, transformers and PEFT, of the oldest versions that are supported and of current ones; a skip for each
/// that `scripts/test` could not set up.
pub fn pythons() -> Vec<PathBuf> {
    ["HYDRA_PYTHON", "HYDRA_PYTHON_CURRENT"]
        .into_iter()
        .filter_map(|variable| named_by(variable, "Python with torch, transformers and peft"))
        .collect()
}

/// Runs a script of `tests/python`.
pub fn run_python(python: &Path, script: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
