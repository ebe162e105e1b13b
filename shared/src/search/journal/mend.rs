//! Healing what a writer leaves that dies while it writes: Optuna's next append goes onto the torn line, and from then on
//! Optuna cannot load the file.

use serde_json::Value;

use super::json;

/// What was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// The whole text, a record a line.
    pub text: String,
    /// Lines that held several records, which now stand on lines of their own; counted from 1.
    pub parted: Vec<usize>,
    /// Bytes of torn records that were left out.
    pub lost_bytes: usize,
}

/// The file with every record on a line of its own; none where it is so already.
///
/// A last record without its line end is kept if it is whole. Lines that hold no record are left as they are, for
/// [`Journal::parse`](super::Journal::parse) to name.
pub fn mended(bytes: &[u8]) -> Option<Mended> {
    let text = String::from_utf8_lossy(bytes);
    let mut mended = Mended { text: String::with_capacity(text.len()), parted: Vec::new(), lost_bytes: 0 };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (index, line) in lines.iter().enumerate() {
        let record = line.trim_end_matches(['\n', '\r']);
        if json::parse(record.as_bytes()).is_ok() {
            mended.text.push_str(record);
            mended.text.push('\n');
            continue;
        }
        let records = records_in(record);
        if records.is_empty() && index + 1 < lines.len() {
            mended.text.push_str(line);
            continue;
        }
        if !records.is_empty() {
            mended.parted.push(index + 1);
        }
        mended.lost_bytes += record.len() - records.iter().map(|record| record.len()).sum::<usize>();
        for record in records {
            mended.text.push_str(record);
            mended.text.push('\n');
        }
    }
    (mended.text.as_bytes() != bytes).then_some(mended)
}

/// The whole records in a line, in their order.
fn records_in(line: &str) -> Vec<&str> {
    const BEGIN: &str = "{\"op_code\"";
    let starts: Vec<usize> = line.match_indices(BEGIN).map(|(at, _)| at).chain([line.len()]).collect();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(&start) = starts.get(from) {
        // The longest piece from here that is a record: one may hold the words of another in a text.
        let ends = starts.iter().enumerate().skip(from + 1).rev();
        let whole = ends.filter_map(|(next, &end)| Some((next, line.get(start..end)?))).find(|(_, piece)| {
            json::parse(piece.as_bytes()).is_ok_and(|record| record.get("op_code").is_some_and(Value::is_u64))
        });
        match whole {
            Some((next, piece)) => {
                found.push(piece);
                from = next;
            }
            None => from += 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = r#"{"op_code":4,"study_id":0}"#;
    const B: &str = r#"{"op_code":8,"trial_id":0,"user_attr":{"note":"{\"op_code\": NaN"}}"#;

    #[test]
    fn a_whole_file_is_left_alone() {
        assert_eq!(mended(format!("{A}\n{B}\n").as_bytes()), None);
        assert_eq!(mended(b""), None);
    }

    #[test]
    fn records_on_one_line_are_parted_and_torn_ones_left_out() {
        let fused = mended(format!("{A}{B}\n{A}\n").as_bytes()).unwrap();
        assert_eq!(fused, Mended { text: format!("{A}\n{B}\n{A}\n"), parted: vec![1], lost_bytes: 0 });
        let torn = mended(format!("{A}\n{{\"op_code\":5,\"wor{B}\n{A}\n").as_bytes()).unwrap();
        assert_eq!(torn, Mended { text: format!("{A}\n{B}\n{A}\n"), parted: vec![2], lost_bytes: 17 });
    }

    #[test]
    fn the_last_record_is_kept_if_it_is_whole_and_left_out_if_it_is_torn() {
        let whole = mended(format!("{A}\n{B}").as_bytes()).unwrap();
        assert_eq!(whole, Mended { text: format!("{A}\n{B}\n"), parted: Vec::new(), lost_bytes: 0 });
        for end in ["{\"op_co", "{\"op_co\n"] {
            let torn = mended(format!("{A}\n{end}").as_bytes()).unwrap();
            assert_eq!(torn, Mended { text: format!("{A}\n"), parted: Vec::new(), lost_bytes: 7 });
        }
    }

    #[test]
    fn a_damaged_line_in_the_middle_stays_to_be_named() {
        assert_eq!(mended(format!("{A}\nnonsense\n{A}\n").as_bytes()), None);
    }
}
