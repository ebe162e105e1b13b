//! Where the profile comes from: samples, files, and what was found in them.

use hydra_playground::intake::{Findings, left_out};
use hydra_playground::samples::Sample;
use hydra_playground::session::{Session, Source};
use hydra_shared::gradients::{FileReport, KeyGroup};
use leptos::prelude::*;
use web_sys::HtmlInputElement;

use crate::folders::named;
use crate::intake::Intake;
use crate::lazy;
use crate::page::{Page, StartCard};
use crate::parts::NumberBox;
use crate::recent;

/// What to do, samples, the file picker, the paste box, progress and the report.
#[component]
pub fn Sources() -> impl IntoView {
    let page = Page::get();
    let intake = Intake::get();
    let picker = NodeRef::<leptos::html::Input>::new();
    let pick = move |folder: bool| {
        if let Some(input) = picker.get_untracked() {
            input.set_webkitdirectory(folder);
            input.click();
        }
    };
    let picked = move |event| {
        let input: HtmlInputElement = event_target(&event);
        intake.open(named(input.files()));
        // The same file can be picked again.
        input.set_value("");
    };
    let pasting = RwSignal::new(false);
    let pasted = NodeRef::<leptos::html::Textarea>::new();
    let read_paste = move |_| {
        if let Some(area) = pasted.get_untracked() {
            intake.open_text(&area.value());
            pasting.set(false);
        }
    };
    let origin = move || {
        page.session.with(|session| match &session.source {
            Source::Sample(sample) => sample.origin().to_owned(),
            Source::Log(_) => {
                let steps = session.profile.steps;
                let estimated = if session.profile.estimated { ", estimated from histograms" } else { "" };
                format!(
                    "{} steps from {} to {} ({} left out as warm-up{estimated}). The file never leaves this page.",
                    steps.kept, steps.first, steps.last, steps.warm_up
                )
            }
            Source::Unknown => {
                "Ranks are shown without gradients: drop the log of a run to see norms and stages.".to_owned()
            }
        })
    };
    let samples = Sample::ALL.map(|sample| {
        let current = move || page.session.with(|s| s.source == Source::Sample(sample));
        view! {
            <button type="button" aria-pressed=move || current().to_string() on:click=move |_| intake.open_sample(sample)>
                {sample.title()}
            </button>
        }
    });
    let reported = Memo::new(move |_| intake.findings.with(Option::is_some));
    // As long as nobody says another.
    let asked = Memo::new(move |_| {
        let rank = page.session.with(|session| session.plan.base_rank);
        intake.assumed_rank.get().filter(|assumed| *assumed == rank)
    });
    let is_sample = Memo::new(move |_| page.session.with(|session| matches!(session.source, Source::Sample(_))));
    view! {
        <section class="sources" aria-label="Gradient log">
            <div hidden=move || !is_sample.get()><Start /></div>
            <p class="session">
                <strong id="source-name">{move || page.session.with(Session::name)}</strong>
                " · "
                {move || page.session.with(|s| format!("{}, {} layers", s.layout.model(), s.layout.blocks().len()))}
                <span class="soft">{move || format!(" · {}", origin())}</span>
            </p>
            <div class="row">
                <button type="button" class="primary" id="open-files" on:click=move |_| pick(false)>"Open files…"</button>
                <button type="button" on:click=move |_| pick(true)>"Open a folder…"</button>
                <button
                    type="button"
                    aria-expanded=move || pasting.get().to_string()
                    on:click=move |_| pasting.update(|pasting| *pasting = !*pasting)
                >
                    "Paste…"
                </button>
                <input
                    type="file"
                    id="picker"
                    multiple
                    node_ref=picker
                    on:change=picked
                    class="visually-hidden"
                    tabindex="-1"
                    aria-label="Files to open"
                />
                <span class="group samples-of" role="group" aria-label="Samples">
                    <span class="soft">"or look at a sample:"</span>
                    {samples.collect_view()}
                </span>
                <span class="soft hint">
                    "Dropped anywhere: gradient logs, config.json, adapter_config.json, weights in safetensors (their header alone is read), schedules, tables of ranks, study journals."
                </span>
            </div>
            {recent::any().then(|| lazy::when_loaded(lazy::recent))}
            {move || asked.get().map(|rank| asked_rank(page, intake, rank))}
            {move || (pasting.get()).then(|| view! {
                <div class="paste">
                    <label for="paste">"Text of a log, a config.json, a schedule or an adapter_config.json"</label>
                    <textarea id="paste" rows="5" node_ref=pasted spellcheck="false"></textarea>
                    <button type="button" class="primary" on:click=read_paste>"Read it"</button>
                </div>
            })}
            {move || {
                intake
                    .progress
                    .get()
                    .map(|progress| {
                        view! {
                            <div class="progress" role="status">
                                <label for="reading">{format!("Reading {}", progress.file)}</label>
                                <progress id="reading" max="1" value=progress.share.to_string()></progress>
                                <button type="button" on:click=move |_| intake.cancel()>"Stop"</button>
                            </div>
                        }
                    })
            }}
            {move || reported.get().then(|| lazy::when_loaded(lazy::report))}
        </section>
    }
}

/// What `index.html` begins with.
#[component]
fn Start() -> impl IntoView {
    let slot = NodeRef::<leptos::html::Div>::new();
    let card = use_context::<StartCard>();
    Effect::new(move |_| {
        if let (Some(slot), Some(StartCard(card))) = (slot.get(), card) {
            card.with_value(|card| card.as_ref().map(|card| slot.append_child(card).is_ok()));
        }
    });
    view! { <div node_ref=slot></div> }
}

/// Asks for the rank of a run that no file says.
fn asked_rank(page: Page, intake: Intake, rank: u32) -> AnyView {
    let set = move |rank: Option<u32>| {
        intake.assumed_rank.set(None);
        if let Some(rank) = rank {
            page.update(|session| session.plan.base_rank = rank);
        }
    };
    view! {
            <div class="row runs" id="asked-rank">
                <p role="status">
                    {format!("No file says the rank of this run, and r = {rank} stands for it: the budget follows from it.")}
                </p>
                <NumberBox
                    label="What is the r of your LoRA?"
                    id="run-rank"
                    bounds=(1, 1024)
                    value=Signal::derive(move || Some(rank))
                    set=set
                    hint="The rank that you train with today, LoraConfig(r=…); its adapter_config.json, dropped with the log, says it, too"
                />
                <button type="button" on:click=move |_| intake.assumed_rank.set(None)>{format!("It is {rank}")}</button>
            </div>
        }
    .into_any()
}

/// Per file and key what was recognised, left out, and why.
#[component]
pub fn ReportView() -> impl IntoView {
    let intake = Intake::get();
    view! {
        {move || intake.runs.with(|runs| (!runs.is_empty()).then(|| choose_run(intake, runs)))}
        {move || intake.findings.get().map(reported)}
    }
}

/// The runs of a log, of which one is read.
fn choose_run(intake: Intake, runs: &[String]) -> impl IntoView + use<> {
    let page = Page::get();
    let chosen = Memo::new(move |_| page.session.with(|session| session.of_log.run.clone()));
    let option = |run: &String| {
        let (run, value) = (run.clone(), run.clone());
        view! { <option value=value selected=move || chosen.get().as_ref() == Some(&run)>{run.clone()}</option> }
    };
    view! {
        <div class="row runs" role="status">
            <label for="run">{format!("The log holds {} runs. The one that is read:", runs.len())}</label>
            <select id="run" on:change=move |event| intake.choose_run(event_target_value(&event))>
                <option value="" disabled selected=move || chosen.get().is_none()>"choose a run"</option>
                {runs.iter().map(option).collect_view()}
            </select>
        </div>
    }
}

/// Files that are told of before the rest is folded away.
const MOST_SEEN: usize = 6;

fn reported(findings: Findings) -> impl IntoView {
    let of_log = |file: &&FileReport| file.format.is_some();
    let read = findings.log.iter().flat_map(|log| &log.files).filter(of_log).count();
    // What was read comes first, then what was not.
    let unread = findings.unread().get(MOST_SEEN.saturating_sub(read)..).unwrap_or_default().join(", ");
    let problems = findings.problems.into_iter().map(|(file, problem)| {
        let alone = problem.starts_with(&file);
        view! {
            <li class="problem">
                {(!alone).then(|| view! { <strong>{file}</strong> ": " })}
                {problem}
            </li>
        }
        .into_any()
    });
    let documents = findings.documents.into_iter().map(|(file, what)| {
        view! {
            <li>
                <strong>{file}</strong>
                ": "
                {what}
            </li>
        }
        .into_any()
    });
    let (logs, notes) = findings.log.map(|log| (log.files.clone(), log.notes.clone())).unwrap_or_default();
    let (logs, others): (Vec<FileReport>, Vec<FileReport>) = logs.into_iter().partition(|file| file.format.is_some());
    let told = |file: FileReport| view! { <LogFile file /> }.into_any();
    let notes = notes.into_iter().map(|note| view! { <li>{note}</li> });
    let others = others.into_iter().map(told);
    let mut rows: Vec<AnyView> = logs.into_iter().map(told).chain(problems).chain(others).chain(documents).collect();
    let rest = rows.split_off(rows.len().min(MOST_SEEN));
    let count = rest.len();
    let rest = (count > 0).then(|| {
        view! {
            <details>
                <summary>{format!("{count} more files")}</summary>
                <ul>{rest}</ul>
            </details>
        }
    });
    let intake = Intake::get();
    view! {
        <div class="report" id="report" role="status">
            <button type="button" class="quiet close" aria-label="Close the report" on:click=move |_| intake.findings.set(None)>"×"</button>
            <ul>{rows} {notes.collect_view()}</ul>
            {(!unread.is_empty()).then(|| view! { <p class="problem">"Not read, too: " {unread}</p> })}
            {rest}
        </div>
    }
}

/// One file of a log.
#[component]
fn LogFile(file: FileReport) -> impl IntoView {
    let group = |group: KeyGroup| {
        let why = if group.why.is_empty() { String::new() } else { format!(": {}", group.why) };
        let examples = group.examples.join(", ");
        view! {
            <li>
                {format!("{} × {}{why} ", group.count, group.what)}
                <span class="soft">{format!("e.g. {examples}")}</span>
            </li>
        }
    };
    let packed = if file.gzipped { ", gzipped" } else { "" };
    let recognised: usize = file.recognised.iter().map(|group| group.count).sum();
    let what = match file.format {
        Some(format) => format!(
            ": {}{packed}, {} rows, {recognised} keys used, {} of other things",
            format.name(),
            file.rows,
            file.other_keys
        ),
        None => ": not read".to_owned(),
    };
    let left_out = left_out(&file).map(|line| view! { <p>{line}</p> });
    let keys = file.format.map(|_| {
        view! {
            <details>
                <summary>"Keys"</summary>
                <p>"Used:"</p>
                <ul>{file.recognised.into_iter().map(group).collect_view()}</ul>
                <p>"Left out:"</p>
                <ul>{file.skipped.into_iter().map(group).collect_view()}</ul>
            </details>
        }
    });
    let notes = file.notes.into_iter().map(|note| view! { <li>{note}</li> });
    view! {
        <li>
            <strong>{file.name}</strong>
            {what}
            {left_out}
            {keys}
            <ul>{notes.collect_view()}</ul>
        </li>
    }
}
