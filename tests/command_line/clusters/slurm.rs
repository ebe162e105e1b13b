//! A real Slurm of one node, set up here and disturbed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use hydra_tests::skip_cluster;

use super::{
    FEWER, Processes, TRIALS, an_experiment_has_the_same_results, begin, comes_true,
    every_trial_counts_once_though_each_goes_wrong, free_port, is_as_undisturbed, slow, undisturbed,
};
use crate::outside::{TRAIN, arguments, folder, interrupt, trained, wait_for};
use crate::support::trainer_in;

/// A Slurm cluster of this machine alone.
struct SlurmCluster {
    folder: tempfile::TempDir,
    processes: Processes,
}

impl SlurmCluster {
    fn start() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("slurm").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in ["state", "spool"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("munge.key"), [7; 1024]).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode;
        fs::set_permissions(folder.path().join("munge.key"), private(0o400)).unwrap();
        fs::set_permissions(folder.path(), private(0o755)).unwrap();
        let host = String::from_utf8(Command::new("hostname").arg("-s").output().unwrap().stdout).unwrap();
        let host = host.trim();
        let [controller, node] = [free_port(), free_port()];
        let (socket, state, spool) = (at("munge.sock"), at("state"), at("spool"));
        let (log, node_log) = (at("slurmctld.log"), at("slurmd.log"));
        let (id, node_id) = (at("slurmctld.pid"), at("slurmd.pid"));
        let config = format!(
            "ClusterName=hydra\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={controller}\nSlurmdPort={node}\n\
             SlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\nAuthInfo=socket={socket}\nCredType=cred/munge\n\
             StateSaveLocation={state}\nSlurmdSpoolDir={spool}\nSlurmctldLogFile={log}\nSlurmdLogFile={node_log}\n\
             SlurmctldPidFile={id}\nSlurmdPidFile={node_id}\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             MpiDefault=none\nSlurmdTimeout=20\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nReturnToService=2\nMaxArraySize=2\n\
             SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\nPartitionName=p Nodes={host} Default=YES State=UP\n"
        );
        fs::write(folder.path().join("slurm.conf"), config).unwrap();
        let mut processes = Processes(Vec::new());
        let mut munge = Command::new("munged");
        munge.args(["--foreground", "--force", "--num-threads=1"]).args(
            [
                ("key-file", "munge.key"),
                ("socket", "munge.sock"),
                ("pid-file", "munge.pid"),
                ("seed-file", "munge.seed"),
            ]
            .map(|(name, file)| format!("--{name}={}", at(file))),
        );
        processes.start(&mut munge, &folder.path().join("munge.out"));
        if !comes_true(|| Path::new(&socket).exists()) {
            return None;
        }
        let mut cluster = Self { folder, processes };
        cluster.start_daemon("slurmctld", &["slurmctld", "-D"]);
        cluster.start_daemon("slurmd", &["slurmd", "-D"]);
        cluster.has_node("idle").then_some(cluster)
    }

    fn start_daemon(&mut self, name: &str, words: &[&str]) {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("SLURM_CONF", self.config());
        self.processes.start(&mut command, &self.folder.path().join(name));
    }

    /// Whether its node comes into a state within a minute.
    fn has_node(&self, state: &str) -> bool {
        comes_true(|| {
            let nodes =
                Command::new("sinfo").args(["-h", "-o", "%t"]).env("SLURM_CONF", self.config()).output().unwrap();
            nodes.stdout.starts_with(state.as_bytes())
        })
    }

    /// Kills everything on the node, as if its power went: the daemon, its steps, and what they run.
    fn kill_node(&self) -> usize {
        let config = format!("SLURM_CONF={}", self.config());
        let mut killed = 0;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let of = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let environment = of("environ");
            let is_its = environment.split(|byte| *byte == 0).any(|variable| variable == config.as_bytes());
            if is_its && !of("comm").starts_with(b"slurmctld") {
                killed += 1;
                drop(Command::new("kill").args(["-9", &entry.file_name().to_string_lossy()]).status());
            }
        }
        killed
    }

    fn config(&self) -> String {
        self.folder.path().join("slurm.conf").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).env("SLURM_CONF", self.config()).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_search_on_slurm_ends_as_one_on_this_machine_though_a_task_the_node_and_the_submitter_are_killed() {
    if std::env::var_os("HYDRA_SLURM").is_none() {
        return skip_cluster("HYDRA_SLURM names no program slurmctld");
    }
    let folder = folder();
    let path = folder.path();
    let Some(mut cluster) = SlurmCluster::start() else { return skip_cluster("Slurm does not start here") };
    let config = cluster.config();
    let environment = [("SLURM_CONF", config.as_str())];
    undisturbed(path);
    let flags =
        ["--gradients=grads.jsonl", "--parallel=2", FEWER, "--executor=slurm:--comment='of a test'", "--trial-cpus=1"];

    let nowhere = [&flags[..2], &["--executor=slurm:--partition=nowhere"]].concat();
    let refused = trainer_in(path, &arguments("refused", TRAIN, &nowhere), &environment);
    refused.fails(2, "usage", &["sbatch", "partition", "--executor slurm:OPTIONS"]);

    let slowly = slow("3");
    let mut killed = Command::new(env!("CARGO_BIN_EXE_trainer"));
    killed.args(arguments("slurm", &slowly, &flags)).current_dir(path).envs(environment);
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("two trials at a time", || path.join("begun-0").exists() && path.join("begun-1").exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    // Somebody's hand ends one of the two, which then has left no exit code, and the other dies with its node.
    let tasks = cluster.run("squeue", &["-h", "-r", "-o", "%F_%K"]);
    cluster.run("scancel", &["--signal=KILL", "--full", tasks.lines().last().unwrap()]);
    assert!(cluster.kill_node() >= 3, "daemon, step and command");
    assert!(cluster.has_node("down"), "the controller hears nothing of it for SlurmdTimeout");
    cluster.start_daemon("slurmd", &["slurmd", "-D"]);
    let flags = ["search", "--resume", "runs/slurm", "--json", "--trial", TRAIN];
    let resumed = trainer_in(path, &flags, &environment);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert!(resumed.stderr.contains("was begun by an earlier search"), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("it is run again, and this is no attempt"), "{}", resumed.stderr);
    is_as_undisturbed(path, "slurm");
    assert_eq!(trained(path), TRIALS, "{}", resumed.stderr);
    let executor = "--executor=slurm:--comment='of a test'";
    every_trial_counts_once_though_each_goes_wrong(path, "strange", executor, &environment);

    // Whoever waits for a node is stopped, and goes on when there is one.
    let host = cluster.run("sinfo", &["-h", "-N", "-o", "%N"]).trim().to_owned();
    let node = format!("NodeName={host}");
    cluster.run("scontrol", &["update", &node, "State=DRAIN", "Reason=test"]);
    let flags = ["--gradients=grads.jsonl", "--parallel=2", FEWER, executor, "--trial-cpus=1"];
    let (mut waiting, _) = begin(path, "waiting", TRAIN, &flags, &environment);
    wait_for("tasks that wait", || cluster.run("squeue", &["-h", "-r", "-o", "%T"]).matches("PENDING").count() == 2);
    interrupt(&mut waiting);
    cluster.run("scontrol", &["update", &node, "State=RESUME"]);
    let resumed = trainer_in(path, &["search", "--resume", "runs/waiting", "--json"], &environment);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    is_as_undisturbed(path, "waiting");
    an_experiment_has_the_same_results(path, executor, &environment);

    // A node that does not see the folder of the trials.
    cluster.kill_node();
    let hidden = format!("mount -t tmpfs none {} && exec slurmd -D", path.display());
    cluster.start_daemon("slurmd", &["unshare", "--mount", "sh", "-c", &hidden]);
    assert!(cluster.has_node("idle"));
    trainer_in(path, &arguments("unshared", TRAIN, &flags), &environment).fails(
        2,
        "usage",
        &["trial 0", "has no folder", "--runs FOLDER"],
    );
    cluster.kill_node();
    cluster.start_daemon("slurmd", &["slurmd", "-D"]);
    assert!(cluster.has_node("idle"));
    let resumed = trainer_in(path, &["search", "--resume", "runs/unshared", "--json"], &environment);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    is_as_undisturbed(path, "unshared");
}
