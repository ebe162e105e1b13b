use super::*;

const HEADER: &str = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\tsplit\timage\n";

fn scores(rows: &str, answers: &[(u64, &str)]) -> Result<MmBenchScores, BenchmarkError> {
    let lines =
        answers.iter().map(|(id, text)| serde_json::json!({"question_id": id, "text": text}).to_string() + "\n");
    score(&format!("{HEADER}{rows}"), &Predictions::from_text(&lines.collect::<String>()).unwrap())
}

#[test]
fn a_letter_is_read_where_it_stands_alone_is_set_apart_or_ends_the_answer() {
    let choices = [('A', "red"), ('B', "dark blue"), ('C', "green"), ('D', "vitamin b")];
    for (answer, expected) in [
        ("A", Some('A')),
        (" B\n", Some('B')),
        ("C.", Some('C')),
        ("(A)", Some('A')),
        ("(D) vitamin", Some('D')),
        ("A: the one that is on the far left", Some('A')),
        ("B) it is dark and the sky has that colour", Some('B')),
        ("The answer is B.", Some('B')),
        ("The answer is A", Some('A')),
        ("It is (A) red", Some('A')),
        ("**C**", Some('C')),
        ("b", None),
        ("E", None),
        ("A or B", None),
        ("B, since the others are of another colour, is what I say", Some('B')),
        ("B because the others are of another colour", None),
        ("A colour of the sky", None),
        ("", None),
    ] {
        assert_eq!(choice(answer, &choices), expected, "{answer:?}");
    }
    assert_eq!(choice("C", &choices[..2]), None);
}

#[test]
fn the_text_of_exactly_one_choice_names_it() {
    let choices = [('A', "1"), ('B', "10"), ('C', "a cat")];
    for (answer, expected) in [
        ("10", Some('B')),
        ("1", Some('A')),
        ("A cat.", Some('C')),
        ("It is a cat", Some('C')),
        ("It was a cat that sat there", None),
        ("10 or 11", None),
        ("a dog", None),
    ] {
        assert_eq!(choice(answer, &choices), expected, "{answer:?}");
    }
    assert_eq!(choice("the same", &[('A', "the same"), ('B', "the same")]), None);
}

#[test]
fn a_question_is_right_in_circular_evaluation_only_if_every_pass_is() {
    let rows = "7\tq\t\tx\ty\t\t\tA\tcolour\tperception\tdev\tp\n\
        1000007\tq\t\ty\tx\t\t\tB\tcolour\tperception\tdev\t7\n\
        8\tq\t\tx\ty\t\t\tB\tcolour\tperception\tdev\tp\n\
        1000008\tq\t\ty\tx\t\t\tA\tcolour\tperception\tdev\t8\n\
        9\tq\t\tx\ty\t\t\tB\torder\treasoning\tdev\tp\n";
    // 7: both right; 8: only the first; 9: has one pass, and its answer names nothing.
    let answers = [(7, "A"), (1_000_007, "B"), (8, "B."), (1_000_008, "B"), (9, "perhaps")];
    let scores = scores(rows, &answers).unwrap();
    let third = |count: f64| 100.0 * count / 3.0;
    assert_eq!((scores.samples, scores.passes, scores.unreadable), (3, 5, 1));
    assert_eq!((scores.accuracy, scores.circular_accuracy), (third(2.0), Some(third(1.0))));
    let colour = MmBenchCategoryScores { samples: 2, accuracy: 100.0, circular_accuracy: Some(50.0) };
    let order = MmBenchCategoryScores { samples: 1, accuracy: 0.0, circular_accuracy: Some(0.0) };
    let parts = |names: [&str; 2]| BTreeMap::from([(names[0].to_owned(), colour), (names[1].to_owned(), order)]);
    assert_eq!(scores.categories, parts(["colour", "order"]));
    assert_eq!(scores.abilities, parts(["perception", "reasoning"]));
}

#[test]
fn a_file_with_one_pass_a_question_has_no_circular_accuracy() {
    let scores = scores("7\tq\t\tx\ty\t\t\tA\tcolour\tperception\tdev\tp\n", &[(7, "x")]).unwrap();
    assert_eq!((scores.accuracy, scores.circular_accuracy), (100.0, None));
    assert!(!serde_json::to_string(&scores).unwrap().contains("circular"));
}

#[test]
fn quoted_cells_hold_line_ends_and_hints_stand_before_the_question() {
    let rows = "7\t\"Which?\"\t\"one\n\"\"two\"\"\"\tx\ty\tnan\tz\tA\tcolour\t\tdev\taGk=\n8\tWhy?\tNone\tx\ty\tz\t\tA\t\t\tdev\t7\n";
    let asked = questions(&format!("{HEADER}{rows}")).unwrap();
    assert_eq!(asked[0].prompt, format!("one\n\"two\"\nWhich?\nA. x\nB. y\nD. z\n{LETTER}"));
    assert_eq!(asked[1].prompt, format!("Why?\nA. x\nB. y\nC. z\n{LETTER}"));
    assert_eq!((asked[0].category.as_deref(), asked[1].category.as_deref()), (Some("colour"), None));
    // The second row's picture is that of index 7.
    let picture = BenchmarkPicture::Base64("aGk=".to_owned());
    assert_eq!([&asked[0].picture, &asked[1].picture], [&picture, &picture]);
}

#[test]
fn rows_that_cannot_be_scored_or_asked_are_named_by_index() {
    let error = scores("7\tq\t\tx\ty\t\t\tC\t\t\tdev\tp\n", &[(7, "A")]).unwrap_err().to_string();
    assert_eq!(error, "questions, line 2 (index 7): answer is \"C\", expected the letter of a choice: A, B");
    let error = |row: &str| questions(&format!("{HEADER}{row}")).unwrap_err().to_string();
    assert_eq!(error("7\tq\t\tx\ty\t\t\tA\t\t\tdev\t\n"), "questions, line 2 (index 7): no image");
    assert!(error("7\tq\t\tx\ty\t\t\tA\t\t\tdev\t6\n").contains("index 6, which is not there"));
    assert!(error("seven\tq\t\tx\ty\t\t\tA\t\t\tdev\tp\n").contains("line 2: the index \"seven\" is no whole number"));
}

#[test]
fn an_empty_choice_between_two_others_is_left_out_and_the_others_keep_their_letters() {
    let row = "391\tHow many?\t\tTwo\tOne\tnan\tThree\tD\tc\tl\tdev\taGk=\n";
    assert_eq!(scores(row, &[(391, "D")]).unwrap().accuracy, 100.0);
    assert_eq!(scores(row, &[(391, "three")]).unwrap().accuracy, 100.0);
    assert_eq!(scores(row, &[(391, "C")]).unwrap().unreadable, 1);
    let asked = questions(&format!("{HEADER}{row}")).unwrap();
    assert_eq!(asked[0].prompt, format!("How many?\nA. Two\nB. One\nD. Three\n{LETTER}"));
}

#[test]
fn an_index_that_pandas_wrote_as_a_float_is_a_whole_number() {
    let rows = "241.0\twhat?\tnan\tone\tten\tnan\tnan\tB\tc\tl\tdev\taGk=\n\
        1000241.0\twhat?\tnan\tten\tone\tnan\tnan\tA\tc\tl\tdev\t241.0\n";
    let scores = scores(rows, &[(241, "B"), (1_000_241, "A")]).unwrap();
    assert_eq!((scores.accuracy, scores.circular_accuracy), (100.0, Some(100.0)));
    assert_eq!(questions(&format!("{HEADER}{rows}")).unwrap()[1].id, "1000241");
}

#[test]
fn an_answer_whose_prompt_lists_the_choices_of_another_pass_stops_the_run() {
    let table = format!("{HEADER}7\tq?\t\tx\ty\t\t\tA\tc\tl\tdev\taGk=\n");
    let of = |prompt: &str| {
        let line = serde_json::json!({"question_id": 7, "prompt": prompt, "text": "A"}).to_string();
        score(&table, &Predictions::from_text(&line).unwrap())
    };
    assert_eq!(of(&format!("q?\nA. x\nB. y\n{LETTER}")).unwrap().accuracy, 100.0);
    assert!(of(&format!("q?\nA. y\nB. x\n{LETTER}")).unwrap_err().to_string().contains("lists other choices"));
    assert!(matches!(of("another?"), Err(BenchmarkError::OtherQuestion { .. })));
}
