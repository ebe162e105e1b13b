//! Headless Chromium, driven through chromedriver.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use serde_json::{Value, json};

/// What every browser of the tests is started with.
const FLAGS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
];

/// A browser with an empty profile.
pub struct Browser {
    /// The session.
    pub client: Client,
    driver: Driver,
    _profile: tempfile::TempDir,
}

/// chromedriver; killed when dropped, and with it the browser.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Browser {
    /// Starts chromedriver on a free port and a browser with these further flags in it.
    pub async fn start(flags: &[&str]) -> Self {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver (Debian: chromium-driver)");
        let output = child.stdout.take().expect("a pipe");
        let driver = Driver(child);
        let mut lines = BufReader::new(output).lines();
        let port: u16 = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok())
            .expect("chromedriver names its port");
        // Keep reading, or chromedriver stops at a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));

        let profile = tempfile::tempdir().expect("a folder for the profile");
        let of_profile = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = FLAGS.iter().chain(flags).copied().chain([of_profile.as_str()]).collect();
        let capabilities = json!({
            "browserName": "chrome",
            "timeouts": { "script": 300_000, "pageLoad": 60_000 },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object was written above") };
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("a browser session");
        Self { client, driver, _profile: profile }
    }

    /// Loads the first page. Once in a while Chromium, just started on a busy machine, never tells chromedriver that it has
    /// loaded one: it is asked a second time, and has to then.
    pub async fn open(&self, address: &str) {
        if let Err(error) = self.client.goto(address).await {
            eprintln!("{address} is loaded once more, after: {error}");
            self.client.goto(address).await.expect("a page that loads");
        }
    }

    /// Messages of the console that are warnings or errors, uncaught exceptions and failed requests included.
    pub async fn problems(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("WARNING" | "SEVERE"));
        // What the browser itself says where it has no GPU; the page says it too.
        let of_browser =
            |entry: &&Value| entry["message"].as_str().is_some_and(|m| m.ends_with("No available adapters."));
        entries.iter().filter(bad).filter(|e| !of_browser(e)).map(|entry| entry["message"].to_string()).collect()
    }

    /// Addresses of everything that the page asked for.
    pub async fn requests(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        for entry in self.log("performance").await {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default()).unwrap_or_default();
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let address = event["message"]["params"]["request"]["url"].as_str();
                addresses.push(address.unwrap_or_default().to_owned());
            }
        }
        assert!(!addresses.is_empty(), "the page itself is missing among the requests");
        addresses
    }

    /// Ends the session, then chromedriver.
    pub async fn stop(self) {
        let _ = self.client.close().await;
        drop(self.driver);
    }

    async fn log(&self, kind: &'static str) -> Vec<Value> {
        let answer = self.client.issue_cmd(ReadLog(kind)).await.expect("the browser's log");
        answer.as_array().cloned().unwrap_or_default()
    }
}

/// Chromedriver's own command for reading a log.
#[derive(Debug)]
struct ReadLog(&'static str);

impl WebDriverCompatibleCommand for ReadLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": self.0 }).to_string()))
    }
}

/// Chromedriver's own command for the browser's developer tools: its method and parameters.
#[derive(Debug)]
pub struct DevTools(pub &'static str, pub Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "cmd": self.0, "params": self.1 }).to_string()))
    }
}
