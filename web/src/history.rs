//! Taking back, and again: over everything that a person chooses.

use hydra_playground::session::Session;
use hydra_shared::search::{SearchConfig, SyntheticConfig};
use leptos::prelude::*;

use crate::page::Page;
use crate::settings::{TrainingChoices, View};

/// Most changes that can be taken back.
const MOST: usize = 60;
/// Changes in one view that follow each other faster are one, in milliseconds: a slider on its way.
const TOGETHER: f64 = 500.0;

/// What is chosen in all views.
#[derive(Clone, PartialEq)]
struct Chosen {
    session: Session,
    search: SearchConfig,
    response: SyntheticConfig,
    training: TrainingChoices,
}

impl Chosen {
    /// What is chosen now; an effect that asks runs again after every change.
    fn now(page: Page) -> Self {
        Self {
            session: page.session.get(),
            search: page.search.get(),
            response: page.response.get(),
            training: page.training.get(),
        }
    }

    /// Chooses it.
    fn choose(self, page: Page) {
        if page.session.with_untracked(|session| *session != self.session) {
            page.selected.set(None);
            page.session.set(self.session);
        }
        page.search.set(self.search);
        page.response.set(self.response);
        page.training.set(self.training);
    }
}

/// Something that was chosen, and the view in which that was changed.
type Change = (Chosen, View);

/// What was chosen before and after what is now; a context.
#[derive(Clone, Copy)]
pub struct History {
    past: RwSignal<Vec<Change>>,
    future: RwSignal<Vec<Change>>,
    /// What is shown because it was taken back, and no change of its own.
    moved_to: StoredValue<Option<Chosen>>,
}

impl History {
    /// Keeps what is chosen on the page.
    pub fn of(page: Page) -> Self {
        let history = Self { past: RwSignal::default(), future: RwSignal::default(), moved_to: StoredValue::new(None) };
        Effect::new(move |before: Option<(Change, f64)>| {
            let now = (Chosen::now(page), page.view.get_untracked());
            let Some((before, last)) = before else { return (now, 0.0) };
            if before.0 == now.0 {
                return (before, last);
            }
            let mut moved = false;
            history.moved_to.update_value(|to| moved = to.take().as_ref() == Some(&now.0));
            if moved {
                return (now, 0.0);
            }
            let time = js_sys::Date::now();
            if time - last > TOGETHER || before.1 != now.1 {
                history.past.update(|past| {
                    past.push((before.0, now.1));
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

    /// Takes over the seed of a study that was opened: nobody's choice, and what is taken back does not undo it.
    pub fn take_seed(self, page: Page, seed: u64) {
        self.take_over(page, |chosen| chosen.search.seed = seed);
    }

    /// Takes over the choices of a training that goes on, in the same way.
    pub fn take_training(self, page: Page, training: TrainingChoices) {
        self.take_over(page, |chosen| chosen.training = training);
    }

    fn take_over(self, page: Page, change: impl Fn(&mut Chosen)) {
        for stack in [self.past, self.future] {
            stack.update(|stack| stack.iter_mut().for_each(|(chosen, _)| change(chosen)));
        }
        let mut now = untrack(|| Chosen::now(page));
        change(&mut now);
        self.moved_to.set_value(Some(now.clone()));
        now.choose(page);
    }

    /// Takes the last change back, or again, in the view in which it was made.
    pub fn go(self, page: Page, forward: bool) {
        let (from, to) = if forward { (self.future, self.past) } else { (self.past, self.future) };
        let Some((chosen, view)) = from.try_update(Vec::pop).flatten() else { return };
        to.update(|stack| stack.push((untrack(|| Chosen::now(page)), view)));
        self.moved_to.set_value(Some(chosen.clone()));
        chosen.choose(page);
        if page.view.get_untracked() != view {
            page.view.set(view);
        }
    }
}

/// The buttons that take back and again.
#[component]
pub fn TakeBack() -> impl IntoView {
    let page = Page::get();
    let history = expect_context::<History>();
    let one = |forward: bool, id: &'static str, keys: &'static str, text: &'static str| {
        view! {
            <button
                type="button"
                class="quiet"
                id=id
                data-tip=keys
                prop:disabled=move || !history.can_go(forward)
                on:click=move |_| history.go(page, forward)
            >
                {text}
            </button>
        }
    };
    view! { <span class="saves">{one(false, "undo", "Ctrl Z", "Undo")}{one(true, "redo", "Ctrl Shift Z", "Redo")}</span> }
}
