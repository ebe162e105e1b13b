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

/// How a text is read, and as what.
#[derive(Debug, Clone)]
struct Reading {
    share: f64,
    signal: Signal,
    skip_non_finite: bool,
    knows_end: bool,
    /// Bytes that come at once.
    piece: usize,
}

fn reading() -> impl Strategy<Value = Reading> {
    let share = prop::sample::select(vec![0.0, 0.1, 0.29, 0.5, 0.9]);
    let signal = prop::sample::select(vec![Signal::L2, Signal::Rms, Signal::Fisher]);
    (share, signal, any::<bool>(), any::<bool>(), 1_usize..5_000).prop_map(
        |(share, signal, skip_non_finite, knows_end, piece)| Reading {
            share,
            signal,
            skip_non_finite,
            knows_end,
            piece,
        },
    )
}

fn every_way_of_reading_says_the_same(text: &[u8], reading: &Reading) -> Result<(), TestCaseError> {
    let in_full = read_lines(text, LineReading { templates: 0, ..LineReading::default() }, None);
    let alike = read_lines(text, BLOCKS, None);
    prop_assert_eq!(format!("{:?}", alike), format!("{:?}", in_full));
    let ends = || LogEnds { first: text.to_vec(), last: text.to_vec() };
    let summing = Summing::norms(reading.share, &if reading.knows_end { ends() } else { LogEnds::default() });
    let summed = read_lines(text, BLOCKS, Some(&summing));
    // Bytes that come in pieces are the same bytes.
    let mut rest = text;
    let next = async |block: &mut Vec<u8>| {
        let piece = rest.split_off(..rest.len().min(reading.piece)).unwrap_or_default();
        block.extend(piece);
        Ok(piece.len())
    };
    let awaited = pollster::block_on(read_summed_awaiting("log", "", next, &Limits::default(), None, &summing));
    // What is neither JSON lines nor a table is left to others there.
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
            let Reading { signal, share, skip_non_finite, .. } = *reading;
            profiles_are_equal(text, &kept, summed, &ProfileConfig { signal, warm_up_share: share, skip_non_finite })?;
        }
        (summed, in_full) => prop_assert_eq!(format!("{:?}", summed.err()), format!("{:?}", in_full.err())),
    }
    Ok(())
}

/// A table of the same.
#[derive(Debug, Clone)]
struct Tabled {
    delimiter: char,
    /// The step's column comes last, as Lightning sorts them, and a row of the loss behind that of the norms.
    sorted: bool,
    /// Every cell stands in quotes, as W&B writes them; the columns name a run.
    quoted: bool,
    rows: usize,
    /// Cells in other words: row, column, text.
    odd: Vec<(usize, usize, &'static str)>,
    /// Lines before rows.
    lines: Vec<(usize, &'static str)>,
    end: &'static str,
    cut: usize,
    seed: u64,
}

fn tabled() -> impl Strategy<Value = Tabled> {
    let cells = [
        "",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "-0.5",
        "-0.0",
        "0",
        "7",
        "1e999",
        "01",
        "1.",
        ".5",
        "1e",
        " 0.5 ",
        "0.5 ",
        "\"0.5\"",
        "\"0,5\"",
        "0,5",
        "\"1,250\"",
        "tensor(0.5)",
        "\"tensor(0.5, device='cuda:0')\"",
        "None",
        "high",
        "\"a\"\"b\"",
        "\"a\nb\"",
        "{'bins': [0, 1], 'values': [3]}",
        "12345678901234567890",
        "3.0",
        "2.5",
        "#",
        "\u{feff}1",
    ];
    let lines = [
        "",
        "  ",
        "#a comment",
        "\"#\",1",
        "1,2",
        "step,loss",
        "nonsense",
        "\"open",
        "2026-11-30,x,1,2,3,4,5,6,7",
        ",,,,,",
        "\r",
    ];
    let odd = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec((0_usize..40, 0_usize..8, prop::sample::select(cells.to_vec())), 1..4),
    ];
    let lines = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((0_usize..40, prop::sample::select(lines.to_vec())), 1..3),
    ];
    let delimiter = prop::sample::select(vec![',', ',', ';', '\t']);
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    let cut = prop_oneof![3 => Just(0_usize), 1 => 0_usize..80];
    (delimiter, any::<bool>(), prop::bool::weighted(0.3), 1_usize..40, odd, lines, end, cut, any::<u64>()).prop_map(
        |(delimiter, sorted, quoted, rows, odd, lines, end, cut, seed)| Tabled {
            delimiter,
            sorted,
            quoted,
            rows,
            odd,
            lines,
            end,
            cut,
            seed,
        },
    )
}

impl Tabled {
    fn text(&self) -> Vec<u8> {
        let mut state = self.seed | 1;
        let mut number = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("{:?}", (state >> 11) as f64 / (1_u64 << 53) as f64)
        };
        let run = if self.quoted { "warm-fog-1 - " } else { "" };
        let mut names: Vec<String> = MODULES.map(|module| format!("{run}grad_2.0_norm/{module}.weight")).into();
        names.extend(["time".to_owned(), format!("{run}loss")]);
        names.insert(if self.sorted { names.len() } else { 0 }, if self.quoted { "Step" } else { "step" }.to_owned());
        let mut text = String::new();
        let mut add = |cells: Vec<String>| {
            let quoted = |cell: &String| if self.quoted { format!("\"{cell}\"") } else { cell.clone() };
            text += &cells.iter().map(quoted).collect::<Vec<_>>().join(&self.delimiter.to_string());
            text += self.end;
            text.len()
        };
        add(names.clone());
        for row in 0..self.rows {
            for (_, line) in self.lines.iter().filter(|(at, _)| *at == row) {
                add(vec![(*line).to_owned()]);
            }
            let cell = |(column, name): (usize, &String)| {
                let odd = self.odd.iter().find(|(at, of, _)| (*at, *of) == (row, column));
                match (odd, name.as_str()) {
                    (Some((_, _, odd)), _) => (*odd).to_owned(),
                    (None, "step" | "Step") => (row + 1).to_string(),
                    (None, "time") => format!("2026-11-30 10:{row:02}"),
                    (None, name) if self.sorted && name.ends_with("loss") => String::new(),
                    _ => number(),
                }
            };
            let cells = names.iter().enumerate().map(cell).collect();
            add(cells);
            if self.sorted {
                let loss = |name: &String| match name.as_str() {
                    "step" | "Step" => (row + 1).to_string(),
                    name if name.ends_with("loss") => number(),
                    _ => String::new(),
                };
                let cells = names.iter().map(loss).collect();
                add(cells);
            }
        }
        let mut text = text.into_bytes();
        text.truncate(text.len() - self.cut.min(text.len()));
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn alike_lines_say_the_same_as_read_in_full_and_sums_come_to_the_same_profile(made in made(), reading in reading()) {
        every_way_of_reading_says_the_same(&made.text(), &reading)?;
    }

    #[test]
    fn alike_rows_of_a_table_say_the_same_as_read_in_full_and_sums_come_to_the_same_profile(
        made in tabled(),
        reading in reading(),
    ) {
        every_way_of_reading_says_the_same(&made.text(), &reading)?;
    }
}

#[test]
fn a_plain_log_is_read_once_for_its_profile() {
    let made = Made { style: Style::Pairs, header: true, rows: 39, odd: Vec::new(), end: "\n", cut: 0, seed: 7 };
    let text = made.text();
    let config = ProfileConfig::default();
    let log = read_lines(
        &text,
        BLOCKS,
        Some(&Summing::norms(config.warm_up_share, &LogEnds { first: text.clone(), last: text.clone() })),
    )
    .unwrap()
    .unwrap();
    assert!(log.steps.iter().skip(1).all(|step| step.gradients.is_empty()));
    let kept = read("log", text.as_slice()).unwrap();
    assert_eq!(profile(&log, &layout(), &config).unwrap(), profile(&kept, &layout(), &config).unwrap());
}

#[test]
fn a_plain_table_is_read_once_for_its_profile_whoever_wrote_it() {
    for (delimiter, sorted, quoted) in
        [(',', false, false), (',', true, false), (',', false, true), (';', false, false)]
    {
        let (odd, lines) = (Vec::new(), Vec::new());
        let made = Tabled { delimiter, sorted, quoted, rows: 39, odd, lines, end: "\n", cut: 0, seed: 7 };
        let text = made.text();
        let config = ProfileConfig::default();
        let ends = LogEnds { first: text.clone(), last: text.clone() };
        let log = read_lines(&text, BLOCKS, Some(&Summing::norms(config.warm_up_share, &ends))).unwrap().unwrap();
        assert!(log.steps.iter().skip(1).all(|step| step.gradients.is_empty()));
        let kept = read("log", text.as_slice()).unwrap();
        assert_eq!(profile(&log, &layout(), &config).unwrap(), profile(&kept, &layout(), &config).unwrap());
    }
}

#[test]
fn norms_that_are_summed_up_do_not_count_as_kept_ones() {
    let made = Made { style: Style::Pairs, header: true, rows: 39, odd: Vec::new(), end: "\n", cut: 0, seed: 7 };
    let text = made.text();
    let limits = Limits { values: 40, ..Limits::default() };
    let summing = Summing::norms(0.0, &LogEnds { first: text.clone(), last: text.clone() });
    let file = || [LogFile { name: "log".to_owned(), folder: String::new(), reader: text.as_slice() }];
    assert!(read_summed(file(), &limits, None, &summing).unwrap().is_some());
    let kept = read_files(file(), &limits, None).unwrap_err();
    assert!(matches!(kept.problem, LogProblem::TooManyValues { limit: 40 }));
}
