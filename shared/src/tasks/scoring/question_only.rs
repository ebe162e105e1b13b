//! What can be scored without looking at the picture.

use std::collections::BTreeMap;

/// The most frequent training answer to each question: the floor that a model has to beat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuestionOnly {
    by_question: BTreeMap<String, String>,
    overall: String,
}

impl QuestionOnly {
    /// Counts the answers of training questions, given as (question, answer). Of equally frequent answers the one seen
    /// first wins.
    pub fn fit<'a>(questions: impl IntoIterator<Item = (&'a str, &'a str)>) -> QuestionOnly {
        let mut by_question: BTreeMap<&str, Counter<'a>> = BTreeMap::new();
        let mut overall = Counter::default();
        for (question, answer) in questions {
            by_question.entry(question).or_default().count(answer);
            overall.count(answer);
        }
        QuestionOnly {
            by_question: by_question
                .into_iter()
                .map(|(question, answers)| (question.to_owned(), answers.most_frequent().to_owned()))
                .collect(),
            overall: overall.most_frequent().to_owned(),
        }
    }

    /// The answer to a question; one that was never seen gets the most frequent answer of all.
    pub fn answer(&self, question: &str) -> &str {
        self.by_question.get(question).unwrap_or(&self.overall)
    }
}

/// How often each answer occurred, and when first.
#[derive(Default)]
struct Counter<'a> {
    answers: BTreeMap<&'a str, (usize, usize)>,
}

impl<'a> Counter<'a> {
    fn count(&mut self, answer: &'a str) {
        let order = self.answers.len();
        self.answers.entry(answer).or_insert((0, order)).0 += 1;
    }

    fn most_frequent(&self) -> &'a str {
        self.answers
            .iter()
            .max_by_key(|(_, (count, order))| (*count, std::cmp::Reverse(*order)))
            .map_or("", |(answer, _)| *answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_answer_wins_and_of_equals_the_first() {
        let floor = QuestionOnly::fit([("a?", "yes"), ("a?", "no"), ("a?", "no"), ("b?", "yes"), ("b?", "blue")]);
        assert_eq!(floor.answer("a?"), "no");
        assert_eq!(floor.answer("b?"), "yes");
        assert_eq!(floor.answer("never asked"), "yes");
        assert_eq!(QuestionOnly::default().answer("a?"), "");
    }
}
