//! Every choice of the method.

use hydra_playground::link::{bounds, scale_text, signal_name};
use hydra_playground::session::Source;
use hydra_shared::gradients::{LayerNorm, Signal as GradientSignal};
use hydra_shared::layout::Projection;
use hydra_shared::schedule::{Baseline, Counting, PlanConfig, ScalePolicy, Sign, StageChoice, StageRanks};
use hydra_shared::stages::StageConfig;
use hydra_shared::vlm::spec::PRESETS;
use leptos::prelude::*;

use crate::intake::Intake;
use crate::page::Page;
use crate::parts::{Choice, NumberBox, Slider, TextBox, Tick};

/// The sidebar.
#[component]
pub fn Controls() -> impl IntoView {
    let page = Page::get();
    let plan = move |read: fn(&PlanConfig) -> f64| Memo::new(move |_| page.session.with(|session| read(&session.plan)));
    let stages = move |read: fn(&StageConfig) -> f64| {
        Memo::new(move |_| page.session.with(|session| clustered(&session.plan).map_or(0.0, read)))
    };
    let set_stages = move |change: &dyn Fn(&mut StageConfig)| {
        page.update(|session| {
            let mut stages = clustered(&session.plan).cloned().unwrap_or_default();
            change(&mut stages);
            session.plan.stages = StageChoice::Clustered(stages);
        });
    };
    let (delta, count) = (plan(|plan| f64::from(plan.delta)), stages(|stages| stages.count as f64));
    let contiguous = Memo::new(move |_| page.session.with(|s| clustered(&s.plan).is_some_and(|c| c.contiguous)));
    let most_stages = page.session.with_untracked(|s| s.layout.blocks().len().min(bounds::STAGES.1));
    view! {
        <form class="controls card" aria-label="Choices" on:submit=|event| event.prevent_default()>
            <h2>"Choices"</h2>
            <NumberBox
                label="Base rank r₀"
                id="base-rank"
                bounds=bounds::BASE_RANK
                value=Signal::derive(move || page.session.with(|s| Some(s.plan.base_rank)))
                set=move |rank| {
                    if let Some(rank) = rank {
                        page.update(|session| session.plan.base_rank = rank);
                    }
                }
                hint="Rank of the uniform LoRA whose parameters are the budget"
            />
            <Slider
                label="Stages Nₛ"
                id="stages"
                bounds=(1.0, most_stages as f64)
                step=1.0
                value=count
                set=move |count| {
                    set_stages(&|stages: &mut StageConfig| stages.count = count as usize);
                    page.update(|session| fit_ranks(&mut session.plan));
                }
                hint="How many clusters K-means makes of the layers"
            />
            <StageRankControls />
            <Slider
                label="Increment Δd"
                id="delta"
                bounds=(0.0, 16.0)
                step=1.0
                value=delta
                set=move |delta| page.update(|session| session.plan.delta = delta as u32)
                hint="By how much the fine step moves the rank of a projection; 0 leaves the coarse ranks"
            />
            <SignControls />
            <Tick
                label="Contiguous stages"
                id="contiguous"
                value=contiguous
                set=move |on| set_stages(&|stages: &mut StageConfig| stages.contiguous = on)
                hint="Every stage is a run of neighbouring layers"
            />
            <Choice
                label="Schedule"
                id="preset"
                options=vec![
                    ("hydra", "HyDRA"),
                    ("uniform", "uniform LoRA"),
                    ("linear", "linear in depth"),
                    ("exponential", "exponential in depth"),
                    ("random-feasible", "random feasible"),
                    ("norm-proportional", "in proportion to norms"),
                    ("eva-like", "EVA-like (rank units)"),
                ]
                value=Signal::derive(move || page.session.with(|s| s.preset.map_or("hydra", Baseline::name).to_owned()))
                set=move |name: String| page.update(|session| session.preset = name.parse().ok())
                hint="HyDRA's schedule, or one to compare it with"
            />
            <details>
                <summary>"Signal, budget, scale, seed"</summary>
                <ProfileControls />
                <BudgetControls />
                <ScaleControls />
                <NumberBox
                    label="Seed"
                    id="seed"
                    bounds=(0_u64, u64::MAX)
                    value=Signal::derive(move || page.session.with(|s| Some(clustered(&s.plan).map_or(0, |c| c.seed))))
                    set=move |seed| set_stages(&|stages: &mut StageConfig| stages.seed = seed.unwrap_or(0))
                    hint="Seed of K-means++ and of the random schedule"
                />
                <ModelControl />
            </details>
            <button
                type="button"
                on:click=move |_| page.update(|session| {
                    let base_rank = session.plan.base_rank;
                    session.plan = PlanConfig { base_rank, ..PlanConfig::default() };
                    session.preset = None;
                    session.by_hand.clear();
                    session.rebalance = false;
                })
            >
                "Default choices"
            </button>
        </form>
    }
}

fn clustered(plan: &PlanConfig) -> Option<&StageConfig> {
    match &plan.stages {
        StageChoice::Clustered(stages) => Some(stages),
        StageChoice::ByHand(_) => None,
    }
}

/// Ranks by hand for another number of stages: the ratio takes over.
fn fit_ranks(plan: &mut PlanConfig) {
    let count = clustered(plan).map_or(0, |stages| stages.count);
    if matches!(&plan.stage_ranks, StageRanks::ByHand(ranks) if ranks.len() != count) {
        plan.stage_ranks = StageRanks::default();
    }
}

/// Ratio, or ranks by hand.
#[component]
fn StageRankControls() -> impl IntoView {
    let page = Page::get();
    let by_hand = Memo::new(move |_| page.session.with(|s| matches!(s.plan.stage_ranks, StageRanks::ByHand(_))));
    let ratio = Memo::new(move |_| {
        page.session.with(|s| match s.plan.stage_ranks {
            StageRanks::Ratio(ratio) => ratio,
            StageRanks::ByHand(_) => 2.0,
        })
    });
    let ranks = Memo::new(move |_| {
        page.session.with(|s| match &s.plan.stage_ranks {
            StageRanks::ByHand(ranks) => ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            StageRanks::Ratio(_) => String::new(),
        })
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
        if ranks.len() > bounds::STAGES.1 {
            return Err(format!("at most {} stages", bounds::STAGES.1));
        }
        page.update(|session| {
            let mut stages = clustered(&session.plan).cloned().unwrap_or_default();
            stages.count = ranks.len();
            session.plan.stages = StageChoice::Clustered(stages);
            session.plan.stage_ranks = StageRanks::ByHand(ranks);
        });
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
                page.update(|session| {
                    session.plan.stage_ranks = if way == "hand" && !ranks.is_empty() {
                        let mut stages = clustered(&session.plan).cloned().unwrap_or_default();
                        stages.count = ranks.len();
                        session.plan.stages = StageChoice::Clustered(stages);
                        StageRanks::ByHand(ranks)
                    } else {
                        StageRanks::default()
                    };
                });
            }
            hint="Ranks by a ratio from stage to stage, or by hand; either way scaled to the budget"
        />
        {move || {
            if by_hand.get() {
                view! {
                    <TextBox
                        label="Ranks, lowest first"
                        id="stage-ranks"
                        value=ranks
                        set=set_ranks
                        example="64, 128, 256"
                        hint="One rank per stage, in ascending order"
                    />
                }
                    .into_any()
            } else {
                view! {
                    <Slider
                        label="Ratio ρ"
                        id="ratio"
                        bounds=(1.0, 4.0)
                        step=0.05
                        value=ratio
                        set=move |ratio| page.update(|session| session.plan.stage_ranks = StageRanks::Ratio(ratio))
                        hint="Factor from one stage's rank to the next"
                    />
                }
                    .into_any()
            }
        }}
    }
}

/// Signs of the fine step.
#[component]
fn SignControls() -> impl IntoView {
    let page = Page::get();
    let by_hand = Memo::new(move |_| page.session.with(|s| s.plan.signs.is_some()));
    let one = move |projection: Projection| {
        let value = move || {
            page.session.with(|s| match s.plan.signs.as_ref().and_then(|signs| signs.get(projection.index())) {
                Some(Sign::Lower) => "-",
                Some(Sign::Raise) => "+",
                Some(Sign::Keep) | None => "0",
            })
        };
        let set = move |event| {
            let sign = match event_target_value(&event).as_str() {
                "-" => Sign::Lower,
                "+" => Sign::Raise,
                _ => Sign::Keep,
            };
            page.update(|session| {
                if let Some(slot) = session.plan.signs.as_mut().and_then(|signs| signs.get_mut(projection.index())) {
                    *slot = sign;
                }
            });
        };
        view! {
            <label>
                {projection.name()}
                <select on:change=set prop:value=value>
                    <option value="-" selected=move || value() == "-">"−"</option>
                    <option value="0" selected=move || value() == "0">"0"</option>
                    <option value="+" selected=move || value() == "+">"+"</option>
                </select>
            </label>
        }
    };
    view! {
        <Choice
            label="Signs of ±Δd"
            id="signs-by"
            options=vec![("norms", "by each layer's norms"), ("hand", "by hand")]
            value=Signal::derive(move || if by_hand.get() { "hand" } else { "norms" }.to_owned())
            set=move |way: String| {
                page.update(|session| {
                    // The signs that follow from the paper's norms, to begin with.
                    let start = [Sign::Lower, Sign::Lower, Sign::Keep, Sign::Keep, Sign::Keep, Sign::Raise, Sign::Keep];
                    session.plan.signs = (way == "hand").then_some(start);
                });
            }
            hint="Which projections give rank and which get it"
        />
        {move || (by_hand.get()).then(|| view! {
            <fieldset class="signs">
                <legend>"Sign per projection"</legend>
                {Projection::ALL.into_iter().map(one).collect_view()}
            </fieldset>
        })}
    }
}

/// What is measured of the gradients.
#[component]
fn ProfileControls() -> impl IntoView {
    let page = Page::get();
    let intake = Intake::get();
    let has_log = Memo::new(move |_| page.session.with(|s| s.source != Source::Unknown));
    view! {
        <Choice
            label="Signal"
            id="signal"
            options=vec![("l2", "L2 norm"), ("rms", "RMS per element"), ("fisher", "Fisher (mean square)")]
            value=Signal::derive(move || page.session.with(|s| signal_name(s.profiling.signal).to_owned()))
            set=move |name: String| {
                let signal = match name.as_str() {
                    "rms" => GradientSignal::Rms,
                    "fisher" => GradientSignal::Fisher,
                    _ => GradientSignal::L2,
                };
                let profiling = page.session.with_untracked(|s| s.profiling);
                intake.profile_again(hydra_shared::gradients::ProfileConfig { signal, ..profiling });
            }
            hint="What is measured of a module's gradient in one step"
        />
        {move || (has_log.get()).then(|| view! {
            <Slider
                label="Warm-up left out"
                id="warm-up"
                bounds=bounds::WARM_UP
                step=0.05
                value=Memo::new(move |_| page.session.with(|s| s.profiling.warm_up_share))
                set=move |warm_up_share| {
                    let profiling = page.session.with_untracked(|s| s.profiling);
                    intake.profile_again(hydra_shared::gradients::ProfileConfig { warm_up_share, ..profiling });
                }
                hint="Share of the run's steps that is left out at its start, where B is still near zero"
            />
        })}
        <Choice
            label="Norm of a layer"
            id="layer-norm"
            options=vec![("mean", "mean of its projections"), ("root-sum-squares", "root of the sum of squares")]
            value=Signal::derive(move || {
                page.session
                    .with(|s| match s.plan.layer_norm {
                        LayerNorm::Mean => "mean",
                        LayerNorm::RootSumSquares => "root-sum-squares",
                    })
                    .to_owned()
            })
            set=move |rule: String| {
                page.update(|session| {
                    session.plan.layer_norm =
                        if rule == "mean" { LayerNorm::Mean } else { LayerNorm::RootSumSquares };
                });
            }
            hint="How a layer's norm follows from its projections'"
        />
    }
}

/// What a schedule may use.
#[component]
fn BudgetControls() -> impl IntoView {
    let page = Page::get();
    view! {
        <NumberBox
            label="Budget"
            id="budget"
            bounds=(1_u64, u64::MAX)
            value=Signal::derive(move || page.session.with(|s| s.plan.budget))
            set=move |budget| page.update(|session| session.plan.budget = budget)
            empty="uniform LoRA's"
            hint="Trainable parameters (or rank units) allowed; empty: those of uniform LoRA at the base rank"
        />
        <Choice
            label="The budget counts"
            id="counting"
            options=vec![("parameters", "parameters"), ("rank-units", "rank units")]
            value=Signal::derive(move || {
                page.session
                    .with(|s| match s.plan.counting {
                        Counting::Parameters => "parameters",
                        Counting::RankUnits => "rank-units",
                    })
                    .to_owned()
            })
            set=move |what: String| {
                page.update(|session| {
                    session.plan.counting =
                        if what == "parameters" { Counting::Parameters } else { Counting::RankUnits };
                });
            }
            hint="Trainable parameters, or rank units as AdaLoRA and EVA count"
        />
        <NumberBox
            label="Largest rank"
            id="cap"
            bounds=(1_u32, 1 << 18)
            value=Signal::derive(move || page.session.with(|s| s.plan.cap))
            set=move |cap| page.update(|session| session.plan.cap = cap)
            empty="none"
            hint="No rank above this one, for servers that have a limit"
        />
    }
}

/// How updates are scaled.
#[component]
fn ScaleControls() -> impl IntoView {
    let page = Page::get();
    let number = |scale: ScalePolicy| match scale {
        ScalePolicy::Constant { factor: number }
        | ScalePolicy::FixedAlpha { alpha: number }
        | ScalePolicy::RsLora { alpha: number } => number,
    };
    let policy =
        move || page.session.with(|s| scale_text(s.plan.scale).split(':').next().unwrap_or_default().to_owned());
    view! {
        <Choice
            label="Scale"
            id="scale"
            options=vec![("constant", "constant: α = factor × r"), ("fixed-alpha", "the same α everywhere"), ("rslora", "rsLoRA")]
            value=Signal::derive(policy)
            set=move |name: String| {
                page.update(|session| {
                    let alpha = 2.0 * f64::from(session.plan.base_rank);
                    session.plan.scale = match name.as_str() {
                        "fixed-alpha" => ScalePolicy::FixedAlpha { alpha },
                        "rslora" => ScalePolicy::RsLora { alpha },
                        _ => ScalePolicy::default(),
                    };
                });
            }
            hint="How strongly a module's update counts; ranks do not depend on it"
        />
        <NumberBox
            label="Factor or α"
            id="scale-number"
            bounds=bounds::SCALE
            value=Signal::derive(move || page.session.with(|s| Some(number(s.plan.scale))))
            set=move |value| {
                if let Some(value) = value {
                    page.update(|session| {
                        session.plan.scale = match session.plan.scale {
                            ScalePolicy::Constant { .. } => ScalePolicy::Constant { factor: value },
                            ScalePolicy::FixedAlpha { .. } => ScalePolicy::FixedAlpha { alpha: value },
                            ScalePolicy::RsLora { .. } => ScalePolicy::RsLora { alpha: value },
                        };
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
        <div class="control" title="The model whose shapes decide what a rank costs; drop a config.json for any other">
            <label for="model">"Model"</label>
            <select id="model" on:change=move |event| intake.choose_model(&event_target_value(&event))>
                {options}
            </select>
        </div>
    }
}
