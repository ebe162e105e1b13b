//! Ray clusters, through the Jobs interface of their dashboard (REST, Ray 2.x). Ray places and runs jobs; new attempts, time
//! limits and the order of trials are the submitter's, as Ray's documentation leaves them to whoever submits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use hydra_shared::shell::word;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::{Answer, End, Engine, Fault, Job, NOT_HERE, NOT_SHARED, Resources, State, Unshared, script};
use crate::error::{Kind, failure};

/// Where a cluster that was begun with `ray start --head` listens.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8265";
/// What Ray's own programs read the address of the Jobs interface from, in their order.
const ADDRESS_VARIABLES: [&str; 2] = ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"];
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nodes that are asked for: all of any cluster.
const MOST_NODES: usize = 10_000;
/// Why no job begins where `too_small` is so.
const TOO_SMALL: &str =
    "no node that is up holds what a trial needs (--trial-cpus, --trial-gpus, --trial-memory, --trial-resource)";
/// What Ray counts memory in.
const GIB: f64 = (1_u64 << 30) as f64;

/// A Ray cluster.
pub struct Ray {
    agent: Agent,
    /// Without a slash at its end; it may have a path, behind a proxy.
    address: String,
    token: Option<String>,
    needs: Needs,
    /// Jobs that were handed over and are not known to be over.
    open: BTreeSet<String>,
    /// Whether none of the nodes that are up holds what a job needs, whatever else runs there.
    too_small: bool,
}

/// What a job asks Ray for.
#[derive(Debug, Clone, PartialEq)]
struct Needs {
    cpus: f64,
    gpus: f64,
    memory: u64,
    custom: Vec<(String, f64)>,
}

impl Needs {
    fn new(resources: &Resources) -> Self {
        let gpus = resources.gpus.unwrap_or(0.0);
        Self {
            // Ray runs any number of jobs that ask for nothing at once.
            cpus: resources.cpus.unwrap_or(if gpus > 0.0 { 0.0 } else { 1.0 }),
            gpus,
            memory: (resources.memory.unwrap_or(0.0) * GIB) as u64,
            custom: resources.custom.iter().map(|(name, amount)| (name.clone(), *amount)).collect(),
        }
    }

    /// How many such jobs a node holds.
    fn on(&self, node: &Node) -> usize {
        let has = |name: &str| node.resources_total.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let fixed = [("CPU", self.cpus), ("GPU", self.gpus), ("memory", self.memory as f64)];
        let custom = self.custom.iter().map(|(name, amount)| (name.as_str(), *amount));
        let needed = fixed.into_iter().chain(custom).filter(|(_, amount)| *amount > 0.0);
        // Ray counts in ten-thousandths; 1e-9 only makes up for the division.
        needed.map(|(name, amount)| (has(name) / amount + 1e-9).floor() as usize).min().unwrap_or(usize::MAX)
    }
}

#[derive(Debug, Deserialize)]
struct Node {
    state: String,
    #[serde(default)]
    resources_total: serde_json::Map<String, Value>,
}

/// What Ray says of a job.
#[derive(Debug, Deserialize)]
struct JobInfo {
    status: String,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    error_type: Option<String>,
    #[serde(default)]
    driver_exit_code: Option<i32>,
    #[serde(default)]
    metadata: Option<serde_json::Map<String, Value>>,
}

impl Ray {
    /// Connects to the cluster at an address, or the one that Ray's own programs would take.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an address that is none, plain HTTP to another machine without `insecure`, a token that is refused;
    /// [`Kind::TryAgain`] where nothing answers; [`Kind::Data`] where no Ray does.
    pub fn connect(address: Option<&str>, insecure: bool, resources: &Resources) -> Result<Self> {
        let named = ADDRESS_VARIABLES.iter().find_map(|name| {
            // RAY_ADDRESS may also be that of a cluster's own protocol.
            std::env::var(name).ok().filter(|value| value.starts_with("http"))
        });
        let text = address.map(str::to_owned).or(named).unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let address = parse(&text, insecure)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            // A token belongs to one host.
            .max_redirects(0);
        let ray = Self {
            agent: config.build().into(),
            address,
            token: token()?,
            needs: Needs::new(resources),
            open: BTreeSet::new(),
            too_small: false,
        };
        match ray.version() {
            Ok(()) => Ok(ray),
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Unreachable(why)) => {
                let message = format!(
                    "--executor ray: {why}; is the cluster up (`ray start --head`), and is this its dashboard?"
                );
                Err(failure(Kind::TryAgain, message))
            }
        }
    }

    fn version(&self) -> Answer<()> {
        let mut answer = self.get("api/version")?;
        let text = self.text(&mut answer)?;
        let version: Option<Value> = serde_json::from_str(&text).ok();
        if version.is_some_and(|version| version["ray_version"].is_string()) {
            return Ok(());
        }
        let message = format!(
            "--executor ray: {} answers ({}), but is no Ray dashboard; give ray:URL, the address that `ray start --head` prints \
             for it",
            self.address,
            answer.status()
        );
        Err(failure(Kind::Data, message).into())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    fn get(&self, path: &str) -> Answer<Response<Body>> {
        let mut request = self.agent.get(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answered(request.call())
    }

    fn post(&self, path: &str, body: &Value) -> Answer<Response<Body>> {
        let mut request = self.agent.post(self.url(path)).header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answered(request.send(body.to_string()))
    }

    /// An answer of this Ray, or why there is none.
    fn answered(&self, answer: Result<Response<Body>, ureq::Error>) -> Answer<Response<Body>> {
        let answer =
            answer.map_err(|error| Fault::Unreachable(format!("{} cannot be reached: {error}", self.address)))?;
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let what = if self.token.is_some() { "refuses the token" } else { "wants a token" };
                let message = format!(
                    "--executor ray: {} {what} ({}); RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names, or \
                     ~/.ray/auth_token must hold the cluster's (`ray get-auth-token` prints it there)",
                    self.address,
                    answer.status()
                );
                Err(failure(Kind::Usage, message).into())
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Err(Fault::Unreachable(format!("{} answers {}", self.address, answer.status())))
            }
            _ => Ok(answer),
        }
    }

    fn text(&self, answer: &mut Response<Body>) -> Answer<String> {
        let read = answer.body_mut().read_to_string();
        read.map_err(|error| Fault::Unreachable(format!("{} broke off its answer: {error}", self.address)))
    }

    /// A job, if there is one of that name.
    fn info(&self, id: &str) -> Answer<Option<JobInfo>> {
        let mut answer = self.get(&format!("api/jobs/{id}"))?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = self.text(&mut answer)?;
        match serde_json::from_str(&text) {
            Ok(info) if status.is_success() => Ok(Some(info)),
            _ => {
                Err(Fault::Unreachable(format!("{} answers {status} about {id}: {}", self.address, first_line(&text))))
            }
        }
    }

    fn submit_one(&mut self, job: &Job) -> Answer<()> {
        script::write(job)?;
        let folder = job.folder.path().to_string_lossy().into_owned();
        let mut body = json!({
            "entrypoint": format!("sh -c {}", word(&script::line(job))),
            "submission_id": job.id,
            "entrypoint_num_cpus": self.needs.cpus,
            "entrypoint_num_gpus": self.needs.gpus,
            "metadata": { "hydra_trial": job.folder.trial().to_string(), "hydra_folder": folder },
        });
        if self.needs.memory > 0 {
            body["entrypoint_memory"] = self.needs.memory.into();
        }
        if !self.needs.custom.is_empty() {
            body["entrypoint_resources"] = json!(self.needs.custom.iter().cloned().collect::<BTreeMap<_, _>>());
        }
        let mut answer = self.post("api/jobs/", &body)?;
        let status = answer.status();
        if status.is_success() {
            self.open.insert(job.id.clone());
            return Ok(());
        }
        let text = self.text(&mut answer)?;
        // An id that is taken already answers 500, as much else does: so it is looked up.
        let refused = || {
            let message = format!(
                "trial {}: {} does not take the job: {status}: {}",
                job.folder.trial(),
                self.address,
                first_line(&text)
            );
            Fault::Refused(failure(Kind::Failure, message))
        };
        match self.info(&job.id)? {
            None if status.is_server_error() => {
                Err(Fault::Unreachable(format!("{} answers {status} to a job: {}", self.address, first_line(&text))))
            }
            None => Err(refused()),
            Some(info) => {
                let its =
                    info.metadata.as_ref().and_then(|metadata| metadata.get("hydra_folder")).and_then(Value::as_str);
                if its != Some(&folder) {
                    return Err(refused());
                }
                self.open.insert(job.id.clone());
                Ok(())
            }
        }
    }
}

/// The address, where it is one that may be spoken with.
fn parse(text: &str, insecure: bool) -> Result<String> {
    let wrong = |what: &str| failure(Kind::Usage, format!("--executor ray:{text}: {what}"));
    let no_address =
        |what: &dyn std::fmt::Display| wrong(&format!("no address ({what}); for example {DEFAULT_ADDRESS}"));
    let uri: Uri = text.parse().map_err(|error: ureq::http::uri::InvalidUri| no_address(&error))?;
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(no_address(&"http:// is missing"));
    };
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(no_address(&"nothing follows host, port and path, and no name precedes them"));
    }
    let number: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let here = host == "localhost" || number.is_some_and(|number| number.is_loopback());
    match scheme {
        "https" => {}
        "http" if here || insecure => {}
        "http" => {
            return Err(wrong(
                "plain HTTP to another machine: whoever is in between may read the token and have commands run; use https, a \
                 tunnel (ssh -L 8265:localhost:8265 HEAD, then ray:http://127.0.0.1:8265), or --insecure in a network that you \
                 trust",
            ));
        }
        _ => {
            return Err(wrong(
                "http:// or https:// is needed, the address of the dashboard rather than of ray:// clients",
            ));
        }
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The token, from where Ray's own programs take it.
fn token() -> Result<Option<String>> {
    if let Some(token) = std::env::var("RAY_AUTH_TOKEN").ok().filter(|token| !token.trim().is_empty()) {
        return Ok(Some(token.trim().to_owned()));
    }
    if let Some(path) = std::env::var_os("RAY_AUTH_TOKEN_PATH").filter(|path| !path.is_empty()) {
        let path = std::path::PathBuf::from(path);
        let token = std::fs::read_to_string(&path)
            .map_err(|error| failure(Kind::Usage, format!("RAY_AUTH_TOKEN_PATH names {}: {error}", path.display())))?;
        return Ok(Some(token.trim().to_owned()));
    }
    let home = std::env::home_dir().map(|home| home.join(".ray/auth_token"));
    Ok(home.and_then(|path| std::fs::read_to_string(path).ok()).map(|token| token.trim().to_owned()))
}

/// How a job is, from what Ray says of it; `too_small` are all nodes that are up.
fn state(info: &JobInfo, too_small: bool) -> State {
    let message = || first_line(info.message.as_deref().unwrap_or_default());
    let never_began = || if too_small { format!("{}; {TOO_SMALL}", message()) } else { message() };
    let ended = match (info.status.as_str(), info.driver_exit_code) {
        ("PENDING", _) => return State::Waiting,
        ("RUNNING", _) => return State::Running,
        ("SUCCEEDED", _) => End::Exited(0),
        ("STOPPED", _) => End::Lost("it was stopped in Ray".to_owned()),
        (_, Some(NOT_SHARED)) => End::NotShared(Unshared::Trials),
        (_, Some(NOT_HERE)) => End::NotShared(Unshared::Here),
        // Python's number of a signal.
        (_, Some(code)) if code < 0 => End::Killed(format!("signal {}", -code)),
        (_, Some(code)) => End::Exited(code),
        _ => {
            let kind = info.error_type.as_deref().unwrap_or_default();
            if kind.contains("START_TIMEOUT") { End::NeverBegan(never_began()) } else { End::Lost(message()) }
        }
    };
    State::Ended(ended)
}

/// The first line that says something, of a text that may be a page or a traceback.
fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no text");
    line.chars().take(300).collect()
}

impl Engine for Ray {
    fn room(&mut self) -> Answer<usize> {
        let mut answer = self.get(&format!("api/v0/nodes?detail=1&limit={MOST_NODES}"))?;
        let text = self.text(&mut answer)?;
        let found: Option<Value> = serde_json::from_str(&text).ok();
        let nodes = found.and_then(|found| serde_json::from_value(found["data"]["result"]["result"].clone()).ok());
        let nodes: Vec<Node> = nodes.ok_or_else(|| {
            Fault::Unreachable(format!("{} does not tell its nodes: {}", self.address, first_line(&text)))
        })?;
        let alive = nodes.iter().filter(|node| node.state == "ALIVE");
        let fit = alive.map(|node| self.needs.on(node)).fold(0_usize, usize::saturating_add);
        self.too_small = fit == 0;
        // One may always wait, so that a cluster without nodes that grows begins to.
        Ok(fit.max(1).saturating_sub(self.open.len()))
    }

    fn hindrance(&self) -> Option<&'static str> {
        self.too_small.then_some(TOO_SMALL)
    }

    fn is_free(&mut self, _job: &Job) -> Answer<bool> {
        Ok(true)
    }

    fn submit(&mut self, jobs: &[Job]) -> Answer<()> {
        jobs.iter().try_for_each(|job| self.submit_one(job))
    }

    fn look(&mut self, jobs: &[&Job]) -> Answer<Vec<State>> {
        let mut states = Vec::with_capacity(jobs.len());
        for job in jobs {
            let state = self.info(&job.id)?.map_or(State::Unknown, |info| state(&info, self.too_small));
            match state {
                State::Waiting | State::Running => self.open.insert(job.id.clone()),
                State::Unknown | State::Ended(_) => self.open.remove(&job.id),
            };
            states.push(state);
        }
        Ok(states)
    }

    fn stop(&mut self, job: &Job) -> Answer<()> {
        self.post(&format!("api/jobs/{}/stop", job.id), &Value::Null).map(drop)
    }

    fn release(&mut self, job: &Job) {
        self.open.remove(&job.id);
    }

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(200), Duration::from_secs(5))
    }

    fn file_delay(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn outlives(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        format!("Ray at {}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;

    fn info(text: &str) -> State {
        state(&serde_json::from_str(text).unwrap(), false)
    }

    #[test]
    fn what_ray_says_of_a_job_is_told_apart_by_who_is_to_blame() {
        let ended = |text: &str| match info(text) {
            State::Ended(end) => end,
            state => panic!("{state:?}"),
        };
        assert_eq!(info(r#"{"status": "PENDING"}"#), State::Waiting);
        assert_eq!(info(r#"{"status": "RUNNING", "driver_exit_code": null}"#), State::Running);
        assert_eq!(ended(r#"{"status": "SUCCEEDED", "driver_exit_code": 0}"#), End::Exited(0));
        assert_eq!(ended(r#"{"status": "FAILED", "driver_exit_code": 3}"#), End::Exited(3));
        assert_eq!(ended(r#"{"status": "FAILED", "driver_exit_code": 97}"#), End::NotShared(Unshared::Trials));
        assert_eq!(ended(r#"{"status": "FAILED", "driver_exit_code": 96}"#), End::NotShared(Unshared::Here));
        assert_eq!(ended(r#"{"status": "FAILED", "driver_exit_code": -9}"#), End::Killed("signal 9".to_owned()));
        let died = r#"{"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "node died"}"#;
        assert_eq!(ended(died), End::Lost("node died".to_owned()));
        let waited =
            r#"{"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "message": "too long"}"#;
        assert_eq!(ended(waited), End::NeverBegan("too long".to_owned()));
        let on_small_nodes = state(&serde_json::from_str(waited).unwrap(), true);
        assert!(matches!(on_small_nodes, State::Ended(End::NeverBegan(how)) if how.contains("too long; no node")));
        assert!(matches!(ended(r#"{"status": "STOPPED"}"#), End::Lost(_)));
    }

    #[test]
    fn jobs_that_fit_a_node_are_counted_by_its_scarcest_resource() {
        let node: Node = serde_json::from_value(json!({
            "state": "ALIVE",
            "resources_total": { "CPU": 8.0, "GPU": 1.0, "memory": 4.0 * GIB, "disk": 0.3 },
        }))
        .unwrap();
        let fits = |resources: Resources| Needs::new(&resources).on(&node);
        assert_eq!(fits(Resources::default()), 8, "a core, where nothing is said");
        assert_eq!(fits(Resources { gpus: Some(0.25), ..Resources::default() }), 4);
        assert_eq!(fits(Resources { cpus: Some(2.0), memory: Some(1.5), ..Resources::default() }), 2);
        let custom = |name: &str| Resources { custom: [(name.to_owned(), 0.1)].into(), ..Resources::default() };
        assert_eq!((fits(custom("disk")), fits(custom("tpu"))), (3, 0));
    }

    #[test]
    fn plain_http_goes_to_this_machine_alone_unless_it_is_allowed() {
        for address in ["http://127.0.0.1:8265", "http://[::1]:8265", "http://localhost:8265", "https://head:8265"] {
            parse(address, false).unwrap();
        }
        parse("http://head:8265", true).unwrap();
        for (address, part) in [
            ("http://head:8265", "plain HTTP to another machine"),
            ("http://127.0.0.1.example:8265", "plain HTTP to another machine"),
            ("ray://head:10001", "http:// or https:// is needed"),
            ("head", "no address"),
            ("http://me:word@127.0.0.1:8265", "no name precedes"),
        ] {
            let error = parse(address, false).unwrap_err();
            assert_eq!(kind_of(&error), Kind::Usage);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
