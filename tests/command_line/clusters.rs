//! Searches whose trials run on a cluster: a real Ray of two nodes, and a real Slurm of one, set up here and disturbed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use hydra_tests::skip_cluster;

use crate::experiment::{GROUPS, SMALL, results};
use crate::outside::{
    TRAIN, arguments, folder, gradient_log, interrupt, resume, search, study, trained, trials, wait_for,
};
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

/// Kills every process whose command line holds all of `words`.
fn kill(words: &[&str]) -> usize {
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if !line.is_empty() && words.iter().all(|word| line.contains(word)) {
            let id = entry.file_name().into_string().unwrap();
            assert!(Command::new("kill").args(["-9", &id]).status().unwrap().success());
            killed += 1;
        }
    }
    killed
}

/// A Ray cluster of a head without a CPU and nodes of one CPU each, which wants a token.
struct RayCluster {
    ray: PathBuf,
    port: u16,
    dashboard: u16,
    temp: tempfile::TempDir,
    processes: Processes,
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl RayCluster {
    fn start(ray: PathBuf) -> Result<Self, String> {
        // Ray's sockets lie in it, and the path of a socket is short.
        let temp = tempfile::Builder::new().prefix("ray").tempdir_in("/tmp").unwrap();
        let mut cluster =
            Self { ray, port: free_port(), dashboard: free_port(), temp, processes: Processes(Vec::new()) };
        let head = [
            "--head".to_owned(),
            "--num-cpus=0".to_owned(),
            format!("--port={}", cluster.port),
            format!("--dashboard-port={}", cluster.dashboard),
            format!("--temp-dir={}", cluster.temp.path().display()),
        ];
        cluster.start_node("head", &head, "api/version", "ray_version")?;
        cluster.join("first", 0)?;
        cluster.join("second", 0)?;
        Ok(cluster)
    }

    /// Adds a node that is known by the name of a resource.
    fn join(&mut self, name: &str, gpus: usize) -> Result<(), String> {
        let arguments = [
            format!("--address=127.0.0.1:{}", self.port),
            "--num-cpus=1".to_owned(),
            format!("--num-gpus={gpus}"),
            format!("--resources={{\"{name}\": 1}}"),
        ];
        self.start_node(name, &arguments, "api/v0/nodes?detail=1", &format!("\"{name}\": 1"))
    }

    /// Starts a node and waits until what the dashboard says of `path` holds a text. Ray gives a node half a minute to start,
    /// which on a machine that does much else is not always enough.
    fn start_node(&mut self, name: &str, arguments: &[String], path: &str, text: &str) -> Result<(), String> {
        let log = self.temp.path().with_extension(format!("{name}.log"));
        for _ in 0..5 {
            let mut command = Command::new(&self.ray);
            command.arg("start").args(arguments).args(["--block", "--disable-usage-stats"]);
            command.envs([("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", TOKEN)]);
            self.processes.start(&mut command, &log);
            while self.processes.0.last_mut().unwrap().try_wait().unwrap().is_none() {
                if self.get(path).is_some_and(|answer| answer.contains(text)) {
                    drop(fs::remove_file(log));
                    return Ok(());
                }
                sleep(Duration::from_millis(200));
            }
        }
        Err(format!("Ray's node {name} does not start here: {}", fs::read_to_string(log).unwrap()))
    }

    /// What the dashboard answers, if it does.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.dashboard)).ok()?;
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn executor(&self) -> String {
        format!("--executor=ray:http://127.0.0.1:{}", self.dashboard)
    }

    /// The same behind a network that is slow with the first job that is handed over: who did that hears nothing, and Ray gets
    /// the job only when it has said that it knows none.
    fn executor_with_a_late_job(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dashboard = self.dashboard;
        let forward = move |request: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", dashboard)).unwrap();
            stream.write_all(request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1).as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        };
        std::thread::spawn(move || {
            let (mut late, mut was_late) = (None, false);
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = request(&mut stream);
                if request.starts_with("POST /api/jobs/ ") && !was_late {
                    (late, was_late) = (Some(request), true);
                    continue;
                }
                let answer = forward(&request);
                if request.starts_with("GET /api/jobs/")
                    && let Some(late) = late.take()
                {
                    forward(&late);
                }
                drop(stream.write_all(&answer));
            }
        });
        format!("--executor=ray:http://127.0.0.1:{port}")
    }
}

/// A request with its body.
fn request(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    let mut bytes = [0; 4096];
    loop {
        let length = stream.read(&mut bytes).unwrap();
        request.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            assert!(length > 0, "{request}");
            continue;
        };
        let head = head.to_lowercase();
        let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if length == 0 || body.len() >= announced.parse().unwrap() {
            return request;
        }
    }
}

#[test]
fn a_search_on_ray_ends_as_one_on_this_machine_though_a_node_and_the_submitter_are_killed() {
    let Some(ray) = std::env::var_os("HYDRA_RAY") else { return skip_cluster("HYDRA_RAY names no program ray") };
    let folder = folder();
    let path = folder.path();
    let mut cluster = match RayCluster::start(ray.into()) {
        Ok(cluster) => cluster,
        Err(why) => return skip_cluster(&why),
    };
    undisturbed(path);
    let executor = cluster.executor();
    let flags = ["--gradients=grads.jsonl", "--parallel=2", FEWER, &executor];

    trainer_in(path, &arguments("refused", TRAIN, &flags), &[("RAY_AUTH_TOKEN_PATH", "config.json")]).fails(
        2,
        "usage",
        &["127.0.0.1", "the token", "RAY_AUTH_TOKEN"],
    );

    // Who submits dies while two trials run; one of them loses its node.
    let slowly = slow("5");
    let mut killed = Command::new(env!("CARGO_BIN_EXE_trainer"));
    killed.args(arguments("ray", &slowly, &flags)).current_dir(path).env("RAY_AUTH_TOKEN", TOKEN);
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("two trials at a time", || path.join("begun-0").exists() && path.join("begun-1").exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(kill(&["raylet/raylet", "second"]) > 0);
    let flags = ["search", "--resume", "runs/ray", "--json", "--trial", TRAIN];
    let resumed = trainer_in(path, &flags, &[("RAY_AUTH_TOKEN", TOKEN)]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert!(resumed.stderr.contains("was begun by an earlier search"), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("it is run again, and this is no attempt"), "{}", resumed.stderr);
    is_as_undisturbed(path, "ray");
    // What the lost node began may have gone on without it, beside the new attempt; it counts once.
    assert!((TRIALS..=TRIALS + 1).contains(&trained(path)), "{}", resumed.stderr);
    let environment = [("RAY_AUTH_TOKEN", TOKEN)];
    every_trial_counts_once_though_each_goes_wrong(path, "strange", &executor, &environment);

    let flags = ["--gradients=grads.jsonl", "--parallel=2", FEWER, &executor];
    let nothing = trainer_in(path, &arguments("nothing", "no-such-program {lora} {result}", &flags), &environment);
    nothing.fails(2, "usage", &["trial 0", "cannot be started there", "whole path"]);

    // Handed over a second time, which Ray answers as it answers a fault of its own.
    fs::remove_file(path.join("trained.txt")).unwrap();
    let late = cluster.executor_with_a_late_job();
    let run = trainer_in(path, &arguments("late", TRAIN, &[&flags[..3], &[&late]].concat()), &environment);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("does not know it"), "{}", run.stderr);
    is_as_undisturbed(path, "late");
    assert_eq!(trained(path), TRIALS, "no trial was begun twice");

    // No node has what a trial needs. Whoever waits for one is stopped, and goes on when there is one.
    fs::write(path.join("needs.sh"), "echo \"$CUDA_VISIBLE_DEVICES\" >> devices.txt\nexec sh train.sh \"$1\" \"$2\"\n")
        .unwrap();
    let needs = ["--trial-gpus=0.5", "--trial-memory=0.0625", "--trial-resource=large=0.5"];
    let flags = [&flags[..], &needs[..]].concat();
    let (mut waiting, said) = begin(path, "needs", "sh needs.sh {schedule} {result}", &flags, &environment);
    wait_for("what is missing", || says(&said, "no node that is up holds what a trial needs"));
    wait_for("a job that waits", || cluster.get("api/jobs/").is_some_and(|jobs| jobs.contains("\"PENDING\"")));
    interrupt(&mut waiting);
    cluster.join("large", 1).unwrap();
    let resumed = trainer_in(path, &["search", "--resume", "runs/needs", "--json"], &environment);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    is_as_undisturbed(path, "needs");
    let devices = fs::read_to_string(path.join("devices.txt")).unwrap();
    // Of the node with one GPU. The job that was stopped while it waited is begun all the same, and ended then.
    assert!(devices == "0\n".repeat(TRIALS) || devices == "0\n".repeat(TRIALS + 1), "{devices}");
    // Whom Ray starts a job by holds what the job needs.
    let actors = cluster.get("api/v0/actors?detail=1&limit=1000").unwrap();
    for asked in ["\"GPU\": 0.5", "\"memory\": 67108864.0", "\"large\": 0.5"] {
        assert!(actors.matches(asked).count() >= TRIALS, "{asked}: {actors}");
    }
    an_experiment_has_the_same_results(path, &executor, &environment);
}

/// A server that answers every request with this, as long as the test lasts.
fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 4096]));
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    format!("--executor=ray:http://127.0.0.1:{port}")
}

#[test]
fn an_address_without_a_ray_is_named_with_what_is_there_and_the_search_can_go_on() {
    let folder = folder();
    let path = folder.path();
    let nobody = format!("--executor=ray:http://127.0.0.1:{}", free_port());
    let page = answering("200 OK", "<html></html>");
    let closed = answering("401 Unauthorized", "Unauthorized: Missing authentication token");
    for (at, (executor, code, kind, parts)) in [
        (nobody.as_str(), 75, "try_again", &["cannot be reached", "ray start --head"][..]),
        (&page, 3, "data", &["is no Ray dashboard", "ray:URL"]),
        (&closed, 2, "usage", &["token", "RAY_AUTH_TOKEN"]),
        ("--executor=ray:http://head.example:8265", 2, "usage", &["plain HTTP to another machine", "--insecure"]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("run-{at}");
        search(path, &name, TRAIN, &[executor, "--set=search.trials=1"]).fails(code, kind, parts);
        let resumed = resume(path, &name, &["--executor=local"]);
        assert_eq!(resumed.code, 0, "{executor}: {}", resumed.stderr);
    }
    search(path, "none", TRAIN, &["--executor=kubernetes"]).fails(2, "usage", &["kubernetes", "known are local[:N]"]);
}

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
