use hydra_shared::gradients::{LayerNorm, ModuleNorm, Signal};
use hydra_shared::layout::Ranks;
use hydra_shared::schedule::{
    Baseline, Counting, PlanConfig, ScalePolicy, ScheduleKind, Sign, StageChoice, StageRanks,
};
use hydra_shared::stages::StageConfig;
use hydra_shared::vlm::spec::ModelSpec;
use proptest::prelude::*;

use super::*;
use crate::analysis::Analysis;
use crate::profile_text::rounded;
use crate::samples::made_up;
use crate::session::Pinned;

fn opened(session: &Session) -> Opened {
    let (link, whole) = to_link(session, &BTreeMap::new());
    assert!(whole, "{} characters", link.len());
    from_link(&format!("#{link}"))
}

fn any_session() -> impl Strategy<Value = Session> {
    let own = (1..30_usize, prop::collection::vec(0.0..10.0_f64, 7 * 30), "[ -~äλ]{1,20}");
    let choices = (1..1024_u32, 1..12_usize, any::<bool>(), any::<u64>(), 1.0..8.0_f64, 0..64_u32);
    let more = (
        prop::option::of(prop::array::uniform7(0..3_u8)),
        any::<bool>(),
        prop::option::of(1..u64::MAX),
        any::<bool>(),
        (0..3_u8, 0.001..65_536.0_f64),
        prop::option::of(1..u32::MAX),
        prop::option::of(0..6_usize),
        prop::collection::btree_map(0..42_usize, 1..64_u32, 0..5),
        any::<bool>(),
    );
    (0..4_usize, own, choices, more, prop::option::of("[ -~]{0,12}")).prop_map(|(which, own, choices, more, pin)| {
        let mut session = match Sample::ALL.get(which) {
            Some(sample) => Session::of_sample(*sample),
            None => {
                let (layers, norms, name) = own;
                let mut model = ModelSpec::preset("tiny-mobilevlm").unwrap();
                (model.decoder.layers, model.name) = (layers, name.clone());
                let layout = model.layout().unwrap();
                let norm = |mean: &f64| ModuleNorm { mean: *mean, standard_error: f64::from(0.25_f32), steps: 9 };
                let modules = norms.iter().take(7 * layers).map(norm).collect();
                let steps =
                    hydra_shared::gradients::ProfiledSteps { first: 3, last: 99, kept: 9, warm_up: 1, non_finite: 0 };
                let profile = hydra_shared::gradients::GradientProfile { modules, steps, ..Default::default() };
                let profiling = ProfileConfig { warm_up_share: 0.25, ..ProfileConfig::default() };
                Session {
                    layout,
                    profile,
                    profiling,
                    of_log: LogChoice { run: Some(name.clone()), include: "a|b".to_owned(), exclude: name.clone() },
                    source: Source::Log(vec![name, "b&c=d#e".to_owned()]),
                    ..Session::default()
                }
            }
        };
        let (base_rank, count, contiguous, seed, ratio, delta) = choices;
        let (signs, root, budget, units, (policy, number), cap, preset, by_hand, rebalance) = more;
        let sign = |s: u8| [Sign::Lower, Sign::Keep, Sign::Raise][usize::from(s)];
        let plan = &mut session.plan;
        plan.base_rank = base_rank;
        plan.stages = StageChoice::Clustered(StageConfig { count, contiguous, seed, ..StageConfig::default() });
        plan.stage_ranks =
            if root { StageRanks::Ratio(ratio) } else { StageRanks::ByHand((1..=count as u32).collect()) };
        plan.delta = delta;
        plan.signs = signs.map(|signs| signs.map(sign));
        plan.layer_norm = if root { LayerNorm::RootSumSquares } else { LayerNorm::Mean };
        plan.budget = budget;
        plan.counting = if units { Counting::RankUnits } else { Counting::Parameters };
        plan.scale = match policy {
            0 => ScalePolicy::Constant { factor: number },
            1 => ScalePolicy::FixedAlpha { alpha: number },
            _ => ScalePolicy::RsLora { alpha: number },
        };
        plan.cap = cap;
        plan.schedule_kind = preset.and_then(|index| Baseline::ALL.get(index).copied()).map(ScheduleKind::Baseline);
        let modules = session.layout.len();
        session.by_hand = by_hand.into_iter().filter(|(module, _)| *module < modules).collect();
        session.rebalance = rebalance;
        let ranks = Ranks::new(&session.layout, (0..modules).map(|m| 1 + (m % 3) as u32).collect()).unwrap();
        session.pinned = pin.map(|name| Pinned { name, ranks });
        session
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_link_leads_back_to_the_very_session(session in any_session()) {
        let back = opened(&session);
        prop_assert_eq!(&back.session, &session);
        prop_assert_eq!(back.notices, Vec::<String>::new());
    }

    #[test]
    fn any_text_after_the_hash_opens_a_session(text in "\\PC{0,200}") {
        let back = from_link(&text);
        prop_assert!(back.session.profile.fits(&back.session.layout));
    }

    #[test]
    fn any_values_of_known_keys_open_a_session_with_a_schedule_or_a_reason(
        pairs in prop::collection::vec((prop::sample::select(vec![
            "r", "stages", "ratio", "ranks", "delta", "signs", "budget", "count", "scale", "cap", "preset", "hand",
            "pinned", "p", "config", "model", "sample", "log", "warmup", "signal", "layers", "profile", "seed", "run", "include",
        ]), "[0-9a-z:,.=+-]{0,12}"), 0..12)
    ) {
        let mut link = form_urlencoded::Serializer::new(String::new());
        for (key, value) in &pairs {
            link.append_pair(key, value);
        }
        let back = from_link(&link.finish());
        prop_assert!(back.session.profile.fits(&back.session.layout));
        if let Ok(analysis) = Analysis::new(&back.session) {
            prop_assert!(analysis.ranks.layout().same_modules(&back.session.layout));
        }
    }
}

#[test]
fn bad_values_are_brought_to_the_nearest_good_one_with_a_notice() {
    let back = from_link("#v=1&sample=smollm2&r=99999&delta=-3&ratio=NaN&stages=0&hand=3:9999,x&signal=l3&colour=red");
    assert_eq!(back.session.plan.base_rank, 1024);
    assert_eq!(back.session.plan.delta, PlanConfig::default().delta);
    assert_eq!(back.session.by_hand, BTreeMap::from([(3, 576)]));
    assert!(matches!(&back.session.plan.stages, StageChoice::Clustered(stages) if stages.count == 1));
    let all = back.notices.join("\n");
    for word in ["r=99999", "1024 is used", "delta=-3", "ratio=NaN", "stages=0", "3:9999", "signal=l3", "colour"] {
        assert!(all.contains(word), "{word} is missing in:\n{all}");
    }
}

#[test]
fn a_sample_in_a_link_shows_all_of_its_modules() {
    let back = from_link("v=1&sample=smollm2&exclude=mlp");
    assert_eq!(back.session, Session::of_sample(Sample::SmolLm2));
    assert_eq!(back.notices, ["exclude=mlp in the link cannot be used; the sample smollm2 is shown as it is."]);
}

#[test]
fn a_link_of_another_version_opens_with_a_notice() {
    let back = from_link("v=9&sample=tiny-mobilevlm&r=8");
    assert_eq!(back.session.plan.base_rank, 8);
    assert!(back.notices[0].contains("another version"), "{:?}", back.notices);
}

#[test]
fn the_links_of_the_samples_are_short_and_those_of_their_logs_fit() {
    for sample in Sample::ALL {
        let mut session = Session::of_sample(sample);
        let (link, _) = to_link(&session, &BTreeMap::new());
        assert!(link.len() < 80, "{link}");
        session.source = Source::Log(vec!["grads.jsonl".to_owned()]);
        let (link, whole) = to_link(&session, &BTreeMap::new());
        assert!(whole && link.len() < 5_000, "{}", link.len());
    }
}

#[test]
fn a_profile_that_is_too_large_is_left_out_and_the_link_says_so() {
    let mut model = ModelSpec::preset("mobilevlm-3b").unwrap();
    model.decoder.layers = 200;
    let layout = model.layout().unwrap();
    let profile = made_up(&layout, Signal::L2);
    let source = Source::Log(vec!["big.jsonl".to_owned()]);
    let session = Session { layout, profile, source, ..Session::default() };
    let (link, whole) = to_link(&session, &BTreeMap::new());
    assert!(!whole && link.len() < LONGEST);
    let back = from_link(&link);
    assert!(back.notices[0].contains("drop the log again: big.jsonl"), "{:?}", back.notices);
    assert_eq!(back.session.source, Source::Sample(Sample::MobileVlm));
    // The browser keeps it whole, and knows which one a link without it means.
    let whole = to_whole_link(&session, &BTreeMap::new());
    assert_eq!(without_profile(&whole), link);
    let back = from_link(&whole);
    assert!(back.notices.is_empty(), "{:?}", back.notices);
    assert_eq!(back.session.profile, rounded(session.profile.clone()));
    // Another log of the same name has another link.
    let mut other = session;
    other.profile.modules[0].mean *= 2.0;
    assert_ne!(to_link(&other, &BTreeMap::new()), (link, false));
}

#[test]
fn a_link_is_found_in_the_text_of_a_file_and_nowhere_else() {
    assert_eq!(find_in("# hydra-playground: http://x/y/#v=1&r=8\nadapter: lora"), Some("v=1&r=8".to_owned()));
    assert_eq!(find_in("<metadata>hydra-playground: x#v=1&amp;r=8</metadata>"), Some("v=1&r=8".to_owned()));
    assert_eq!(find_in("adapter: lora # v=1"), None);
}

#[test]
fn a_link_of_an_older_page_brings_its_own_model() {
    let mut model = ModelSpec::preset("tiny-mobilevlm").unwrap();
    (model.decoder.intermediate, model.name) = (96, "mine".to_owned());
    let mut json = serde_json::to_value(&model).unwrap();
    json["decoder"]["extra_norms"] = 0.into();
    let profile = made_up(&model.layout().unwrap(), Signal::L2);
    let config = URL_SAFE_NO_PAD.encode(json.to_string());
    let back = from_link(&format!("v=1&log=x.jsonl&config={config}&p={}&r=4", profile_to_text(&profile)));
    assert_eq!(back.notices, Vec::<String>::new());
    assert_eq!(back.session.layout, model.layout().unwrap());
    assert_eq!(back.session.profile, rounded(profile));
}

#[test]
fn the_same_link_means_the_same_ranks_for_years() {
    // Changing the format without a new version would break every link that is out there.
    let back = from_link("v=1&sample=mobilevlm&r=128&stages=3&ratio=2&delta=2");
    let analysis = Analysis::new(&back.session).unwrap();
    assert_eq!(analysis.used, 121_110_016);
    assert!(back.notices.is_empty());
}
