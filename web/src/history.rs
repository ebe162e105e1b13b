//! Taking back, and again: over everything that decides what is seen.

use hydra_playground::session::Session;
use leptos::prelude::*;

use crate::page::Page;

/// Most sessions that can be taken back.
const MOST: usize = 60;
/// Changes that follow each other faster are one, in milliseconds: a slider on its way.
const TOGETHER: f64 = 500.0;

/// The sessions before and after the one that is shown; a context.
#[derive(Clone, Copy)]
pub struct History {
    past: RwSignal<Vec<Session>>,
    future: RwSignal<Vec<Session>>,
    /// What is shown because it was taken back, and no change of its own.
    moved_to: StoredValue<Option<Session>>,
}

impl History {
    /// Keeps the sessions that this signal holds.
    pub fn of(session: RwSignal<Session>) -> Self {
        let history = Self { past: RwSignal::default(), future: RwSignal::default(), moved_to: StoredValue::new(None) };
        Effect::new(move |before: Option<(Session, f64)>| {
            let now = session.get();
            let Some((before, last)) = before else { return (now, 0.0) };
            if before == now {
                return (now, last);
            }
            let mut moved = false;
            history.moved_to.update_value(|to| moved = to.take().as_ref() == Some(&now));
            if moved {
                return (now, 0.0);
            }
            let time = js_sys::Date::now();
            if time - last > TOGETHER {
                history.past.update(|past| {
                    past.push(before);
                    if past.len() > MOST {
                        past.remove(0);
                    }
                });
            }
            if history.future.with_untracked(|future| !future.is_empty()) {
                history.future.set(Vec::new());
            }
            (now, time)
        });
        history
    }

    /// Whether there is something to take back, or to take back again.
    pub fn can_go(self, forward: bool) -> bool {
        if forward { self.future } else { self.past }.with(|stack| !stack.is_empty())
    }

    /// Takes the last change back, or again.
    pub fn go(self, page: Page, forward: bool) {
        let (from, to) = if forward { (self.future, self.past) } else { (self.past, self.future) };
        let Some(session) = from.try_update(Vec::pop).flatten() else { return };
        to.update(|stack| stack.push(page.session.get_untracked()));
        self.moved_to.set_value(Some(session.clone()));
        page.selected.set(None);
        page.session.set(session);
    }
}
