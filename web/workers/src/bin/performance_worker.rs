//! The worker of the page's search view: fits performance models while the page stays free.

use std::cell::RefCell;
use std::rc::Rc;

use hydra_playground::messages::performance::{Progress, Reply, Request};
use hydra_shared::search::Timestamp;
use hydra_workers::performance::{Live, LiveError};
use hydra_workers::{listen, reply};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &JsValue, milliseconds: u32);
}

/// What the worker has in hand.
#[derive(Default)]
struct Desk {
    id: u32,
    live: Option<Live>,
    /// Pause between two steps, while it runs by itself.
    pause: Option<u32>,
    /// Whether the next step is on its way already.
    timed: bool,
}

fn main() {
    let desk = Rc::new(RefCell::new(Desk::default()));
    listen(move |request: Request, _| match request {
        Request::Begin(begin) => {
            let (started, id) = (js_sys::Date::now(), begin.id);
            let timed = desk.borrow().timed;
            let (live, answered) = match Live::new(*begin, now()) {
                Ok(live) => {
                    let progress = live.progress();
                    (Some(live), Ok(progress))
                }
                Err(error) => (None, Err(error)),
            };
            *desk.borrow_mut() = Desk { id, live, pause: None, timed };
            answer(id, started, answered);
        }
        Request::Step => {
            desk.borrow_mut().pause = None;
            step(&desk);
        }
        Request::Run { pause } => {
            desk.borrow_mut().pause = Some(pause);
            time(&desk, 0);
        }
        Request::Stop => desk.borrow_mut().pause = None,
        // A score that is refused leaves the study as it is.
        Request::Tell { number, scores } => change(&desk, |live| live.tell(number, scores, now())),
        Request::TakeBack => change(&desk, Live::take_back),
    });
}

/// Changes what is known of a study, and says where it stands then.
fn change(desk: &RefCell<Desk>, change: impl FnOnce(&mut Live) -> Result<(), LiveError>) {
    let started = js_sys::Date::now();
    let mut at = desk.borrow_mut();
    let id = at.id;
    let Some(live) = at.live.as_mut() else { return };
    let answered = change(live).map(|()| live.progress());
    answer(id, started, answered);
}

/// The time.
fn now() -> Timestamp {
    Timestamp::from_unix_micros((js_sys::Date::now() * 1000.0) as i64)
}

/// Steps after a while. Messages are taken in between, so that a stop is heard.
fn time(desk: &Rc<RefCell<Desk>>, milliseconds: u32) {
    if std::mem::replace(&mut desk.borrow_mut().timed, true) {
        return;
    }
    let later = Rc::clone(desk);
    let callback = Closure::once_into_js(move || {
        later.borrow_mut().timed = false;
        if later.borrow().pause.is_none() {
            return;
        }
        step(&later);
        // The pause may have been changed by now, or the search be over.
        let pause = later.borrow().pause;
        if let Some(pause) = pause {
            time(&later, pause);
        }
    });
    set_timeout(&callback, milliseconds);
}

fn step(desk: &Rc<RefCell<Desk>>) {
    let started = js_sys::Date::now();
    let (id, answered) = {
        let mut at = desk.borrow_mut();
        let Some(live) = at.live.as_mut() else {
            at.pause = None;
            return;
        };
        let answered = live.step().map(|()| live.progress());
        if live.is_over() || answered.is_err() {
            at.pause = None;
        }
        (at.id, answered)
    };
    answer(id, started, answered);
}

fn answer(id: u32, started: f64, answered: Result<Progress, LiveError>) {
    reply(&match answered {
        Ok(mut progress) => {
            progress.milliseconds = js_sys::Date::now() - started;
            Reply::Progress(Box::new(progress))
        }
        Err(error) => Reply::Failed { id, message: error.to_string() },
    });
}
