//! Lists of names, and numbers, in messages.

use std::fmt::Display;

/// Names that a message lists before it counts the rest.
pub const NAMED: usize = 5;

/// The first five names, and how many more there are: `a, b, c, d, e and 3 more`.
pub fn first_names<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    first_of(names, ", ")
}

/// The first five statements, and how many more there are: `a is 1; b is 2 and 3 more`.
pub fn first_statements<T: Display>(statements: impl IntoIterator<Item = T>) -> String {
    first_of(statements, "; ")
}

fn first_of<T: Display>(entries: impl IntoIterator<Item = T>, between: &str) -> String {
    let mut entries = entries.into_iter();
    let first: Vec<String> = entries.by_ref().take(NAMED).map(|entry| entry.to_string()).collect();
    match entries.count() {
        0 => first.join(between),
        more => format!("{} and {more} more", first.join(between)),
    }
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_end_after_five() {
        assert_eq!(first_names(["a", "b"]), "a, b");
        assert_eq!(first_names(1..=5), "1, 2, 3, 4, 5");
        assert_eq!(first_names(1..=8), "1, 2, 3, 4, 5 and 3 more");
        assert_eq!(first_statements(1..=7), "1; 2; 3; 4; 5 and 2 more");
    }
}
