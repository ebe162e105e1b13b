//! Serves a folder on a free port of this machine.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tiny_http::{Header, Request, Response, Server, StatusCode};

/// A running server; it stops when it is dropped.
pub struct Served {
    /// Address of the folder, with a slash at its end.
    pub url: String,
    /// How often it was asked for something.
    pub requests: Arc<AtomicUsize>,
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves `folder`.
pub fn serve(folder: &Path) -> Served {
    serve_without(folder, [])
}

/// Serves `folder`, except for files whose names end in one of `missing`.
pub fn serve_without<const N: usize>(folder: &Path, missing: [&'static str; N]) -> Served {
    assert!(folder.join("index.html").is_file(), "{} holds no page; scripts/test builds it", folder.display());
    let server = Arc::new(Server::http("127.0.0.1:0").expect("a free port"));
    let url = format!("http://{}/", server.server_addr());
    let (worker, root) = (Arc::clone(&server), folder.to_owned());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let thread = std::thread::spawn(move || {
        for request in worker.incoming_requests() {
            counted.fetch_add(1, Ordering::Relaxed);
            // Each in a thread of its own: a browser may leave an answer half read until it has another one.
            let root = root.clone();
            std::thread::spawn(move || answer(request, &root, &missing));
        }
    });
    Served { url, requests, server, thread: Some(thread) }
}

fn answer(request: Request, root: &Path, missing: &[&str]) {
    let path = file_of(root, request.url());
    // A browser that went away in the middle of an answer is not this test's business.
    let _ = match File::open(&path) {
        Ok(file) if path.is_file() && !missing.iter().any(|end| path.to_string_lossy().ends_with(end)) => {
            let header = Header::from_bytes("Content-Type", content_type(&path)).expect("a valid header");
            request.respond(Response::from_file(file).with_header(header))
        }
        _ => request.respond(Response::empty(StatusCode(404))),
    };
}

fn file_of(root: &Path, url: &str) -> PathBuf {
    let path = url.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/');
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain { root.join("index.html") } else { root.join(path) }
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
