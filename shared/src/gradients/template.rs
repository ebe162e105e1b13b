//! Rows of JSON that are alike: the text between their numbers, and what each number is.
//!
//! The rows of a run repeat their keys in the same order. Once a line was read in full, one that differs from it in nothing but
//! numbers is read by comparing the text between them; every other line is read in full again.

use hydra_kernels::decimal::Decimal;

use super::rows::Target;

/// What a number of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The step; the smaller the rank, the better.
    Step(u8),
    /// The loss; the smaller the rank, the better.
    Loss(u8),
    /// A norm over all parameters.
    Global,
    /// The norm of a parameter's gradient.
    Norm(Target),
    /// A number that says nothing.
    Nothing,
}

/// A number in a line that was read in full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Its first byte.
    pub(super) at: usize,
    pub(super) role: Role,
}

/// What a row says beside its norms.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct RowHead {
    /// The step and its rank.
    pub(super) step: Option<(u8, u64)>,
    /// The loss and its rank.
    pub(super) loss: Option<(u8, f64)>,
    pub(super) global: Option<f64>,
}

impl RowHead {
    /// Takes a step, unless a better key gave one.
    pub(super) fn set_step(&mut self, rank: u8, step: u64) {
        if self.step.is_none_or(|(best, _)| rank < best) {
            self.step = Some((rank, step));
        }
    }

    /// Takes a loss, unless a better key gave one.
    pub(super) fn set_loss(&mut self, rank: u8, loss: f64) {
        if self.loss.is_none_or(|(best, _)| rank < best) {
            self.loss = Some((rank, loss));
        }
    }
}

/// The largest whole number that a step may be: above it floats are no whole numbers any more.
pub(super) const LARGEST_STEP: u64 = 1 << 53;

/// Where the text before a number ends, and what the number is.
#[derive(Debug)]
struct Slot {
    text_end: usize,
    role: Role,
}

/// A line without its numbers.
#[derive(Debug)]
pub(super) struct Template {
    /// The text before each number, one after the other, and that behind the last.
    text: Vec<u8>,
    slots: Vec<Slot>,
    /// Where its norms go, in the order in which they stand.
    pub(super) targets: Vec<Target>,
}

impl Template {
    /// Takes the numbers out of a line of valid JSON. `placed` are those that were used, in order; none where one of them is not
    /// found again, or where the line has neither.
    pub(super) fn of(line: &[u8], placed: &[Placed]) -> Option<Self> {
        let mut template = Self { text: Vec::new(), slots: Vec::new(), targets: Vec::new() };
        let mut placed = placed.iter().peekable();
        let mut at = 0;
        while let Some(byte) = line.get(at) {
            match byte {
                b'"' => {
                    let end = end_of_string(line, at)?;
                    template.text.extend(line.get(at..end)?);
                    at = end;
                }
                b'-' | b'0'..=b'9' | b'N' | b'I' => {
                    let number = Decimal::at(line, at)?;
                    let role = placed.next_if(|placed| placed.at == at).map_or(Role::Nothing, |placed| placed.role);
                    if let Role::Norm(target) = role {
                        template.targets.push(target);
                    }
                    template.slots.push(Slot { text_end: template.text.len(), role });
                    at = number.end;
                }
                byte => {
                    template.text.push(*byte);
                    at += 1;
                }
            }
        }
        (placed.next().is_none() && !template.slots.is_empty()).then_some(template)
    }

    /// Reads the line that begins at a byte of a text, if it is alike: gives what it says and where the next line begins, and adds
    /// its norms to `norms`. None also for numbers that have to be complained about.
    pub(super) fn read(&self, text: &[u8], start: usize, norms: &mut Vec<f64>) -> Option<(RowHead, usize)> {
        let before = norms.len();
        let read = self.read_all(text, start, norms);
        if read.is_none() {
            norms.truncate(before);
        }
        read
    }

    fn read_all(&self, text: &[u8], start: usize, norms: &mut Vec<f64>) -> Option<(RowHead, usize)> {
        let mut head = RowHead::default();
        let (mut at, mut compared) = (start, 0);
        for slot in &self.slots {
            let own = self.text.get(compared..slot.text_end)?;
            let found = text.get(at..at + own.len())?;
            if !are_equal(own, found) {
                return None;
            }
            compared = slot.text_end;
            let number = Decimal::at(text, at + own.len())?;
            at = number.end;
            match slot.role {
                Role::Norm(_) if number.negative => return None,
                Role::Norm(_) => norms.push(number.value),
                Role::Step(rank) => {
                    let step = number.value as u64;
                    if !number.whole || step > LARGEST_STEP {
                        return None;
                    }
                    head.set_step(rank, step);
                }
                Role::Loss(rank) => head.set_loss(rank, number.value),
                Role::Global => head.global = Some(number.value),
                Role::Nothing => {}
            }
        }
        let own = self.text.get(compared..)?;
        if !are_equal(own, text.get(at..at + own.len())?) {
            return None;
        }
        at += own.len();
        while *text.get(at)? != b'\n' {
            if !text.get(at)?.is_ascii_whitespace() {
                return None;
            }
            at += 1;
        }
        Some((head, at + 1))
    }
}

/// The byte behind the string that begins with the quote at a byte.
fn end_of_string(line: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match line.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Whether two texts of one length are equal, eight bytes at a time: WebAssembly's own comparison goes byte by byte. The last bytes
/// are compared together with some before them.
#[inline(always)]
fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let half = |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes);
    if let (Some(a_last), Some(b_last)) = (a.last_chunk(), b.last_chunk()) {
        let words = a.as_chunks().0.iter().zip(b.as_chunks().0);
        return word(a_last) == word(b_last) && words.into_iter().all(|(a, b)| word(a) == word(b));
    }
    if let (Some(a_first), Some(b_first)) = (a.first_chunk(), b.first_chunk())
        && let (Some(a_last), Some(b_last)) = (a.last_chunk(), b.last_chunk())
    {
        return half(a_first) == half(b_first) && half(a_last) == half(b_last);
    }
    a == b
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const LINE: &[u8] = br#"{"step": 7, "note": "a\"1", "lr": 1e-3, "loss": -2.5}"#;

    fn template() -> Template {
        let at = |text: &str| LINE.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let placed = [Placed { at: at("7,"), role: Role::Step(1) }, Placed { at: at("-2.5"), role: Role::Loss(0) }];
        Template::of(LINE, &placed).unwrap()
    }

    #[test]
    fn a_line_is_alike_whatever_its_numbers_and_its_end() {
        for (line, step, loss) in [
            (r#"{"step": 7, "note": "a\"1", "lr": 1e-3, "loss": -2.5}"#, 7, -2.5),
            (r#"{"step": 12345, "note": "a\"1", "lr": 5, "loss": 0.25}"#, 12_345, 0.25),
        ] {
            for end in ["\n", "\r\n", " \t\r\n"] {
                let text = format!("..{line}{end}{{");
                let head = RowHead { step: Some((1, step)), loss: Some((0, loss)), global: None };
                let next = text.len() - 1;
                assert_eq!(template().read(text.as_bytes(), 2, &mut Vec::new()), Some((head, next)), "{text:?}");
            }
        }
    }

    #[test]
    fn other_texts_and_numbers_that_are_no_steps_are_not_alike() {
        for line in [
            r#"{"step": 7, "note": "a\"2", "lr": 1e-3, "loss": -2.5}"#,
            r#"{"step": 7, "note": "a\"1", "lr": null, "loss": -2.5}"#,
            r#"{"step": 7.0, "note": "a\"1", "lr": 1e-3, "loss": -2.5}"#,
            r#"{"step": -7, "note": "a\"1", "lr": 1e-3, "loss": -2.5}"#,
            r#"{"step": 9007199254740995, "note": "a\"1", "lr": 1e-3, "loss": -2.5}"#,
            r#"{"step": 7, "note": "a\"1", "lr": 1e-3, "loss": -2.5}}"#,
            r#"{"step": 7, "note": "a\"1", "lr": 1e-3, "loss": -2.5,"#,
        ] {
            assert_eq!(template().read(format!("{line}\n").as_bytes(), 0, &mut Vec::new()), None, "{line}");
        }
        // A line without its end may go on.
        assert_eq!(template().read(LINE, 0, &mut Vec::new()), None);
    }
}
