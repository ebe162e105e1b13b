//! The page as a person handles it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fantoccini::{Client, Locator};
use hydra_tests::named_by;
use serde_json::{Value, json};

use super::browser::{Browser, DevTools};
use super::server::{Served, serve, serve_without};

/// How long anything may take to appear: these machines are slow, and busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `check` in a browser on the page, then requires that the page logged no error and asked no other server.
pub fn on_the_page<F: AsyncFnOnce(&Page<'_>)>(check: F) {
    on_the_page_at("", &[], check);
}

/// [`on_the_page`] with something after the page's address, and flags for the browser.
pub fn on_the_page_at<F: AsyncFnOnce(&Page<'_>)>(after: &str, flags: &[&str], check: F) {
    let Some(folder) = named_by("HYDRA_PAGE", "folder of the built page") else { return };
    let server = serve(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let browser = Browser::start(flags).await;
        browser.open(&format!("{}{after}", server.url)).await;
        let page = Page::new(&browser.client, &server);
        page.until_count("html[data-ready]", 1).await;
        check(&page).await;
        let problems = browser.problems().await;
        let requests = browser.requests().await;
        browser.stop().await;
        assert!(problems.is_empty(), "the console shows: {problems:#?}");
        for request in requests {
            // The browser's own start page has chrome:// addresses.
            let own = ["data:", "blob:", "chrome://"].iter().any(|scheme| request.starts_with(scheme));
            assert!(own || request.starts_with(&server.url), "asked for {request}");
        }
    });
}

/// Runs `check` in a browser on a page that lacks the files whose names end in one of `missing`.
pub fn on_the_page_without<const N: usize, F: AsyncFnOnce(&Page<'_>)>(missing: [&'static str; N], check: F) {
    let Some(folder) = named_by("HYDRA_PAGE", "folder of the built page") else { return };
    let server = serve_without(&folder, missing);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let browser = Browser::start(&[]).await;
        browser.open(&server.url).await;
        check(&Page::new(&browser.client, &server)).await;
        browser.stop().await;
    });
}

/// Runs `check` in a browser on the page as another machine without TLS would serve it, where a browser keeps nothing for workers.
pub fn on_the_page_without_tls<F: AsyncFnOnce(&Page<'_>)>(after: &str, check: F) {
    let Some(folder) = named_by("HYDRA_PAGE", "folder of the built page") else { return };
    let server = serve(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let browser = Browser::start(&["--host-resolver-rules=MAP plain.test 127.0.0.1"]).await;
        browser.open(&format!("{}{after}", server.url.replace("127.0.0.1", "plain.test"))).await;
        let page = Page::new(&browser.client, &server);
        page.until_count("html[data-ready]", 1).await;
        assert_eq!(page.js("return isSecureContext", vec![]).await, json!(false));
        check(&page).await;
        browser.stop().await;
    });
}

/// The page in a browser.
pub struct Page<'a> {
    client: &'a Client,
    requests: Arc<AtomicUsize>,
}

impl<'a> Page<'a> {
    /// The page that the client is on, and who serves it.
    pub fn new(client: &'a Client, server: &Served) -> Self {
        Self { client, requests: Arc::clone(&server.requests) }
    }

    /// Runs a script and gives back what it returns.
    pub async fn js(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a script that calls its last argument when it is done.
    pub async fn js_async(&self, script: &str) -> Value {
        self.client.execute_async(script, vec![]).await.unwrap()
    }

    /// The text of the first element, as it is seen; of a picture, its name and texts.
    pub async fn text(&self, css: &str) -> String {
        let script = "const e = document.querySelector(arguments[0]); \
                      return e ? (e.innerText ?? (e.getAttribute('aria-label') + ' ' + e.textContent)) : ''";
        self.js(script, vec![json!(css)]).await.as_str().unwrap_or_default().to_owned()
    }

    /// The value of an input.
    pub async fn value(&self, css: &str) -> String {
        let value = self.js("return document.querySelector(arguments[0]).value", vec![json!(css)]).await;
        value.as_str().unwrap_or_default().to_owned()
    }

    /// The text of a file to take away, as the page shows it.
    pub async fn exported(&self, file: &str) -> String {
        self.click(&format!("button[aria-label='Show {file}']")).await;
        self.until(&format!("the text of {file}"), async || {
            let (name, text) = (self.text("label[for=export-text]").await, self.value("#export-text").await);
            (name == file && text != "Loading…", text)
        })
        .await;
        self.value("#export-text").await
    }

    /// How many elements there are.
    pub async fn count(&self, css: &str) -> u64 {
        let count = self.js("return document.querySelectorAll(arguments[0]).length", vec![json!(css)]).await;
        count.as_u64().unwrap()
    }

    /// Whether an element takes any room in the page.
    pub async fn is_seen(&self, css: &str) -> bool {
        let script = "return document.querySelector(arguments[0])?.getClientRects().length > 0";
        self.js(script, vec![json!(css)]).await == true
    }

    /// Waits until there are so many elements.
    pub async fn until_count(&self, css: &str, count: u64) {
        self.until(&format!("{count} × {css}"), async || {
            let now = self.count(css).await;
            (now == count, now.to_string())
        })
        .await;
    }

    /// Waits until an input has this value.
    pub async fn until_value(&self, css: &str, value: &str) {
        let check = async || {
            let seen = self.value(css).await;
            (seen == value, seen)
        };
        self.until(&format!("{value:?} in {css}"), check).await;
    }

    /// Waits until an element's text holds a part.
    pub async fn until_text(&self, css: &str, part: &str) {
        self.until(&format!("\"{part}\" in {css}"), async || {
            let texts = self
                .js(
                    "return [...document.querySelectorAll(arguments[0])].map(e => (e.getAttribute('aria-label') ?? '') + ' ' + \
                     e.textContent).join('\\n')",
                    vec![json!(css)],
                )
                .await;
            let texts = texts.as_str().unwrap_or_default().to_owned();
            (texts.contains(part), texts)
        })
        .await;
    }

    /// [`Self::until_text`] for something that takes long.
    pub async fn until_text_for(&self, css: &str, part: &str, seconds: u64) {
        let start = Instant::now();
        while !self.text(css).await.contains(part) {
            assert!(start.elapsed().as_secs() < seconds, "\"{part}\" in {css}: {}", self.text("main").await);
            self.wait(200).await;
        }
    }

    /// Waits until the address holds a part.
    pub async fn until_link(&self, part: &str) {
        self.until(&format!("{part} in the address"), async || {
            let link = self.link().await;
            (link.contains(part), link)
        })
        .await;
    }

    async fn until(&self, what: &str, check: impl AsyncFn() -> (bool, String)) {
        let start = Instant::now();
        loop {
            let (done, seen) = check().await;
            if done {
                return;
            }
            if start.elapsed() > PATIENCE {
                let notices = self.text(".notices").await;
                panic!("waited in vain for {what}; seen: {seen}; notices: {notices}");
            }
            self.wait(50).await;
        }
    }

    /// Waits.
    pub async fn wait(&self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    /// Waits until the service worker is there and nothing is being loaded any more.
    pub async fn settle(&self) {
        let ready = "const done = arguments[0]; navigator.serviceWorker.ready.then(() => done(true))";
        self.js_async(ready).await;
        self.wait(500).await;
    }

    /// What follows `#` in the address.
    pub async fn link(&self) -> String {
        self.js("return location.hash", vec![]).await.as_str().unwrap_or_default().to_owned()
    }

    /// How many things the page and its service worker asked the network for.
    pub fn requests_so_far(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits until the pictures, which grow from frame to frame, are whole.
    async fn drawn(&self) {
        let mut before = 0;
        for _ in 0..100 {
            let now = self.count("svg *").await;
            if now == before {
                return;
            }
            before = now;
            self.wait(150).await;
        }
    }

    /// What a person sees of the state: the ranks, the budget, the controls.
    pub async fn seen(&self) -> Value {
        self.drawn().await;
        self.js(
            "const cells = [...document.querySelectorAll('#schedule text[data-module]')].map(e => e.textContent); \
             return { ranks: cells.join(' '), budget: document.querySelector('#budget-text').textContent, \
             source: document.querySelector('#source-name').textContent, \
             controls: [...document.querySelectorAll('.controls input, .controls select')].map(e => e.id + '=' + (e.type === 'checkbox' \
             ? e.checked : e.value)).join(' ') }",
            vec![],
        )
        .await
    }

    /// Waits until a script returns true.
    pub async fn until_true(&self, script: &str, seconds: u64) {
        let start = Instant::now();
        while self.js(script, vec![]).await != true {
            assert!(start.elapsed().as_secs() < seconds, "{script}");
            self.wait(200).await;
        }
    }

    /// Loads the page again.
    pub async fn reload(&self) {
        self.client.refresh().await.unwrap();
        self.until_count("html[data-ready]", 1).await;
    }

    /// Clicks an element.
    pub async fn click(&self, css: &str) {
        self.until(&format!("{css} to be there"), async || (self.count(css).await > 0, String::new())).await;
        // An event instead of the mouse: a cell may lie under the budget that stays in sight.
        let script = "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'}); \
                      e.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true, view: window}))";
        self.js(script, vec![json!(css)]).await;
        self.wait(30).await;
    }

    /// Clicks the element of that text.
    pub async fn click_text(&self, css: &str, text: &str) {
        let script = "const e = [...document.querySelectorAll(arguments[0])].find(e => e.textContent.trim() === arguments[1]); \
                      if (!e) return false; e.click(); return true";
        self.until(&format!("{css} \"{text}\""), async || {
            (self.js(script, vec![json!(css), json!(text)]).await == true, String::new())
        })
        .await;
        self.wait(30).await;
    }

    /// Gives an input a value, as a person who moves it and leaves it.
    pub async fn set(&self, css: &str, value: &str) {
        self.until(&format!("{css} to be there"), async || (self.count(css).await > 0, String::new())).await;
        let script = "const e = document.querySelector(arguments[0]); e.value = arguments[1]; \
                      e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true}))";
        self.js(script, vec![json!(css), json!(value)]).await;
        self.wait(30).await;
    }

    /// Draws with the mouse from one place of an element to another, each given as shares of its width and height.
    pub async fn drag(&self, css: &str, from: (f64, f64), to: (f64, f64)) {
        let script = "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'}); \
                      const at = ([x, y]) => { const b = e.getBoundingClientRect(); \
                      return {clientX: b.left + x * b.width, clientY: b.top + y * b.height}; }; \
                      const tell = (kind, place) => e.dispatchEvent(new PointerEvent(kind, {bubbles: true, cancelable: true, \
                      pointerType: 'mouse', button: 0, ...at(place)})); \
                      tell('pointerdown', arguments[1]); tell('pointermove', arguments[2]); tell('pointerup', arguments[2])";
        self.js(script, vec![json!(css), json!(from), json!(to)]).await;
        self.wait(30).await;
    }

    /// Chooses of a list.
    pub async fn choose(&self, css: &str, value: &str) {
        self.set(css, value).await;
    }

    /// Types into an element.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().send_keys(text).await.unwrap();
    }

    /// Puts the focus onto an element.
    pub async fn focus(&self, css: &str) {
        self.js("document.querySelector(arguments[0]).focus()", vec![json!(css)]).await;
    }

    /// Presses a key where the focus is.
    pub async fn press(&self, key: &str) {
        use fantoccini::key::Key;

        let code = match key {
            "Tab" => Key::Tab,
            "Escape" => Key::Escape,
            "ArrowLeft" => Key::Left,
            "ArrowRight" => Key::Right,
            "ArrowUp" => Key::Up,
            "ArrowDown" => Key::Down,
            other if other.chars().count() == 1 => return self.type_keys(&[], other.chars().next().unwrap()).await,
            other => panic!("no such key here: {other}"),
        };
        self.type_keys(&[], char::from(code)).await;
    }

    /// Presses a letter together with the control key, and the shift key.
    pub async fn press_control(&self, letter: char, shift: bool) {
        use fantoccini::key::Key;

        let held: &[Key] = if shift { &[Key::Control, Key::Shift] } else { &[Key::Control] };
        self.type_keys(&held.iter().map(|key| char::from(*key)).collect::<Vec<_>>(), letter).await;
    }

    async fn type_keys(&self, held: &[char], value: char) {
        use fantoccini::actions::{InputSource, KeyAction, KeyActions};

        let mut press = KeyActions::new("keyboard".to_owned());
        for &value in held {
            press = press.then(KeyAction::Down { value });
        }
        press = press.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        for &value in held {
            press = press.then(KeyAction::Up { value });
        }
        self.client.perform_actions(press).await.unwrap();
        self.wait(20).await;
    }

    /// The text of the file that is saved next: what is done meanwhile saves it.
    pub async fn saved(&self, act: impl AsyncFnOnce()) -> String {
        let keep = "window.kept = null; const make = URL.createObjectURL; \
                    URL.createObjectURL = blob => { window.kept = blob; URL.createObjectURL = make; return make.call(URL, blob); }";
        self.js(keep, vec![]).await;
        act().await;
        self.until("a file to be saved", async || {
            (self.js("return !!window.kept", vec![]).await == true, String::new())
        })
        .await;
        let text = self.js_async("const done = arguments[0]; window.kept.text().then(done)").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Moves the pointer over an element.
    pub async fn hover(&self, css: &str) {
        let script = "const e = document.querySelector(arguments[0]); const r = e.getBoundingClientRect(); \
                      e.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: r.x + 1, clientY: r.y + 1}))";
        self.js(script, vec![json!(css)]).await;
    }

    /// Drops files onto the page.
    pub async fn drop_files(&self, files: &[(&str, &[u8])]) {
        let files: Vec<Value> = files.iter().map(|(name, bytes)| json!([name, STANDARD.encode(bytes)])).collect();
        let script = "const data = new DataTransfer(); \
                      for (const [name, text] of arguments[0]) \
                        data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name)); \
                      document.body.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data}))";
        self.js(script, vec![json!(files)]).await;
    }

    /// Drops a folder of this machine onto the page.
    pub async fn drop_folder(&self, folder: &Path) {
        let files = [folder.canonicalize().unwrap()];
        let data = json!({ "items": [], "files": files, "dragOperationsMask": 1 });
        for kind in ["dragEnter", "dragOver", "drop"] {
            let event = json!({ "type": kind, "x": 200, "y": 200, "data": data });
            self.client.issue_cmd(DevTools("Input.dispatchDragEvent", event)).await.unwrap();
        }
    }

    /// Picks a file in the file dialog.
    pub async fn pick(&self, path: &Path) {
        self.pick_together(&[path]).await;
    }

    /// Picks several files at once.
    pub async fn pick_together(&self, paths: &[&Path]) {
        let paths: Vec<_> = paths.iter().map(|path| path.canonicalize().unwrap().display().to_string()).collect();
        let input = self.client.find(Locator::Css("#picker")).await.unwrap();
        input.send_keys(&paths.join("\n")).await.unwrap();
    }

    /// Does something in another tab of the same address, which hides this one, and comes back.
    pub async fn behind_another_tab(&self, act: impl AsyncFnOnce(&Self)) {
        let own = self.client.window().await.unwrap();
        let address = self.client.current_url().await.unwrap();
        let other = self.client.new_window(true).await.unwrap();
        self.client.switch_to_window(other.handle).await.unwrap();
        // Another document of the same origin, without the page's program.
        self.client.goto(address.join("/help.html").unwrap().as_str()).await.unwrap();
        act(self).await;
        self.client.close_window().await.unwrap();
        self.client.switch_to_window(own).await.unwrap();
    }

    /// Touches an element with a finger.
    pub async fn touch(&self, css: &str) {
        let script = "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'}); \
                      const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]";
        let at = self.js(script, vec![json!(css)]).await;
        let tap = json!({ "x": at[0], "y": at[1], "gestureSourceType": "touch" });
        self.client.issue_cmd(DevTools("Input.synthesizeTapGesture", tap)).await.unwrap();
        self.wait(100).await;
    }

    /// Gives the window another size.
    pub async fn resize(&self, width: u32, height: u32) {
        self.client.set_window_size(width, height).await.unwrap();
        self.wait(300).await;
    }

    /// Saves a picture of the whole page at a width.
    pub async fn screenshot(&self, width: u32, file: &Path) {
        self.resize(width, 900).await;
        let height = self.js("return Math.ceil(document.documentElement.scrollHeight)", vec![]).await;
        let height = u32::try_from(height.as_u64().unwrap()).unwrap();
        // The window is a little higher than the page in it.
        self.resize(width, height + 150).await;
        self.js("window.scrollTo(0, 0)", vec![]).await;
        self.save_window(file).await;
        self.client.set_window_size(1280, 1000).await.unwrap();
    }

    /// Saves a picture of what the window shows.
    pub async fn save_window(&self, file: &Path) {
        std::fs::write(file, self.client.screenshot().await.unwrap()).unwrap();
    }
}
