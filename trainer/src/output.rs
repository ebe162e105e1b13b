//! What a command prints: one result on standard output, everything else on standard error.

use std::fmt::{Arguments, Display};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
pub use hydra_playground::text::thousands;
use hydra_shared::files::voice::Voice;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::error::{Kind, ResultExt};

/// Time between two progress lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How a command talks.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    bars: Option<MultiProgress>,
}

impl Output {
    /// Bars appear only on a terminal, and not where `NO_COLOR` or `TERM=dumb` ask for plain text.
    pub fn new(json: bool, quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let bars = (!quiet && !plain && io::stderr().is_terminal()).then(MultiProgress::new);
        Self { json, quiet, bars }
    }

    /// Whether the result is to be one JSON document.
    pub fn json(&self) -> bool {
        self.json
    }

    /// One line about what happens, on standard error; nothing with `--quiet`.
    pub fn note(&self, line: impl Display) {
        if !self.quiet {
            self.line(line);
        }
    }

    /// One line that must be seen, on standard error.
    pub fn warn(&self, line: impl Display) {
        self.line(format_args!("warning: {line}"));
    }

    /// The message of a failed command.
    pub fn error(&self, line: impl Display) {
        self.line(format_args!("error: {line}"));
    }

    fn line(&self, line: impl Display) {
        match &self.bars {
            Some(bars) => bars.suspend(|| write_stderr(&line)),
            None => write_stderr(&line),
        }
    }

    /// The command's result on standard output: the document with `--json`, otherwise the text for people.
    ///
    /// # Errors
    /// Standard output that cannot be written. A reader that went away (`| head`) is not an error.
    pub fn result(&self, document: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json {
            let mut json = serde_json::to_string_pretty(document).context("cannot write the result as JSON")?;
            json.push('\n');
            write_stdout(&json)
        } else {
            let mut text = text();
            if !text.ends_with('\n') {
                text.push('\n');
            }
            write_stdout(&text)
        }
    }

    /// Starts showing progress towards `total` units (0: unknown).
    pub fn progress(&self, title: &str, total: u64) -> Progress {
        let shape = if self.quiet {
            Shape::Silent
        } else if let Some(bars) = &self.bars {
            let bar = bars.add(if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) });
            let template = if total == 0 {
                "{prefix}  {spinner} {pos}  {elapsed}  {msg}"
            } else {
                "{prefix}  {bar:30} {pos}/{len}  {elapsed} (left: {eta})  {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(title.to_owned());
            Shape::Bar(bar)
        } else {
            self.line(format_args!("{title} …"));
            Shape::Lines { last: Instant::now() }
        };
        Progress { title: title.to_owned(), total, done: 0, started: Instant::now(), shape }
    }

    /// Sends log events to standard error, between the bars. `filter` is an `EnvFilter`: `info`,
    /// `hydra_trainer=debug`, …
    ///
    /// # Errors
    /// A filter that is none.
    pub fn start_logging(&self, filter: &str) -> anyhow::Result<()> {
        let parsed = EnvFilter::try_new(filter)
            .or_fail(Kind::Usage, || format!("--log {filter}: try error, warn, info, debug or hydra_trainer=debug"))?;
        // A second start (tests of the library) keeps the first one.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(parsed)
            .with_ansi(self.bars.is_some())
            .with_writer(LogWriter(self.bars.clone()))
            .try_init();
        Ok(())
    }
}

impl Voice for Output {
    fn note(&self, line: Arguments<'_>) {
        Self::note(self, line);
    }

    fn warn(&self, line: Arguments<'_>) {
        Self::warn(self, line);
    }
}

/// Progress of one piece of work: a bar on a terminal, otherwise a line now and then.
#[derive(Debug)]
pub struct Progress {
    title: String,
    total: u64,
    done: u64,
    started: Instant,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Bar(ProgressBar),
    Lines { last: Instant },
    Silent,
}

impl Progress {
    /// Sets the units done and what to say beside them (a loss, a score).
    pub fn set(&mut self, done: u64, message: impl Display) {
        self.done = done;
        match &mut self.shape {
            Shape::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(message.to_string());
            }
            Shape::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                write_stderr(&format_args!("{}  {}  {message}", self.title, fraction(done, self.total)));
            }
            Shape::Lines { .. } | Shape::Silent => {}
        }
    }

    /// One unit more.
    pub fn step(&mut self, message: impl Display) {
        self.set(self.done + 1, message);
    }

    /// Ends it with a last word, which stays on the screen.
    pub fn finish(self, message: impl Display) {
        match self.shape {
            Shape::Bar(bar) => bar.finish_with_message(message.to_string()),
            Shape::Lines { .. } => {
                let seconds = self.started.elapsed().as_secs_f64();
                let done = fraction(self.done, self.total);
                write_stderr(&format_args!("{}  {done}  {seconds:.1} s  {message}", self.title));
            }
            Shape::Silent => {}
        }
    }
}

fn fraction(done: u64, total: u64) -> String {
    if total == 0 { done.to_string() } else { format!("{done}/{total}") }
}

/// A table for people: a header, a rule, aligned columns. The columns in `numbers` are aligned to the right.
pub fn table(header: &[&str], numbers: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Writes to standard output; a reader that went away is not an error.
///
/// # Errors
/// Any other failure to write.
pub fn write_stdout(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error. `eprintln!` would panic where its reader has gone away (`2>&1 | head`), and the command
/// would end with the panic's exit code: there is nobody left to tell, and the command goes on.
pub fn write_stderr(line: &dyn Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Lifts the bars while a log line is written. A reader that went away is no error, as in [`write_stderr`].
#[derive(Debug, Clone)]
struct LogWriter(Option<MultiProgress>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write_all(bytes);
        let _ = match &self.0 {
            Some(bars) => bars.suspend(write),
            None => write(),
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(121_110_528), "121,110,528");
    }

    #[test]
    fn table_columns_line_up_and_numbers_stand_on_the_right() {
        let text = table(
            &["arm", "rank"],
            &[1],
            [vec!["uniform".to_owned(), "8".to_owned()], vec!["coarse".to_owned(), "128".to_owned()]],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "header, rule, two rows:\n{text}");
        assert!(lines[2].starts_with("uniform") && lines[3].starts_with("coarse"), "{text}");
        assert!(lines[2].ends_with("  8") && lines[3].ends_with("128"), "{text}");
        assert_eq!(lines[2].chars().count(), lines[3].chars().count(), "{text}");
    }
}
