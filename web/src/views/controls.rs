//! Every choice of the method.

use hydra_playground::analysis::one_step_more;
use hydra_playground::session::{LogChoice, Session, Source};
use hydra_shared::layout::Projection;
use hydra_shared::schedule::choices::{ALL, Choice as Row, Choices, Control, Kind, Look, MOST_STAGES, of_key};
use hydra_shared::schedule::{PlanConfig, ScalePolicy, Sign, Signs, StageChoice, StageRanks};
use hydra_shared::vlm::spec::PRESETS;
use leptos::prelude::*;
use web_sys::HtmlSelectElement;

use crate::history::TakeBack;
use crate::intake::Intake;
use crate::page::Page;
use crate::parts::{Choice, NumberBox, Slider, TextBox, Tick, named};

/// The sidebar.
#[component]
pub fn Controls() -> impl IntoView {
    let page = Page::get();
    let making = Making { page, intake: Intake::get() };
    let controls = |folded: bool| {
        // A choice that another one takes the place of is shown with that one.
        let alone = |row: &Row| ALL.iter().all(|other| other.instead_of != Some(row.key));
        let rows = ALL.iter().filter(move |row| alone(row) && row.control.is_some_and(|shown| shown.folded == folded));
        rows.map(|row| control(making, row)).collect_view()
    };
    view! {
        <form class="controls card" aria-label="Choices" on:submit=|event| event.prevent_default()>
            <div class="row">
                <h2>"Choices"</h2>
                <TakeBack />
            </div>
            {controls(false)}
            <details>
                <summary>"Signal, budget, scale, seed"</summary>
                {controls(true)}
                <ModelControl />
            </details>
            <ModuleControls />
            <button
                type="button"
                on:click=move |_| page.update(|session| {
                    let base_rank = session.plan.base_rank;
                    session.plan = PlanConfig { base_rank, ..PlanConfig::default() };
                    session.by_hand.clear();
                    session.rebalance = false;
                })
            >
                "Default choices"
            </button>
            <p class="soft"><button type="button" class="quiet" data-act="help">"What these words mean"</button></p>
        </form>
    }
}

/// Reads and makes choices of the session.
#[derive(Clone, Copy)]
struct Making {
    page: Page,
    intake: Intake,
}

impl Making {
    /// What is chosen.
    fn read<T>(self, get: fn(&Choices) -> T) -> T {
        self.page.session.with(|session| get(&session.choices()))
    }

    /// Makes a choice. Another profile is asked of the log.
    fn make(self, change: impl FnOnce(&mut Choices)) {
        let before = self.page.session.with_untracked(Session::choices);
        let mut choices = before.clone();
        change(&mut choices);
        if choices.profile != before.profile {
            self.intake.profile_again(choices.profile);
            return;
        }
        if stages_in(&choices.plan) != stages_in(&before.plan) {
            fit_ranks(&mut choices.plan);
        }
        self.page.update(|session| session.plan = choices.plan);
    }
}

fn stages_in(plan: &PlanConfig) -> usize {
    match &plan.stages {
        StageChoice::Clustered(stages) => stages.count,
        StageChoice::ByHand(stages) => stages.len(),
    }
}

/// Ranks by hand for another number of stages: the ratio takes over.
fn fit_ranks(plan: &mut PlanConfig) {
    if matches!(&plan.stage_ranks, StageRanks::ByHand(ranks) if ranks.len() != stages_in(plan)) {
        plan.stage_ranks = StageRanks::default();
    }
}

/// The control of a choice, as its kind says.
fn control(making: Making, row: &'static Row) -> AnyView {
    let Some(shown) = row.control else { return ().into_any() };
    let hint = shown.hint.unwrap_or(row.help);
    let Control { id, label, .. } = shown;
    match row.kind {
        Kind::Switch { get, set } => {
            let value = Memo::new(move |_| making.read(get));
            view! { <Tick label id value set=move |on| making.make(|choices| set(choices, on)) hint /> }.into_any()
        }
        Kind::Whole { bounds, get, set, .. } => match shown.look {
            Look::Slider { .. } => slider(making, row, shown, hint),
            look => {
                let (most, empty) = if let Look::Box { most, empty } = look { (most, empty) } else { (bounds.1, "") };
                view! {
                    <NumberBox
                        label
                        id
                        bounds=(bounds.0, most)
                        value=Signal::derive(move || making.read(get))
                        set=move |number| making.make(|choices| set(choices, number))
                        empty
                        hint
                    />
                }
                .into_any()
            }
        },
        Kind::Number { .. } => slider(making, row, shown, hint),
        Kind::Words { words, get, set } => {
            let unset = row.unset;
            let put = move |name: String| {
                let word = words.iter().map(|word| word.name).find(|word| *word == name);
                making.make(|choices| set(choices, word.filter(|word| *word != unset)));
            };
            view! {
                <Choice
                    label
                    id
                    options=words.iter().filter_map(|word| Some((word.name, word.label?))).collect()
                    value=Signal::derive(move || making.read(get).unwrap_or(unset).to_owned())
                    set=put
                    hint
                />
            }
            .into_any()
        }
        Kind::Scale { bounds, get, set } => view! { <ScaleControls making shown hint bounds get set /> }.into_any(),
        Kind::Ranks { get, set } => {
            view! { <RanksControls making shown hint get set instead_of=row.instead_of.and_then(of_key) /> }.into_any()
        }
        Kind::Signs { get, set } => view! { <SignsControls making shown hint get set /> }.into_any(),
        // Links alone have them.
        Kind::Layers { .. } => ().into_any(),
    }
}

/// Where the slider of a choice stands.
fn number_of(row: &Row, choices: &Choices) -> f64 {
    match row.kind {
        Kind::Whole { get, .. } => get(choices).map_or(0.0, |number| number as f64),
        Kind::Number { get, .. } => get(choices).unwrap_or_default(),
        _ => 0.0,
    }
}

/// Makes a choice by its slider.
fn put_number(row: &Row, choices: &mut Choices, number: f64) {
    match row.kind {
        Kind::Whole { set, .. } => set(choices, Some(number as u64)),
        Kind::Number { set, .. } => set(choices, number),
        _ => {}
    }
}

fn slider(making: Making, row: &'static Row, shown: Control, hint: &'static str) -> AnyView {
    let value = Memo::new(move |_| making.page.session.with(|session| number_of(row, &session.choices())));
    let (mut bounds, step) = match shown.look {
        Look::Slider { range, step, .. } => (range, step),
        Look::Plain | Look::Box { .. } => ((0.0, 1.0), 0.01),
    };
    if matches!(shown.look, Look::Slider { within_layers: true, .. }) {
        let layers = making.page.session.with_untracked(|session| session.layout.blocks().len());
        bounds.1 = bounds.1.min(layers as f64);
    }
    let Control { id, label, .. } = shown;
    let more = move || {
        let next = (value.get_untracked() + step).min(bounds.1);
        making.page.session.with_untracked(|session| {
            let now = making.page.analysis.get_untracked().ok()?;
            one_step_more(session, &now, |session| {
                let mut choices = session.choices();
                put_number(row, &mut choices, next);
                fit_ranks(&mut choices.plan);
                session.plan = choices.plan;
            })
        })
    };
    let slider = move || {
        view! {
            <Slider
                label
                id
                bounds
                step
                value
                set=move |number| making.make(|choices| put_number(row, choices, number))
                hint
                more=Box::new(more)
            />
        }
    };
    if !shown.needs_log {
        return slider().into_any();
    }
    let has_log = Memo::new(move |_| making.page.session.with(|session| session.source != Source::Unknown));
    (move || has_log.get().then(slider)).into_any()
}

/// Ranks by hand, or the choice that they take the place of.
#[component]
fn RanksControls(
    making: Making,
    shown: Control,
    hint: &'static str,
    get: fn(&Choices) -> Option<Vec<u32>>,
    set: fn(&mut Choices, Option<Vec<u32>>),
    instead_of: Option<&'static Row>,
) -> impl IntoView {
    let page = making.page;
    let by_hand = Memo::new(move |_| making.read(get).is_some());
    let ranks = Memo::new(move |_| {
        let ranks = making.read(get).unwrap_or_default();
        ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    });
    let planned = move || {
        page.analysis.with_untracked(|analysis| match analysis {
            Ok(analysis) => analysis.plan.stages.iter().map(|stage| stage.rank).collect(),
            Err(_) => Vec::new(),
        })
    };
    let set_ranks = move |text: &str| {
        let ranks: Result<Vec<u32>, _> =
            text.split([',', ' ']).filter(|part| !part.is_empty()).map(str::parse).collect();
        let ranks = ranks.map_err(|_| "write whole numbers such as 64, 128, 256".to_owned())?;
        if ranks.is_empty() || ranks.contains(&0) || !ranks.is_sorted() {
            return Err("give ranks of 1 or more, the lowest first".to_owned());
        }
        if ranks.len() as u64 > MOST_STAGES {
            return Err(format!("at most {MOST_STAGES} stages"));
        }
        making.make(|choices| choices.rank_stages(ranks));
        Ok(())
    };
    view! {
        <Choice
            label="Stage ranks Rₜ"
            id="stage-ranks-by"
            options=vec![("ratio", "by ratio"), ("hand", "by hand")]
            value=Signal::derive(move || if by_hand.get() { "hand" } else { "ratio" }.to_owned())
            set=move |way: String| {
                let ranks = planned();
                making.make(|choices| {
                    if way == "hand" && !ranks.is_empty() {
                        choices.rank_stages(ranks);
                    } else {
                        set(choices, None);
                    }
                });
            }
            hint="Ranks by a ratio from stage to stage, or by hand; either way scaled to the budget"
        />
        {move || {
            if by_hand.get() {
                view! {
                    <TextBox label=shown.label id=shown.id value=ranks set=Box::new(set_ranks) example="64, 128, 256" hint />
                }
                    .into_any()
            } else {
                instead_of.map(|row| control(making, row)).into_any()
            }
        }}
    }
}

/// Signs of the fine step.
#[component]
fn SignsControls(
    making: Making,
    shown: Control,
    hint: &'static str,
    get: fn(&Choices) -> Option<Signs>,
    set: fn(&mut Choices, Option<Signs>),
) -> impl IntoView {
    let by_hand = Memo::new(move |_| making.read(get).is_some());
    let one = move |projection: Projection| {
        let value = move || match making.read(get).as_ref().and_then(|signs| signs.get(projection.index())) {
            Some(Sign::Lower) => "-",
            Some(Sign::Raise) => "+",
            Some(Sign::Keep) | None => "0",
        };
        let put = move |event| {
            let sign = match event_target_value(&event).as_str() {
                "-" => Sign::Lower,
                "+" => Sign::Raise,
                _ => Sign::Keep,
            };
            making.make(|choices| {
                let mut signs = get(choices);
                if let Some(slot) = signs.as_mut().and_then(|signs| signs.get_mut(projection.index())) {
                    *slot = sign;
                }
                set(choices, signs);
            });
        };
        view! {
            <label>
                {projection.name()}
                <select on:change=put prop:value=value>
                    <option value="-" selected=move || value() == "-">"−"</option>
                    <option value="0" selected=move || value() == "0">"0"</option>
                    <option value="+" selected=move || value() == "+">"+"</option>
                </select>
            </label>
        }
    };
    view! {
        <Choice
            label=shown.label
            id=shown.id
            options=vec![("norms", "by each layer's norms"), ("hand", "by hand")]
            value=Signal::derive(move || if by_hand.get() { "hand" } else { "norms" }.to_owned())
            set=move |way: String| {
                // The signs that follow from the paper's norms, to begin with.
                let start = [Sign::Lower, Sign::Lower, Sign::Keep, Sign::Keep, Sign::Keep, Sign::Raise, Sign::Keep];
                making.make(|choices| set(choices, (way == "hand").then_some(start)));
            }
            hint
        />
        {move || (by_hand.get()).then(|| view! {
            <fieldset class="signs">
                <legend>"Sign per projection"</legend>
                {Projection::ALL.into_iter().map(one).collect_view()}
            </fieldset>
        })}
    }
}

/// How updates are scaled.
#[component]
fn ScaleControls(
    making: Making,
    shown: Control,
    hint: &'static str,
    bounds: (f64, f64),
    get: fn(&Choices) -> ScalePolicy,
    set: fn(&mut Choices, ScalePolicy),
) -> impl IntoView {
    view! {
        <Choice
            label=shown.label
            id=shown.id
            options=vec![("constant", "constant: α = factor × r"), ("fixed-alpha", "the same α everywhere"), ("rslora", "rsLoRA")]
            value=Signal::derive(move || making.read(get).name().to_owned())
            set=move |name: String| {
                making.make(|choices| {
                    let alpha = 2.0 * f64::from(choices.plan.base_rank);
                    let scale = match name.as_str() {
                        "fixed-alpha" => ScalePolicy::FixedAlpha { alpha },
                        "rslora" => ScalePolicy::RsLora { alpha },
                        _ => ScalePolicy::default(),
                    };
                    set(choices, scale);
                });
            }
            hint
        />
        <NumberBox
            label="Factor or α"
            id="scale-number"
            bounds
            value=Signal::derive(move || Some(making.read(get).number()))
            set=move |number| {
                if let Some(number) = number {
                    making.make(|choices| {
                        let scale = get(choices).with_number(number);
                        set(choices, scale);
                    });
                }
            }
            hint="The number of the scale policy"
        />
    }
}

/// The model, where the log's layers leave a choice.
#[component]
fn ModelControl() -> impl IntoView {
    let page = Page::get();
    let intake = Intake::get();
    let name = move || page.session.with(|s| s.layout.model().to_owned());
    let options = move || {
        let own = name();
        let known = PRESETS.contains(&own.as_str());
        let own = (!known).then(|| view! { <option value=own.clone() selected=true>{own.clone()}</option> });
        let presets =
            PRESETS.map(|preset| view! { <option value=preset selected=move || name() == preset>{preset}</option> });
        view! {
            {own}
            {presets.collect_view()}
        }
    };
    view! {
        <div class="control" data-tip="The model whose shapes decide what a rank costs; drop a config.json for any other">
            {named("model", "Model")}
            <select
                id="model"
                on:change=move |event| {
                    intake.choose_model(&event_target_value(&event));
                    // A model that does not fit is not taken, or not yet.
                    let shown = page.session.with_untracked(|session| session.layout.model().to_owned());
                    event_target::<HtmlSelectElement>(&event).set_value(&shown);
                }
            >
                {options}
            </select>
        </div>
    }
}

/// Which modules of the log get ranks.
#[component]
fn ModuleControls() -> impl IntoView {
    let page = Page::get();
    let intake = Intake::get();
    type Part = fn(&mut LogChoice) -> &mut String;
    let boxed = |label: &'static str, id: &'static str, example: &'static str, hint: &'static str, part: Part| {
        let value = Memo::new(move |_| page.session.with(|session| std::mem::take(part(&mut session.of_log.clone()))));
        let set = move |text: &str| {
            let text = text.to_owned();
            intake.choose_modules(id, |of_log| *part(of_log) = text);
            Ok(())
        };
        let refused = Signal::derive(move || intake.refused.get().filter(|_| intake.chosen_in.get_value() == id));
        view! { <TextBox label id value set=Box::new(set) example hint refused /> }
    };
    view! {
        <details>
            <summary>"Modules of the log"</summary>
            {boxed(
                "Include",
                "include",
                "vision_tower|lm_head",
                "Plans modules outside the decoder, too, whose names this Python expression is found in: --include",
                |of_log| &mut of_log.include,
            )}
            {boxed(
                "Exclude",
                "exclude",
                r"layers\.[01]\.",
                "Plans no module whose name this Python expression is found in: --exclude",
                |of_log| &mut of_log.exclude,
            )}
        </details>
    }
}
