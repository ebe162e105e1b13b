//! Commands as lines that can be pasted into a POSIX shell.

use std::borrow::Cow;

/// A word in single quotes, inside which a shell reads every character as itself.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A word as it is, or in quotes where a shell would read it as something else.
pub fn word(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./,:+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { Cow::Borrowed(word) } else { Cow::Owned(quoted(word)) }
}

/// The command of a program's arguments, the program called `trainer` wherever it stood.
pub fn trainer_command<S: AsRef<str>>(arguments: &[S]) -> String {
    let mut line = "trainer".to_owned();
    for argument in arguments.iter().skip(1) {
        line.push(' ');
        line.push_str(&word(argument.as_ref()));
    }
    line
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_needs_quotes_has_them() {
        let arguments = ["x/trainer", "plan", "--set", "a=b c", "--set=x=1,2", "it's", "", "$HOME", "~"];
        let line = trainer_command(&arguments);
        assert_eq!(line, r"trainer plan --set 'a=b c' --set=x=1,2 'it'\''s' '' '$HOME' '~'");
    }

    proptest! {
        #[test]
        fn a_shell_reads_back_every_argument(arguments in prop::collection::vec("[ -~\n\täλ🙂]{0,12}", 1..6)) {
            let words = shlex::split(&trainer_command(&arguments)).unwrap();
            prop_assert_eq!(&words[1..], &arguments[1..]);
            prop_assert_eq!(shlex::split(&quoted(&arguments[0])).unwrap(), &arguments[..1]);
        }
    }
}
