//! A command's configuration: defaults < the command's own < TOML file < `HYDRA_*` environment < `--set key=value`.
//!
//! The configuration type is a plain serde struct with a [`Default`]. Every key is known from the default value, so an
//! unknown one is an error wherever it comes from, with the nearest known key beside it. Keys of earlier versions are read,
//! with a note that names today's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hydra_shared::names::first_names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::error::{Kind, failure, nearest};
use crate::input;

/// Values of a configuration.
pub trait Configuration: Serialize + DeserializeOwned + Default {
    /// Tables of a file that are read as if their keys stood at its root, each in place of the whole file: where another
    /// command's file has them, it is this command's as well.
    const TABLES: &'static [&'static str] = &[];

    /// Today's keys and values of an entry of an earlier version, by dotted paths; none for any other entry.
    fn modern(path: &str, value: &Json) -> Option<Vec<(String, Json)>> {
        let _ = (path, value);
        None
    }

    /// Whether a file of it is for several commands, of which each heeds what concerns it.
    const SHARED: bool = false;

    /// Dotted paths of values and tables that do nothing under the others, each with the reason.
    fn idle(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Dotted paths of earlier versions' values.
    fn older_keys() -> Vec<String> {
        Vec::new()
    }
}

/// Where this program writes down every value of a run.
pub const RESOLVED_FILE: &str = "config.resolved.toml";

/// Where the values of a configuration come from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `key=value` of the command itself, in place of the defaults.
    pub presets: Vec<String>,
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
        Self { presets: Vec::new(), file, environment, set }
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
    /// One line for each key of an earlier version, and for what of a file belongs to other commands.
    pub notes: Vec<String>,
    /// Keys that somebody wrote and meant, and where.
    meant: BTreeMap<String, Origin>,
}

impl<T> Resolved<T> {
    /// Refuses keys that do nothing, wherever they were set. A path of `idle` may be that of a table.
    ///
    /// # Errors
    /// [`Kind::Usage`], with the place, the key and the reason.
    pub fn refuse(&self, idle: &[(String, String)]) -> anyhow::Result<()> {
        self.refuse_from(|_| true, idle)
    }

    /// [`Self::refuse`] of keys that do nothing in this command and may do something in others: a file for several commands,
    /// and an environment, may hold them.
    ///
    /// # Errors
    /// As [`Self::refuse`].
    pub fn refuse_here(&self, idle: &[(String, String)]) -> anyhow::Result<()> {
        self.refuse_from(|origin| matches!(origin, Origin::Set | Origin::File { shared: false, .. }), idle)
    }

    /// [`Self::refuse`] of keys that `--set` gives: those of weaker sources give way to what made them idle.
    ///
    /// # Errors
    /// As [`Self::refuse`].
    pub fn refuse_set(&self, idle: &[(String, String)]) -> anyhow::Result<()> {
        self.refuse_from(|origin| *origin == Origin::Set, idle)
    }

    fn refuse_from(&self, counts: impl Fn(&Origin) -> bool, idle: &[(String, String)]) -> anyhow::Result<()> {
        for (key, why) in idle {
            let inside = |set: &str| set.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if let Some((set, origin)) = self.meant.iter().find(|(set, origin)| inside(set) && counts(origin)) {
                return Err(failure(Kind::Usage, format!("{origin}: `{set}` has no effect: {why}")));
            }
        }
        Ok(())
    }
}

/// Where one key was set, for messages.
#[derive(Debug, Clone, PartialEq)]
enum Origin {
    /// A file, and whether it is for several commands.
    File {
        path: PathBuf,
        line: usize,
        shared: bool,
    },
    Environment(String),
    Set,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// Reads a configuration.
///
/// # Errors
/// [`Kind::Usage`], naming file and line, variable or flag: text that is no TOML, an unknown key, a value of the wrong
/// type, a value that does nothing under the others. One that is the default counts where somebody wrote it: with `--set`, or
/// in a file that names some keys; a file that names all of them says nothing by it, and an environment is for many commands.
/// [`Kind::Data`] for a file that cannot be read.
pub fn load<T: Configuration>(sources: &Sources) -> anyhow::Result<Resolved<T>> {
    let defaults = T::default();
    let known = serde_json::to_value(&defaults)?;
    let mut merged = Merged {
        values: Table::try_from(&defaults)?,
        origins: BTreeMap::new(),
        implied: BTreeSet::new(),
        notes: Vec::new(),
    };
    for (key, text) in sources.presets.iter().filter_map(|preset| preset.split_once('=')) {
        insert(&mut merged.values, &known, key, text, &Origin::Set)?;
    }
    let user_text = match &sources.file {
        Some(path) => Some(merge_file::<T>(path, &known, &mut merged)?),
        None => None,
    };
    let warnings = merge_environment::<T>(&sources.environment, &known, &mut merged)?;
    merge_set::<T>(&sources.set, &known, &mut merged)?;
    let Merged { values, origins, implied, notes } = merged;
    let given = serde_json::to_value(&values)?;
    let value: T = serde_path_to_error::deserialize(Value::Table(values)).map_err(|error| {
        let key = error.path().to_string();
        let origin = nearest_origin(&origins, &key).map_or_else(String::new, |origin| format!("{origin}: "));
        failure(Kind::Usage, format!("{origin}{key}: {}", error.inner().message()))
    })?;
    let whole = is_whole(sources.file.as_deref(), &origins, &known);
    let is_meant = |set: &str, origin: &Origin| {
        let at = format!("/{}", set.replace('.', "/"));
        given.pointer(&at) != known.pointer(&at)
            || match origin {
                // A table's own line says nothing.
                Origin::File { .. } => !whole && !known.pointer(&at).is_some_and(Json::is_object),
                Origin::Environment(_) => false,
                Origin::Set => true,
            }
    };
    let meant = origins.into_iter().filter(|(set, origin)| !implied.contains(set) && is_meant(set, origin)).collect();
    let text = toml::to_string_pretty(&value)?;
    let idle = value.idle();
    let resolved = Resolved { value, user_text, text, warnings, notes, meant };
    resolved.refuse(&idle)?;
    Ok(resolved)
}

/// Whether a file names every key that has a default, as this program writes its own.
fn is_whole(file: Option<&Path>, origins: &BTreeMap<String, Origin>, known: &Json) -> bool {
    let is_ours = file.and_then(Path::file_name).is_some_and(|name| name == RESOLVED_FILE);
    let has_default = |key: &String| {
        known.pointer(&format!("/{}", key.replace('.', "/"))).is_some_and(|value| !value.is_null() && !is_empty(value))
    };
    is_ours || leaves(known).iter().filter(|key| has_default(key)).all(|key| origins.contains_key(key))
}

fn is_empty(value: &Json) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// The values so far.
struct Merged {
    values: Table,
    origins: BTreeMap<String, Origin>,
    /// Keys of tables of earlier versions, which had to name all that was in them.
    implied: BTreeSet<String>,
    notes: Vec<String>,
}

impl Merged {
    /// Notes where a key was set.
    fn say(&mut self, key: String, origin: Origin) {
        self.implied.remove(&key);
        self.origins.insert(key, origin);
    }

    /// Puts what an entry of an earlier version says today, and notes it.
    fn put_modern(&mut self, path: &str, entries: Vec<(String, Json)>, origin: &Origin) -> anyhow::Result<()> {
        let mut now = Vec::new();
        let is_table = entries.len() > 1;
        for (key, value) in entries {
            let value = Value::try_from(&value)?;
            now.push(format!("`{key} = {value}`"));
            put(&mut self.values, &key, value, origin)?;
            if is_table {
                self.implied.insert(key.clone());
            }
            self.origins.insert(key, origin.clone());
        }
        self.notes.push(format!("{origin}: `{path}` is written {} now", now.join(", ")));
        Ok(())
    }
}

fn merge_file<T: Configuration>(path: &Path, known: &Json, merged: &mut Merged) -> anyhow::Result<String> {
    let text = input::text(path)?;
    let document = toml::de::DeTable::parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        failure(Kind::Usage, format!("{}:{line}: this is not TOML: {}", path.display(), error.message()))
    })?;
    let table: Table = toml::from_str(&text)
        .map_err(|error| failure(Kind::Usage, format!("{}: {}", path.display(), error.message())))?;
    let root = document.get_ref();
    let shared = T::SHARED
        || T::TABLES.iter().any(|&name| root.get(name).is_some_and(|value| value.get_ref().as_table().is_some()));
    for (document, mut table) in roots::<T>(path, root, table, &mut merged.notes) {
        let mut keys = Vec::new();
        collect_keys::<T>(document, &mut table, known, &mut Vec::new(), &mut keys)?;
        for FileKey { path: key, start, form } in keys {
            let origin = Origin::File { path: path.to_owned(), line: line_of(&text, start), shared };
            match form {
                Form::Unknown => return Err(unknown(&origin, &key, known)),
                Form::Known => merged.say(key, origin),
                Form::Older(entries) => merged.put_modern(&key, entries, &origin)?,
            }
        }
        merge(&mut merged.values, table);
    }
    Ok(text)
}

/// The file's table; where it has tables that stand for it, these.
fn roots<'a, 'text, T: Configuration>(
    path: &Path,
    document: &'a toml::de::DeTable<'text>,
    mut table: Table,
    notes: &mut Vec<String>,
) -> Vec<(&'a toml::de::DeTable<'text>, Table)> {
    let found: Vec<(&str, &toml::de::DeTable<'_>)> =
        T::TABLES.iter().filter_map(|&name| Some((name, document.get(name)?.get_ref().as_table()?))).collect();
    if found.is_empty() {
        return vec![(document, table)];
    }
    let tables = found.into_iter().filter_map(|(name, inner)| match table.remove(name) {
        Some(Value::Table(values)) => Some((inner, values)),
        _ => None,
    });
    let tables: Vec<_> = tables.collect();
    if !table.is_empty() {
        let others: Vec<&str> = table.keys().map(String::as_str).collect();
        notes.push(format!(
            "{}: only its tables {} are read here, not {}",
            path.display(),
            T::TABLES.join(" and "),
            first_names(others)
        ));
    }
    tables
}

/// One key of the file.
struct FileKey {
    path: String,
    start: usize,
    form: Form,
}

/// What a key is.
enum Form {
    Known,
    Unknown,
    /// One of an earlier version, and what it says today.
    Older(Vec<(String, Json)>),
}

/// Lists the keys of a table; takes those of earlier versions out of its values.
fn collect_keys<T: Configuration>(
    document: &toml::de::DeTable<'_>,
    values: &mut Table,
    known: &Json,
    prefix: &mut Vec<String>,
    keys: &mut Vec<FileKey>,
) -> anyhow::Result<()> {
    for (key, value) in document {
        let name = key.get_ref().as_ref();
        prefix.push(name.to_owned());
        let (path, start) = (prefix.join("."), key.span().start);
        let json = values.get(name).map(serde_json::to_value).transpose()?;
        if let Some(entries) = json.and_then(|json| T::modern(&path, &json)) {
            values.remove(name);
            keys.push(FileKey { path, start, form: Form::Older(entries) });
            prefix.pop();
            continue;
        }
        match known.as_object() {
            // An object without keys is a map that the user fills.
            Some(object) if !object.is_empty() => {
                let child = object.get(name);
                let form = if child.is_some() { Form::Known } else { Form::Unknown };
                keys.push(FileKey { path, start, form });
                let inner = (child, value.get_ref().as_table(), values.get_mut(name).and_then(Value::as_table_mut));
                if let (Some(child), Some(inner), Some(values)) = inner {
                    collect_keys::<T>(inner, values, child, prefix, keys)?;
                }
            }
            _ => keys.push(FileKey { path, start, form: Form::Known }),
        }
        prefix.pop();
    }
    Ok(())
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

fn merge_environment<T: Configuration>(
    environment: &[(String, String)],
    known: &Json,
    merged: &mut Merged,
) -> anyhow::Result<Vec<String>> {
    let keys = leaves(known);
    let names: Vec<String> = keys.iter().map(|key| variable_name(key)).collect();
    let older: Vec<(String, String)> = T::older_keys().into_iter().map(|key| (variable_name(&key), key)).collect();
    let is_known = |variable: &String| names.contains(variable) || older.iter().any(|(name, _)| name == variable);
    let warnings = environment
        .iter()
        .filter(|(variable, _)| !is_known(variable))
        .filter_map(|(variable, _)| {
            let near = nearest(variable, &names)?;
            Some(format!("the environment variable {variable} sets nothing; did you mean {near}?"))
        })
        .collect();
    let value_of = |name: &String| environment.iter().find(|(variable, _)| variable == name).map(|(_, text)| text);
    for (name, key) in older {
        if let Some(entries) = value_of(&name).and_then(|text| modern_of_text::<T>(&key, text)) {
            merged.put_modern(&key, entries, &Origin::Environment(name))?;
        }
    }
    for (key, name) in keys.into_iter().zip(names) {
        if let Some(text) = value_of(&name) {
            let origin = Origin::Environment(name);
            insert(&mut merged.values, known, &key, text, &origin)?;
            merged.say(key, origin);
        }
    }
    Ok(warnings)
}

fn merge_set<T: Configuration>(set: &[String], known: &Json, merged: &mut Merged) -> anyhow::Result<()> {
    for setting in set {
        let Some((key, text)) = setting.split_once('=') else {
            return Err(failure(Kind::Usage, format!("--set {setting}: write it as key=value")));
        };
        let (key, text) = (key.trim(), text.trim());
        if let Some(entries) = modern_of_text::<T>(key, text) {
            merged.put_modern(key, entries, &Origin::Set)?;
            continue;
        }
        insert(&mut merged.values, known, key, text, &Origin::Set)?;
        merged.say(key.to_owned(), Origin::Set);
    }
    Ok(())
}

/// What a dotted key of an earlier version says today.
fn modern_of_text<T: Configuration>(key: &str, text: &str) -> Option<Vec<(String, Json)>> {
    let value = parsed(text).and_then(|value| serde_json::to_value(value).ok()).unwrap_or_else(|| text.into());
    // The entry may be a table, of which the key names one value.
    let ends = key.match_indices('.').map(|(at, _)| at).chain([key.len()]);
    ends.into_iter().find_map(|end| {
        let (path, rest) = key.split_at_checked(end)?;
        let inner = rest.rsplit('.').filter(|part| !part.is_empty());
        let value = inner.fold(value.clone(), |value, part| serde_json::json!({ part: value }));
        T::modern(path, &value)
    })
}

/// The text as a TOML value, if it is one.
fn parsed(text: &str) -> Option<Value> {
    toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"))
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
    let value = match (place, parsed(text)) {
        // A text key takes the words as they stand, quoted or not.
        (Json::String(_), Some(Value::String(quoted))) => Value::String(quoted),
        (Json::String(_), _) | (_, None) => Value::String(text.to_owned()),
        // 3 is a fine learning rate, although TOML calls it an integer.
        (Json::Number(number), Some(Value::Integer(integer))) if number.is_f64() => Value::Float(integer as f64),
        (_, Some(value)) => value,
    };
    put(values, key, value, origin)
}

/// Puts a value at a dotted key.
fn put(values: &mut Table, key: &str, value: Value, origin: &Origin) -> anyhow::Result<()> {
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
    let hint = nearest(key, &candidates).map_or_else(
        || format!("known keys: {}", first_names(leaves(known))),
        |near| format!("did you mean `{near}`?"),
    );
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
    use std::fs;

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

    impl Configuration for Example {
        fn modern(path: &str, value: &Json) -> Option<Vec<(String, Json)>> {
            match (path, value) {
                ("title", _) => Some(vec![("name".to_owned(), value.clone())]),
                ("train", Json::Object(train)) => {
                    let rate = train.get("schedule")?.get("rate")?;
                    Some(vec![("train.learning_rate".to_owned(), rate.clone())])
                }
                _ => None,
            }
        }

        fn idle(&self) -> Vec<(String, String)> {
            let why = || "the seed is 9".to_owned();
            if self.seed == 9 {
                vec![("train.ranks".to_owned(), why()), ("labels".to_owned(), why())]
            } else {
                Vec::new()
            }
        }

        fn older_keys() -> Vec<String> {
            vec!["title".to_owned(), "train.schedule.rate".to_owned()]
        }
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
            presets: Vec::new(),
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
    fn a_key_of_an_earlier_version_is_read_from_every_source_and_todays_is_named() {
        let file = "seed = 2\ntitle = \"old\"\n\n[train.schedule]\nrate = 0.5\n";
        let resolved = load_with(Some(file), &[], &[]).unwrap();
        assert_eq!((resolved.value.name.as_str(), resolved.value.train.learning_rate), ("old", 0.5));
        assert!(
            resolved.notes[0].ends_with("hydra.toml:2: `title` is written `name = \"old\"` now"),
            "{:?}",
            resolved.notes
        );
        assert!(resolved.notes[1].contains("hydra.toml:4: `train` is written `train.learning_rate = 0.5` now"));

        let resolved = load_with(Some(file), &[("HYDRA_TRAIN_SCHEDULE_RATE", "0.25")], &["title=set"]).unwrap();
        assert_eq!((resolved.value.name.as_str(), resolved.value.train.learning_rate), ("set", 0.25));
        assert!(resolved.notes[2].contains("environment variable HYDRA_TRAIN_SCHEDULE_RATE: `train.schedule.rate`"));
        assert!(resolved.notes[3].contains("--set: `title` is written `name = \"set\"` now"));
        assert_eq!(resolved.warnings, Vec::<String>::new());
    }

    #[test]
    fn todays_key_wins_over_the_earlier_one_of_the_same_file() {
        let value = load_with(Some("name = \"new\"\ntitle = \"old\"\n"), &[], &[]).unwrap().value;
        assert_eq!(value.name, "new");
    }

    #[test]
    fn a_value_that_does_nothing_under_the_others_is_named() {
        let text = message(load_with(Some("seed = 9\n\n[train]\nranks = [2]\n"), &[], &[]));
        assert!(text.ends_with("hydra.toml:4: `train.ranks` has no effect: the seed is 9"), "{text}");
        let text = message(load_with(Some("seed = 9\n"), &[], &["labels.cat=1"]));
        assert_eq!(text, "--set: `labels.cat` has no effect: the seed is 9");
        assert!(load_with(Some("seed = 8\n[train]\nranks = [2]\n"), &[], &[]).is_ok());
    }

    #[test]
    fn what_a_command_presets_yields_to_whatever_is_said() {
        let presets = || vec!["seed=5".to_owned(), "train.learning_rate=1".to_owned()];
        let load = |set: &[&str]| {
            let set = set.iter().map(|set| (*set).to_owned()).collect();
            load::<Example>(&Sources { presets: presets(), set, ..Sources::default() }).unwrap().value
        };
        assert_eq!((load(&[]).seed, load(&[]).train.learning_rate), (5, 1.0));
        // The default is an answer as any other.
        assert_eq!(load(&["seed=0"]).seed, 0);
    }

    #[test]
    fn a_default_that_somebody_wrote_has_to_have_an_effect_and_one_in_a_list_of_all_keys_has_not() {
        let set = message(load_with(None, &[], &["seed=9", "train.ranks=[4, 8]"]));
        assert_eq!(set, "--set: `train.ranks` has no effect: the seed is 9");
        let file = message(load_with(Some("seed = 9\n[train]\nranks = [4, 8]\n"), &[], &[]));
        assert!(file.ends_with("hydra.toml:3: `train.ranks` has no effect: the seed is 9"), "{file}");
        // Everything that is in effect, as `--dry-run --json` shows it, and an environment for several commands.
        let resolved = load_with(Some("seed = 9\n"), &[], &[]).unwrap();
        assert_eq!(load_with(Some(&resolved.text), &[], &[]).unwrap().value, resolved.value);
        assert!(load_with(Some("seed = 9\n"), &[("HYDRA_TRAIN_RANKS", "[4, 8]")], &[]).is_ok());
        assert!(load_with(Some("seed = 9\n"), &[("HYDRA_TRAIN_RANKS", "[4]")], &[]).is_err());
        // A file of an earlier version lacks keys of today, and has the name that a run gives it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RESOLVED_FILE);
        fs::write(&path, "seed = 9\n[train]\nranks = [4, 8]\n").unwrap();
        assert!(load::<Example>(&Sources { file: Some(path), ..Sources::default() }).is_ok());
    }

    #[test]
    fn the_resolved_text_reads_back_to_the_same_values() {
        let resolved = load_with(Some("seed = 7\n"), &[], &["limit=3"]).unwrap();
        assert_eq!(load_with(Some(&resolved.text), &[], &[]).unwrap().value, resolved.value);
        assert_eq!(resolved.user_text.as_deref(), Some("seed = 7\n"));
    }
}
