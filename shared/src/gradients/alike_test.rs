//! Lines that are alike say the same read by comparison as read in full, and norms come to the same summed up as kept.

use proptest::prelude::*;

use super::blocks::LineReading;
use super::read::read_lines;
use super::*;
use crate::layout::{Layout, Module};

const MODULES: [&str; 4] =
    ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "lm_head"];

/// What is odd about a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Oddity {
    /// A number in these words.
    Number(&'static str),
    /// Before, behind or in place of the row, and this text.
    Line(&'static str),
    Instead(&'static str),
    /// The row's step goes on from here.
    Step(u64),
    /// Its keys come in another order, with other space between them, or one is missing.
    Reversed,
    Spaced,
    Lacking,
    NoLoss,
    NoStep,
}

fn oddity() -> impl Strategy<Value = Oddity> {
    let numbers = [
        "NaN",
        "Infinity",
        "-Infinity",
        "-0.5",
        "-0.0",
        "-0",
        "0",
        "1",
        "1e999",
        "\"NaN\"",
        "\"0.25\"",
        "null",
        "[1]",
        "{}",
        "true",
        "01",
        "1.",
        ".5",
        "1e",
        "12345678901234567890",
        "0.1234567890123456789012345",
        "1e-320",
        "4.35e-3",
    ];
    let lines = [
        "",
        "  ",
        "{\"step\":3,\"eval_loss\":0.5}",
        "{\"step\":2,\"loss\":0.125}",
        "{\"step\":2,\"grad_norm\":NaN}",
        "{\"epoch\":1}",
        "{\"step\":9,\"rows\":[{\"step\":1,\"loss\":2}]}",
        "{\"run\":\"b\",\"step\":1,\"grads\":{\"model.layers.0.mlp.up_proj\":{\"A\":1,\"B\":2}}}",
        "{\"step\":400,\"grads\":{\"model.layers.0.mlp.down_proj\":1.5}}",
        "{\"hydra_grads\":1,\"norm\":\"l2\"}",
        "{\"step\":",
        "nonsense",
        "\u{feff}{}",
    ];
    prop_oneof![
        6 => prop::sample::select(numbers.to_vec()).prop_map(Oddity::Number),
        3 => prop::sample::select(lines.to_vec()).prop_map(Oddity::Line),
        1 => prop::sample::select(lines.to_vec()).prop_map(Oddity::Instead),
        2 => (0_u64..60).prop_map(Oddity::Step),
        1 => Just(Oddity::Reversed),
        1 => Just(Oddity::Spaced),
        1 => Just(Oddity::Lacking),
        1 => Just(Oddity::NoLoss),
        1 => Just(Oddity::NoStep),
    ]
}

/// How all rows are written.
#[derive(Debug, Clone, Copy)]
enum Style {
    Pairs,
    Weights,
    Flat,
    Bare,
}

#[derive(Debug, Clone)]
struct Made {
    style: Style,
    header: bool,
    rows: usize,
    odd: Vec<(usize, Oddity)>,
    end: &'static str,
    /// Bytes that are cut off at the end.
    cut: usize,
    seed: u64,
}

fn made() -> impl Strategy<Value = Made> {
    let style =
        prop_oneof![4 => Just(Style::Pairs), 1 => Just(Style::Weights), 2 => Just(Style::Flat), 1 => Just(Style::Bare)];
    let odd = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec((0_usize..40, oddity()), 1..3),
        1 => prop::collection::vec((0_usize..40, oddity()), 3..8),
    ];
    let end = prop::sample::select(vec!["\n", "\r\n", " \n"]);
    (style, any::<bool>(), 1_usize..40, odd, end, prop_oneof![3 => Just(0_usize), 1 => 0_usize..80], any::<u64>())
        .prop_map(|(style, header, rows, odd, end, cut, seed)| Made { style, header, rows, odd, end, cut, seed })
}

impl Made {
    fn text(&self) -> Vec<u8> {
        let mut state = self.seed | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 4 {
                0 => f64::from(((state >> 40) as f32) * 1e-6).to_string(),
                1 => format!("{:e}", (state >> 11) as f64 * 1e-20),
                _ => format!("{:?}", (state >> 11) as f64 / (1_u64 << 53) as f64),
            }
        };
        let mut text = String::new();
        if self.header {
            text += "{\"hydra_grads\":1,\"model\":\"m\",\"norm\":\"l2\",\"clip\":\"pre\",\"lora\":{\"r\":4}}";
            text += self.end;
        }
        let mut step = 0;
        for row in 0..self.rows {
            step += 1;
            let odd: Vec<Oddity> = self.odd.iter().filter(|(at, _)| *at == row).map(|(_, odd)| *odd).collect();
            let mut number = |first: bool| {
                let odd = odd.iter().find_map(|odd| if let Oddity::Number(text) = odd { Some(*text) } else { None });
                odd.filter(|_| first).map_or_else(&mut draw, str::to_owned)
            };
            let mut members = Vec::new();
            for (at, module) in MODULES.into_iter().enumerate() {
                let first = at == row % MODULES.len();
                let member = match self.style {
                    Style::Pairs => format!("\"{module}\":{{\"A\":{},\"B\":{}}}", number(first), number(false)),
                    Style::Weights => format!("\"{module}.weight\":{}", number(first)),
                    Style::Flat => format!(
                        "\"grad_norm/{module}.lora_A.weight\":{},\"grad_norm/{module}.lora_B.weight\":{}",
                        number(first),
                        number(false)
                    ),
                    Style::Bare => format!("\"{module}\":{}", number(first)),
                };
                if !(odd.contains(&Oddity::Lacking) && at == 1) {
                    members.push(member);
                }
            }
            if odd.contains(&Oddity::Reversed) {
                members.reverse();
            }
            let mut space = if odd.contains(&Oddity::Spaced) { " " } else { "" };
            for odd in &odd {
                match odd {
                    Oddity::Step(other) => step = *other,
                    Oddity::Line(line) => text += &format!("{line}{}", self.end),
                    Oddity::Instead(line) => {
                        text += &format!("{line}{}", self.end);
                        space = "\n";
                    }
                    _ => {}
                }
            }
            if space == "\n" {
                continue;
            }
            let loss =
                if odd.contains(&Oddity::NoLoss) { String::new() } else { format!("\"loss\":{},", number(false)) };
            let step = if odd.contains(&Oddity::NoStep) { String::new() } else { format!("\"step\":{step},") };
            let members = members.join(",");
            text += &match self.style {
                Style::Pairs | Style::Weights => format!("{{{space}{step}{loss}\"grads\":{{{members}}}}}{}", self.end),
                Style::Flat | Style::Bare => format!("{{{step}\"lr\":1e-4,{loss}{space}{members}}}{}", self.end),
            };
        }
        let mut text = text.into_bytes();
        text.truncate(text.len() - self.cut.min(text.len()));
        text
    }
}

fn layout() -> Layout {
    let modules = MODULES.into_iter().take(3).map(|name| {
        let parsed = ParameterName::parse(name);
        let kind = crate::layout::Kind::Projection(parsed.projection.unwrap());
        Module { name: name.to_owned(), layer: parsed.layer, kind, d_in: 8, d_out: 16 }
    });
    Layout::new("m", modules.collect()).unwrap()
}

/// Everything of a log but norms. NaN is equal to itself in words.
fn without_norms(log: &GradientLog) -> String {
    let steps: Vec<_> = log.steps.iter().map(|step| (step.step, step.loss, step.place)).collect();
    format!("{:?} {} {:?} {:?} {steps:?} {:?}", log.meta, log.estimated, log.modules, log.others, log.report)
}

fn profiles_are_equal(
    text: &[u8],
    kept: &GradientLog,
    summed: GradientLog,
    config: &ProfileConfig,
) -> Result<(), TestCaseError> {
    let layout = layout();
    let expected = profile(kept, &layout, config);
    let mut log = summed;
    for _ in 0..3 {
        match profile(&log, &layout, config) {
            Err(ProfileError::Again(summing)) => {
                log = read_lines(text, BLOCKS, Some(&summing)).unwrap().unwrap();
            }
            found => {
                prop_assert_eq!(format!("{:?}", found), format!("{:?}", expected));
                return Ok(());
            }
        }
    }
    prop_assert!(false, "it has to be read again and again");
    Ok(())
}

/// So few bytes that blocks end everywhere.
const BLOCKS: LineReading = LineReading { first_block: 700, block: 1_500, templates: 3 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn alike_lines_say_the_same_as_read_in_full_and_sums_come_to_the_same_profile(
        made in made(),
        share in prop::sample::select(vec![0.0, 0.1, 0.29, 0.5, 0.9]),
        signal in prop::sample::select(vec![Signal::L2, Signal::Rms, Signal::Fisher]),
        skip_non_finite in any::<bool>(),
        knows_end in any::<bool>(),
        piece in 1_usize..5_000,
    ) {
        let text = made.text();
        let in_full = read_lines(&text, LineReading { templates: 0, ..LineReading::default() }, None);
        let alike = read_lines(&text, BLOCKS, None);
        prop_assert_eq!(format!("{:?}", alike), format!("{:?}", in_full));
        let summing = Summing::norms(share, if knows_end { &text } else { &[] });
        let summed = read_lines(&text, BLOCKS, Some(&summing));
        // Bytes that come in pieces are the same bytes.
        let mut rest = text.as_slice();
        let next = async |block: &mut Vec<u8>| {
            let piece = rest.split_off(..rest.len().min(piece)).unwrap_or_default();
            block.extend(piece);
            Ok(piece.len())
        };
        let awaited = pollster::block_on(read_summed_awaiting("log", "", next, &Limits::default(), None, &summing));
        // What is no JSON lines is left to others there.
        if !matches!(awaited, Ok(None)) {
            prop_assert_eq!(format!("{:?}", awaited), format!("{:?}", summed));
        }
        match (summed, in_full) {
            (Ok(None), _) => {}
            (Ok(Some(summed)), Ok(Some(kept))) => {
                prop_assert_eq!(without_norms(&summed), without_norms(&kept));
                for column in 0..kept.modules.len() + kept.others.len() {
                    prop_assert_eq!(summed.holds_weight(column), kept.holds_weight(column));
                }
                let config = ProfileConfig { signal, warm_up_share: share, skip_non_finite };
                profiles_are_equal(&text, &kept, summed, &config)?;
            }
            (summed, in_full) => prop_assert_eq!(format!("{:?}", summed.err()), format!("{:?}", in_full.err())),
        }
    }
}

#[test]
fn a_plain_log_is_read_once_for_its_profile() {
    let made = Made { style: Style::Pairs, header: true, rows: 39, odd: Vec::new(), end: "\n", cut: 0, seed: 7 };
    let text = made.text();
    let config = ProfileConfig::default();
    let log = read_lines(&text, BLOCKS, Some(&Summing::norms(config.warm_up_share, &text))).unwrap().unwrap();
    assert!(log.steps.iter().skip(1).all(|step| step.gradients.is_empty()));
    let kept = read("log", text.as_slice()).unwrap();
    assert_eq!(profile(&log, &layout(), &config).unwrap(), profile(&kept, &layout(), &config).unwrap());
}
