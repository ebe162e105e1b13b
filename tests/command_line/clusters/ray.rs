//! A real Ray of two nodes, set up here and disturbed; and addresses that are no Ray.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use hydra_tests::skip_cluster;

use super::{
    FEWER, Processes, TRIALS, an_experiment_has_the_same_results, begin,
    every_trial_counts_once_though_each_goes_wrong, free_port, is_as_undisturbed, says, slow, undisturbed,
};
use crate::outside::{TRAIN, arguments, folder, interrupt, resume, search, trained, wait_for};
use crate::support::trainer_in;

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
