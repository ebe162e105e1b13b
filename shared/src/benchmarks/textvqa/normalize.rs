//! Answers made alike before they are compared, by the rules of VQA's evaluation as M4C, LLaVA and MobileVLM run it
//! (`EvalAIAnswerProcessor`). What looks like a slip there is kept: scores are to be comparable.

const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Contractions by their ending. A word that lacks exactly one of the apostrophes gets it back: `dont`, `couldnt've`,
/// `couldn'tve`.
///
/// Not among them, though the official list names them: those of "I", which it writes with a capital that no word in lower
/// case equals, and "let's" and "she's", which it maps to themselves.
const CONTRACTIONS: [&[&str]; 9] = [
    // … not
    &[
        "ain't",
        "aren't",
        "can't",
        "couldn't",
        "didn't",
        "doesn't",
        "don't",
        "hadn't",
        "hasn't",
        "haven't",
        "isn't",
        "mightn't",
        "mustn't",
        "needn't",
        "oughtn't",
        "shan't",
        "shouldn't",
        "wasn't",
        "weren't",
        "won't",
        "wouldn't",
    ],
    // … not have
    &["couldn't've", "hadn't've", "mightn't've", "shouldn't've", "wouldn't've"],
    // … have
    &[
        "could've",
        "might've",
        "must've",
        "not've",
        "should've",
        "they've",
        "we've",
        "what've",
        "where've",
        "who've",
        "would've",
        "you've",
    ],
    // … would
    &["he'd", "how'd", "it'd", "someone'd", "something'd", "there'd", "they'd", "where'd", "who'd", "you'd"],
    // … would have
    &[
        "he'd've",
        "it'd've",
        "she'd've",
        "somebody'd've",
        "someone'd've",
        "something'd've",
        "there'd've",
        "they'd've",
        "we'd've",
        "who'd've",
        "you'd've",
    ],
    // … is
    &["he's", "how's", "somebody's", "someone's", "that's", "there's", "what's", "when's", "where's", "who's", "why's"],
    // … are
    &["there're", "they're", "what're", "why're", "you're"],
    // … will
    &[
        "how'll",
        "it'll",
        "somebody'll",
        "someone'll",
        "something'll",
        "they'll",
        "what'll",
        "who'll",
        "why'll",
        "you'll",
    ],
    // Others
    &["ma'am", "o'clock", "'ow's'at", "'twas", "y'all", "y'all'll", "y'all'd've"],
];

/// The one entry of the official list that takes an apostrophe away.
const REVERSED: (&str, &str) = ("somebody'd", "somebodyd");

/// The official evaluation drops no more full stops than this: it passes the flag `re.UNICODE`, which is 32, where `re.sub`
/// expects a count.
const FULL_STOPS: usize = 32;

/// VQA's normalisation: lower case, punctuation, articles, number words and contractions made alike.
///
/// A possessive "'s" becomes a word of its own, commas and question marks vanish, full stops stay only before a digit.
pub(super) fn normalize_answer(answer: &str) -> String {
    let lower = answer.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    let text = lower.trim().replace(['\n', '\t'], " ");
    let text = text.trim();
    let mut plain = text.to_owned();
    for mark in PUNCTUATION {
        // One mark beside a space anywhere decides for all of its kind: they vanish; else each parts its word in two.
        let beside_space = text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        plain = plain.replace(mark, if beside_space { "" } else { " " });
    }
    let plain = without_full_stops(&plain);
    let words = plain.split_whitespace().map(in_digits).filter(|word| !ARTICLES.contains(word));
    words.map(contracted).collect::<Vec<_>>().join(" ")
}

/// Drops full stops that no digit follows: decimal points stay.
fn without_full_stops(text: &str) -> String {
    let mut letters = text.chars().peekable();
    let mut kept = String::with_capacity(text.len());
    let mut dropped = 0;
    while let Some(letter) = letters.next() {
        if letter == '.' && dropped < FULL_STOPS && !letters.peek().is_some_and(char::is_ascii_digit) {
            dropped += 1;
        } else {
            kept.push(letter);
        }
    }
    kept
}

fn in_digits(word: &str) -> &str {
    NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits)
}

fn contracted(word: &str) -> &str {
    if word == REVERSED.0 {
        return REVERSED.1;
    }
    let mut full = CONTRACTIONS.iter().flat_map(|ending| ending.iter());
    full.find(|full| lacks_one_apostrophe(word, full)).copied().unwrap_or(word)
}

fn lacks_one_apostrophe(word: &str, full: &str) -> bool {
    word.len() + 1 == full.len()
        && full.match_indices('\'').any(|(at, _)| word.starts_with(&full[..at]) && word.ends_with(&full[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_alike(rows: &[(&str, &str)]) {
        for (answer, expected) in rows {
            assert_eq!(normalize_answer(answer), *expected, "{answer:?}");
        }
    }

    #[test]
    fn answers_are_made_alike_as_in_vqas_evaluation() {
        made_alike(&[
            ("The Coca-Cola.", "coca cola"),
            ("a STOP sign!", "stop sign"),
            ("tom's", "tom 's"),
            ("line\none\ttwo", "line 1 2"),
            ("  ", ""),
        ]);
    }

    #[test]
    fn a_mark_beside_a_space_makes_all_of_its_kind_vanish_and_else_each_parts_its_word() {
        made_alike(&[
            ("red - white", "red white"),
            ("t-shirt", "t shirt"),
            ("t-shirt - red", "tshirt red"),
            ("t-shirt and/or (red)", "t shirt and or red"),
            ("(red)", "red"),
            ("what?", "what"),
            ("who?what", "whowhat"),
            ("1,000", "1000"),
            ("red, white", "red white"),
        ]);
    }

    #[test]
    fn full_stops_stay_before_digits_and_beyond_the_thirty_second() {
        made_alike(&[("3.5", "3.5"), ("no.", "no"), ("u.s.", "us"), ("a.5", "a.5"), ("5.a", "5a")]);
        assert_eq!(normalize_answer(&"x.".repeat(34)), format!("{}x.x.", "x".repeat(32)));
    }

    #[test]
    fn number_words_and_articles_are_read_as_whole_words() {
        made_alike(&[
            ("two", "2"),
            ("None", "0"),
            ("ten men", "10 men"),
            ("eleven", "eleven"),
            ("twos", "twos"),
            ("an apple a day", "apple day"),
            ("anthem", "anthem"),
            ("the", ""),
        ]);
    }

    #[test]
    fn a_contraction_gets_the_one_apostrophe_back_that_it_lacks() {
        made_alike(&[
            ("dont walk", "don't walk"),
            ("couldn'tve", "couldn't've"),
            ("couldnt've", "couldn't've"),
            ("couldntve", "couldntve"),
            ("y'alld've", "y'all'd've"),
            ("'ows'at", "'ow's'at"),
            ("5 oclock", "5 o'clock"),
            ("twas", "'twas"),
            ("don't", "don't"),
        ]);
    }

    #[test]
    fn what_the_official_list_cannot_reach_or_turns_round_stays_so() {
        made_alike(&[
            ("Im", "im"),
            ("Ive", "ive"),
            ("lets go", "lets go"),
            ("let's go", "let 's go"),
            ("shes", "shes"),
            ("somebody'd", "somebodyd"),
            ("somebodyd", "somebodyd"),
            ("'ow'sat", "'ow 'sat"),
        ]);
    }
}
