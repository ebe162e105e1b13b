//! A command's configuration: defaults < TOML file < `HYDRA_*` environment < `--set key=value`.
//!
//! The configuration type is a plain serde struct with a [`Default`]. Every key is known from the default value, so an
//! unknown one is an error wherever it comes from, with the nearest known key beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::error::{Kind, failure, nearest};

/// Where the values of a configuration come from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those whose name is `HYDRA_` and a key count.
    pub environment: Vec<(String, String)>,
    /// `key=value` from the command line.
    pub set: Vec<String>,
}

impl Sources {
    /// The file and settings given, and this process's environment.
    pub fn new(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("HYDRA_"))
            .collect();
        Self { file, environment, set }
    }
}

/// A configuration with all its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved<T> {
    /// The values.
    pub value: T,
    /// Text of the user's file, as it was.
    pub user_text: Option<String>,
    /// All values as TOML.
    pub text: String,
    /// One line for each `HYDRA_*` variable that sets nothing but looks like a misspelt key. Other variables of that
    /// prefix belong to somebody else.
    pub warnings: Vec<String>,
}

/// Where one key was set, for messages.
#[derive(Debug, Clone)]
enum Origin {
    File { path: PathBuf, line: usize },
    Environment(String),
    Set,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// Reads a configuration.
///
/// # Errors
/// [`Kind::Usage`], naming file and line, variable or flag: text that is no TOML, an unknown key, a value of the wrong
/// type. [`Kind::Data`] for a file that cannot be read.
pub fn load<T: Serialize + DeserializeOwned + Default>(sources: &Sources) -> anyhow::Result<Resolved<T>> {
    let defaults = T::default();
    let known = serde_json::to_value(&defaults)?;
    let mut values = Table::try_from(&defaults)?;
    let mut origins: BTreeMap<String, Origin> = BTreeMap::new();
    let user_text = match &sources.file {
        Some(path) => Some(merge_file(path, &known, &mut values, &mut origins)?),
        None => None,
    };
    let warnings = merge_environment(&sources.environment, &known, &mut values, &mut origins)?;
    merge_set(&sources.set, &known, &mut values, &mut origins)?;
    let value: T = serde_path_to_error::deserialize(Value::Table(values)).map_err(|error| {
        let key = error.path().to_string();
        let origin = nearest_origin(&origins, &key).map_or_else(String::new, |origin| format!("{origin}: "));
        failure(Kind::Usage, format!("{origin}{key}: {}", error.inner().message()))
    })?;
    let text = toml::to_string_pretty(&value)?;
    Ok(Resolved { value, user_text, text, warnings })
}

fn merge_file(
    path: &Path,
    known: &Json,
    values: &mut Table,
    origins: &mut BTreeMap<String, Origin>,
) -> anyhow::Result<String> {
    let text = fs::read_to_string(path)
        .map_err(|error| failure(Kind::Data, format!("cannot read the configuration {}: {error}", path.display())))?;
    let document = toml::de::DeTable::parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        failure(Kind::Usage, format!("{}:{line}: this is not TOML: {}", path.display(), error.message()))
    })?;
    let mut keys = Vec::new();
    collect_keys(document.get_ref(), known, &mut Vec::new(), &mut keys);
    for key in &keys {
        let line = line_of(&text, key.start);
        let origin = Origin::File { path: path.to_owned(), line };
        if !key.known {
            return Err(unknown(&origin, &key.path, known));
        }
        origins.insert(key.path.clone(), origin);
    }
    let table: Table = toml::from_str(&text)
        .map_err(|error| failure(Kind::Usage, format!("{}: {}", path.display(), error.message())))?;
    merge(values, table);
    Ok(text)
}

/// One key of the file.
struct FileKey {
    path: String,
    start: usize,
    known: bool,
}

fn collect_keys(table: &toml::de::DeTable<'_>, known: &Json, prefix: &mut Vec<String>, keys: &mut Vec<FileKey>) {
    for (key, value) in table {
        prefix.push(key.get_ref().to_string());
        let path = prefix.join(".");
        match known.as_object() {
            // An object without keys is a map that the user fills.
            Some(object) if !object.is_empty() => {
                let child = object.get(key.get_ref().as_ref());
                keys.push(FileKey { path, start: key.span().start, known: child.is_some() });
                if let (Some(child), Some(inner)) = (child, value.get_ref().as_table()) {
                    collect_keys(inner, child, prefix, keys);
                }
            }
            _ => keys.push(FileKey { path, start: key.span().start, known: true }),
        }
        prefix.pop();
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn merge_environment(
    environment: &[(String, String)],
    known: &Json,
    values: &mut Table,
    origins: &mut BTreeMap<String, Origin>,
) -> anyhow::Result<Vec<String>> {
    let keys = leaves(known);
    let names: Vec<String> = keys.iter().map(|key| variable_name(key)).collect();
    let warnings = environment
        .iter()
        .filter(|(variable, _)| !names.contains(variable))
        .filter_map(|(variable, _)| {
            let near = nearest(variable, &names)?;
            Some(format!("the environment variable {variable} sets nothing; did you mean {near}?"))
        })
        .collect();
    for (key, name) in keys.into_iter().zip(names) {
        if let Some((_, text)) = environment.iter().find(|(variable, _)| *variable == name) {
            let origin = Origin::Environment(name);
            insert(values, known, &key, text, &origin)?;
            origins.insert(key, origin);
        }
    }
    Ok(warnings)
}

fn merge_set(
    set: &[String],
    known: &Json,
    values: &mut Table,
    origins: &mut BTreeMap<String, Origin>,
) -> anyhow::Result<()> {
    for setting in set {
        let Some((key, text)) = setting.split_once('=') else {
            return Err(failure(Kind::Usage, format!("--set {setting}: write it as key=value")));
        };
        let key = key.trim();
        insert(values, known, key, text.trim(), &Origin::Set)?;
        origins.insert(key.to_owned(), Origin::Set);
    }
    Ok(())
}

/// Sets one dotted key from text.
fn insert(values: &mut Table, known: &Json, key: &str, text: &str, origin: &Origin) -> anyhow::Result<()> {
    let mut place = known;
    let mut free = false;
    for part in key.split('.') {
        match place.as_object() {
            Some(object) if !object.is_empty() => {
                place = object.get(part).ok_or_else(|| unknown(origin, key, known))?;
            }
            Some(_) => {
                free = true;
                place = &Json::Null;
            }
            None if free => {}
            None => return Err(unknown(origin, key, known)),
        }
    }
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"));
    let value = match (place, parsed) {
        // A text key takes the words as they stand, quoted or not.
        (Json::String(_), Some(Value::String(quoted))) => Value::String(quoted),
        (Json::String(_), _) | (_, None) => Value::String(text.to_owned()),
        // 3 is a fine learning rate, although TOML calls it an integer.
        (Json::Number(number), Some(Value::Integer(integer))) if number.is_f64() => Value::Float(integer as f64),
        (_, Some(value)) => value,
    };
    let mut table = values;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_owned(), value);
            break;
        }
        let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        match entry.as_table_mut() {
            Some(inner) => table = inner,
            None => return Err(failure(Kind::Usage, format!("{origin}: {key}: \"{part}\" is a value, not a table"))),
        }
    }
    Ok(())
}

fn unknown(origin: &Origin, key: &str, known: &Json) -> anyhow::Error {
    let candidates = all_keys(known);
    let hint = nearest(key, &candidates)
        .map_or_else(|| format!("known keys: {}", leaves(known).join(", ")), |near| format!("did you mean `{near}`?"));
    failure(Kind::Usage, format!("{origin}: there is no key `{key}`; {hint}"))
}

/// `HYDRA_TRAIN_LEARNING_RATE` for `train.learning_rate`.
fn variable_name(key: &str) -> String {
    format!("HYDRA_{}", key.to_ascii_uppercase().replace(['.', '-'], "_"))
}

/// Dotted paths of every value.
fn leaves(known: &Json) -> Vec<String> {
    let mut paths = Vec::new();
    walk(known, "", &mut |path, leaf| {
        if leaf {
            paths.push(path.to_owned());
        }
    });
    paths
}

/// Dotted paths of every value and table.
fn all_keys(known: &Json) -> Vec<String> {
    let mut paths = Vec::new();
    walk(known, "", &mut |path, _| paths.push(path.to_owned()));
    paths
}

fn walk(known: &Json, prefix: &str, visit: &mut impl FnMut(&str, bool)) {
    let Some(object) = known.as_object() else { return };
    for (key, child) in object {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        visit(&path, !child.is_object());
        walk(child, &path, visit);
    }
}

/// The origin of a key, or of the table or list that it stands in.
fn nearest_origin<'a>(origins: &'a BTreeMap<String, Origin>, key: &str) -> Option<&'a Origin> {
    let mut key = key;
    loop {
        if let Some(origin) = origins.get(key) {
            return Some(origin);
        }
        key = &key[..key.rfind(['.', '['])?];
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::error::kind_of;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Example {
        seed: u64,
        name: String,
        limit: Option<u64>,
        train: Train,
        labels: BTreeMap<String, u32>,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Train {
        learning_rate: f64,
        ranks: Vec<u32>,
    }

    impl Default for Example {
        fn default() -> Self {
            Self {
                seed: 0,
                name: "demo".to_owned(),
                limit: None,
                train: Train { learning_rate: 1e-3, ranks: vec![4, 8] },
                labels: BTreeMap::new(),
            }
        }
    }

    fn load_with(file: Option<&str>, environment: &[(&str, &str)], set: &[&str]) -> anyhow::Result<Resolved<Example>> {
        let folder = tempfile::tempdir().unwrap();
        let path = file.map(|text| {
            let path = folder.path().join("hydra.toml");
            fs::write(&path, text).unwrap();
            path
        });
        load(&Sources {
            file: path,
            environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        })
    }

    fn message(result: anyhow::Result<Resolved<Example>>) -> String {
        let error = result.unwrap_err();
        assert_eq!(kind_of(&error), Kind::Usage);
        error.to_string()
    }

    #[test]
    fn without_any_source_the_defaults_hold() {
        assert_eq!(load_with(None, &[], &[]).unwrap().value, Example::default());
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
        let file = "seed = 1\nname = \"file\"\n[train]\nlearning_rate = 0.5\n";
        let environment = [("HYDRA_SEED", "2"), ("HYDRA_TRAIN_LEARNING_RATE", "0.25"), ("HYDRA_CRASH_AT", "x")];
        let value = load_with(Some(file), &environment, &["seed=3"]).unwrap().value;
        assert_eq!((value.seed, value.name.as_str(), value.train.learning_rate), (3, "file", 0.25));
        assert_eq!(value.train.ranks, [4, 8], "keys that the file leaves out keep their defaults");
    }

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest_known_one() {
        let text = message(load_with(Some("seed = 1\n\n[train]\nlearning_rat = 0.5\n"), &[], &[]));
        assert!(text.contains("hydra.toml:4: there is no key `train.learning_rat`"), "{text}");
        assert!(text.contains("did you mean `train.learning_rate`?"), "{text}");
        let text = message(load_with(None, &[], &["sed=1"]));
        assert!(text.contains("--set: there is no key `sed`; did you mean `seed`?"), "{text}");
        let text = message(load_with(None, &[], &["zzzzzzzz=1"]));
        assert!(text.contains("known keys: "), "{text}");
    }

    #[test]
    fn a_value_of_the_wrong_type_names_where_it_was_set() {
        let text = message(load_with(Some("[train]\nranks = [1,\n \"two\"]\n"), &[], &[]));
        assert!(text.contains("hydra.toml:2") && text.contains("train.ranks[1]"), "{text}");
        let text = message(load_with(None, &[], &["seed=many"]));
        assert!(text.contains("--set: seed: invalid type"), "{text}");
        let text = message(load_with(None, &[("HYDRA_SEED", "-1")], &[]));
        assert!(text.contains("environment variable HYDRA_SEED: seed"), "{text}");
    }

    #[test]
    fn text_that_is_no_toml_names_the_line() {
        let text = message(load_with(Some("seed = 1\nname = \n"), &[], &[]));
        assert!(text.contains("hydra.toml:2: this is not TOML"), "{text}");
        let text = message(load_with(None, &[], &["seed"]));
        assert!(text.contains("write it as key=value"), "{text}");
    }

    #[test]
    fn text_keys_take_words_and_numbers_unquoted_and_optional_keys_can_be_set() {
        let value = load_with(None, &[], &["name=2026", "limit=5", "train.learning_rate=1"]).unwrap().value;
        assert_eq!((value.name.as_str(), value.limit, value.train.learning_rate), ("2026", Some(5), 1.0));
        assert_eq!(load_with(None, &[], &["name=\"a b\""]).unwrap().value.name, "a b");
    }

    #[test]
    fn a_misspelt_variable_is_warned_about_and_a_foreign_one_is_not() {
        let resolved = load_with(None, &[("HYDRA_SEDE", "1"), ("HYDRA_FULL_ERROR", "1")], &[]).unwrap();
        assert_eq!(resolved.warnings, ["the environment variable HYDRA_SEDE sets nothing; did you mean HYDRA_SEED?"]);
        assert_eq!(resolved.value.seed, 0);
    }

    #[test]
    fn a_map_takes_any_key() {
        let value = load_with(Some("[labels]\ncat = 1\n"), &[], &["labels.dog=2"]).unwrap().value;
        assert_eq!(value.labels, BTreeMap::from([("cat".to_owned(), 1), ("dog".to_owned(), 2)]));
    }

    #[test]
    fn the_resolved_text_reads_back_to_the_same_values() {
        let resolved = load_with(Some("seed = 7\n"), &[], &["limit=3"]).unwrap();
        assert_eq!(load_with(Some(&resolved.text), &[], &[]).unwrap().value, resolved.value);
        assert_eq!(resolved.user_text.as_deref(), Some("seed = 7\n"));
    }
}
