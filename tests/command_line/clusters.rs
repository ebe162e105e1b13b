//! Searches whose trials run on a cluster: real ones, and one that is computed.

mod ray;
mod slurm;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::experiment::{GROUPS, SMALL, results};
use crate::outside::{TRAIN, arguments, gradient_log, search, study, trials};
use crate::support::{read, trainer_in};

/// Trials of a search.
const TRIALS: usize = 5;
const FEWER: &str = "--set=search.trials=5";

/// What the study is to be, by trials that run here.
fn undisturbed(path: &Path) {
    gradient_log(path);
    let run = search(path, "local", TRAIN, &["--gradients=grads.jsonl", "--parallel=2", FEWER]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    fs::remove_file(path.join("trained.txt")).unwrap();
}

fn is_as_undisturbed(path: &Path, name: &str) {
    assert_eq!(trials(study(path, name)), trials(study(path, "local")));
    let best = |name: &str| read(path.join("runs").join(name).join("search/best.json"));
    assert_eq!(best(name), best("local"));
}

/// A training that leaves `begun-N` when trial N begins, and takes a while.
fn slow(seconds: &str) -> String {
    format!(
        "sh -c 'touch begun-$4; sleep {seconds}; exec sh train.sh \"$1\" \"$2\"' train {{schedule}} {{result}} {{gradients}} \
         {{trial}}"
    )
}

/// A training whose trials each go wrong once: the first never ends, the second leaves half a result, the third finds the disk
/// full, and the fourth ends twice, the second time later.
const STRANGE: &str = "\
if mkdir strange-$1; then
    case $1 in
        0) sleep 600;;
        1) printf '{\"scores\": {\"deep' > \"$3\"; exit 0;;
        2) cat \"$2\" > /dev/full || exit 28;;
        3) setsid sh -c 'sh train.sh \"$0\" twice-3; sleep 2; cp twice-3 \"$1\"' \"$2\" \"$3\" > twice.log 2>&1 &;;
    esac
fi
exec sh train.sh \"$2\" \"$3\"
";

/// Searches with [`STRANGE`] trials: the study is that of a search on this machine.
fn every_trial_counts_once_though_each_goes_wrong(
    path: &Path,
    name: &str,
    executor: &str,
    environment: &[(&str, &str)],
) {
    fs::write(path.join("strange.sh"), STRANGE).unwrap();
    let command = "sh strange.sh {trial} {schedule} {result}";
    // The limit is for the one that never ends; the others have it as well, on a machine that may do much else.
    let flags = ["--gradients=grads.jsonl", "--parallel=2", FEWER, executor, "--trial-cpus=1", "--trial-timeout=20"];
    let run = trainer_in(path, &arguments(name, command, &flags), environment);
    assert_eq!(run.code, 0, "{}", run.stderr);
    for part in ["the limit of --trial-timeout", "only half written", "exit code 28", "attempt 2 of 3"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    is_as_undisturbed(path, name);
}

/// Runs an experiment of four small fine-tunes here and on an executor: its results are the same.
fn an_experiment_has_the_same_results(path: &Path, executor: &str, environment: &[(&str, &str)]) {
    let (settings, _) = SMALL.split_once("[tuning]").unwrap();
    for name in ["here", "there"] {
        fs::write(path.join(format!("{name}.toml")), format!("{settings}{GROUPS}")).unwrap();
    }
    let here = trainer_in(path, &["experiment", "here.toml", "--json"], &[]);
    assert_eq!(here.code, 0, "{}", here.stderr);
    let flags = ["experiment", "there.toml", "--json", executor, "--parallel=2", "--trial-cpus=1"];
    let there = trainer_in(path, &flags, environment);
    assert_eq!(there.code, 0, "{}", there.stderr);
    assert_eq!(results(&path.join("there.jsonl")), results(&path.join("here.jsonl")));
}

/// A search that goes on in the background, with what it says in a file.
fn begin(path: &Path, name: &str, command: &str, flags: &[&str], environment: &[(&str, &str)]) -> (Child, PathBuf) {
    let said = path.join(format!("{name}.stderr"));
    let mut trainer = Command::new(env!("CARGO_BIN_EXE_trainer"));
    trainer.args(arguments(name, command, flags)).current_dir(path).envs(environment.iter().copied());
    (trainer.stdout(Stdio::null()).stderr(File::create(&said).unwrap()).spawn().unwrap(), said)
}

fn says(file: &Path, text: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|said| said.contains(text))
}

/// Whether something is so within a minute.
fn comes_true(is_so: impl Fn() -> bool) -> bool {
    let tried = (0..300).find(|_| {
        let so = is_so();
        if !so {
            sleep(Duration::from_millis(200));
        }
        so
    });
    tried.is_some()
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Processes that end with the test.
struct Processes(Vec<Child>);

impl Processes {
    fn start(&mut self, command: &mut Command, log: &Path) {
        let log = File::create(log).unwrap();
        self.0.push(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            // Asked first, so that it ends what it started.
            drop(Command::new("kill").arg(child.id().to_string()).status());
        }
        for child in &mut self.0 {
            let asked = std::time::Instant::now();
            while child.try_wait().unwrap().is_none() && asked.elapsed() < Duration::from_secs(20) {
                sleep(Duration::from_millis(100));
            }
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
fn on_a_computed_cluster_every_trial_is_counted_once_though_jobs_are_lost_with_their_machines() {
    let log = crate::support::sample("grad-norms.jsonl.gz");
    let cluster = |machines, trials| {
        let arguments = ["bench", "cluster", "--gradients", &log, "--machines", machines, "--trials", trials, "--json"];
        trainer_in(Path::new("."), &arguments, &[])
    };
    let measured = cluster("10", "120").json();
    let [jobs, lost, trials] = ["jobs", "lost", "trials"].map(|key| measured[key].as_u64().unwrap());
    assert!(trials == 120 && lost > 0 && jobs == trials + lost, "{measured}");
    cluster("0", "120").fails(2, "usage", &["--machines"]);
}
