//! The choices of a plan: from a file, the environment, `--set` and flags.

use std::fmt;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use hydra_shared::files::outside::NO_BASE_RANK;
use hydra_shared::schedule::choices::{ALL, Choice, Choices, Kind as Value, Values, modern, older_keys};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Args;
use crate::commands::common::tell;
use crate::config::{Configuration, Resolved, Sources, load};
use crate::error::{Kind, failure};
use crate::output::Output;

/// Key of the one setting that is no choice of the plan.
const DROPOUT: &str = "dropout";

/// Every setting, as a configuration file has them: the choices, and what PEFT is told besides.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The choices that are made. The base rank is none until it is given.
    values: Values,
    /// Dropout in the PEFT configuration.
    pub dropout: f64,
}

impl Default for Settings {
    fn default() -> Self {
        let mut values = Values::of(&Choices::default(), None);
        values.remove("base_rank");
        Self { values, dropout: 0.0 }
    }
}

impl Configuration for Settings {
    // A search's file has the same choices in these.
    const TABLES: &'static [&'static str] = &["plan", "profile"];

    fn modern(path: &str, value: &Json) -> Option<Vec<(String, Json)>> {
        let entries = modern(path, value)?;
        Some(entries.into_iter().map(|(choice, value)| (choice.key.to_owned(), value)).collect())
    }

    fn older_keys() -> Vec<String> {
        older_keys().map(str::to_owned).collect()
    }

    fn idle(&self) -> Vec<(String, String)> {
        // Values that cannot be used are refused where they are put.
        owned(self.choices().map(|choices| choices.idle()).unwrap_or_default())
    }
}

fn owned(idle: Vec<(&str, String)>) -> Vec<(String, String)> {
    idle.into_iter().map(|(key, why)| (key.to_owned(), why)).collect()
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut table = serializer.serialize_struct("Settings", ALL.len() + 1)?;
        for choice in ALL {
            table.serialize_field(choice.key, &self.values.get(choice.key))?;
        }
        table.serialize_field(DROPOUT, &self.dropout)?;
        table.end()
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Settings { values: Values::default(), dropout: 0.0 };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        DROPOUT => settings.dropout = map.next_value()?,
                        key => settings.values.take(key, None, &mut map)?,
                    }
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

impl Settings {
    /// Puts all sources together.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a setting that is unknown, of the wrong type, or missing.
    pub fn resolve(args: &Args, output: &Output) -> anyhow::Result<Self> {
        let resolved = load::<Self>(&Sources::new(args.config.clone(), args.set.clone()))?;
        tell(&resolved, output);
        let mut settings = resolved.value.clone();
        settings.put(&args.flags);
        settings.refuse_idle(&args.flags, &resolved)?;
        settings.dropout = args.dropout.unwrap_or(settings.dropout);
        if settings.values.get("base_rank").is_none() {
            return Err(failure(Kind::Usage, NO_BASE_RANK));
        }
        if args.dropout.is_some() && args.peft.is_none() && args.python.is_none() {
            let message = "--dropout has no effect without --peft or --python: a schedule's file holds ranks alone";
            return Err(failure(Kind::Usage, message));
        }
        if !(0.0..1.0).contains(&settings.dropout) {
            return Err(failure(Kind::Usage, format!("dropout {} is not from 0 to below 1", settings.dropout)));
        }
        Ok(settings)
    }

    /// Refuses flags that do nothing, and settings that do nothing for the kind of schedule, unless a flag chose that over them.
    fn refuse_idle(&self, Flags(flags): &Flags, resolved: &Resolved<Self>) -> anyhow::Result<()> {
        let choices = self.choices()?;
        let by_kind = choices.idle_by_kind();
        let idle = [choices.idle(), by_kind.clone()].concat();
        for (choice, _) in flags {
            if let Some((key, why)) = idle.iter().find(|(key, _)| *key == choice.key) {
                let flag = key.replace('_', "-");
                return Err(failure(Kind::Usage, format!("--{flag} has no effect: {why}")));
            }
        }
        resolved.refuse_set(&owned(idle))?;
        if flags.iter().any(|(choice, _)| choice.key == "schedule_kind") {
            return Ok(());
        }
        resolved.refuse_here(&owned(by_kind))
    }

    /// Flags are stronger than anything else.
    fn put(&mut self, Flags(flags): &Flags) {
        self.values.choose(flags);
    }

    /// The choices.
    ///
    /// # Errors
    /// [`Kind::Usage`] for signs, stages or a scale that cannot be read.
    pub fn choices(&self) -> anyhow::Result<Choices> {
        let mut choices = Choices::default();
        self.values.put_into(&mut choices).map_err(|error| failure(Kind::Usage, error))?;
        Ok(choices)
    }

    /// The seed, which is known even where no stage is clustered.
    pub fn seed(&self) -> u64 {
        self.values.seed()
    }
}

/// A flag for every choice, and what was given.
#[derive(Debug, Clone, Default)]
pub struct Flags(Vec<(&'static Choice, Json)>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let defaults = Settings::default();
        let flags = ALL.iter().flat_map(|choice| [Some(flag(choice, &defaults)), short_flag(choice)]);
        command.next_help_heading("Settings").args(flags.flatten())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(ALL.iter().filter_map(|choice| Some((choice, given(choice, matches)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(choice: &'static Choice, defaults: &Settings) -> Arg {
    let mut help = choice.help.to_owned();
    if !choice.example.is_empty() {
        help += &format!(", e.g. {}", choice.example);
    }
    let default = match &choice.kind {
        Value::Switch { .. } => None,
        // What has to be given has none, whatever the choices begin with.
        _ => defaults.values.get(choice.key).and_then(|_| choice.text(&Choices::default())),
    };
    let default = default.unwrap_or_else(|| choice.unset.to_owned());
    if !default.is_empty() {
        help += &format!(" [default: {default}]");
    }
    let arg = Arg::new(choice.key).long(choice.key.replace('_', "-")).help(help);
    let arg = match &choice.kind {
        Value::Switch { .. } => arg.action(ArgAction::SetTrue),
        Value::Whole { most, .. } => arg.value_name("N").value_parser(value_parser!(u64).range(..=*most)),
        Value::Number { .. } => arg.value_name("X").value_parser(value_parser!(f64)),
        Value::Words { words, .. } => {
            arg.value_name("NAME").value_parser(PossibleValuesParser::new(words.iter().map(|word| word.name)))
        }
        Value::Ranks { .. } => {
            arg.value_name("A,B,C").value_parser(value_parser!(u32)).value_delimiter(',').action(ArgAction::Append)
        }
        Value::Scale { .. } => arg.value_name("POLICY"),
        Value::Layers { .. } => arg.value_name("LAYERS"),
        Value::Signs { .. } => arg.value_name("SIGNS").allow_hyphen_values(true),
    };
    arg.conflicts_with_all(choice.idles)
}

/// The flag without value that is short for a word of the choice.
fn short_flag(choice: &'static Choice) -> Option<Arg> {
    let (name, word) = choice.short?;
    let flag = choice.key.replace('_', "-");
    let arg = Arg::new(name).long(name.replace('_', "-")).action(ArgAction::SetTrue);
    Some(arg.help(format!("Short for --{flag} {word}")).conflicts_with(choice.key))
}

/// What was given for a choice.
fn given(choice: &Choice, matches: &ArgMatches) -> Option<Json> {
    if let Some((name, word)) = choice.short
        && matches.get_flag(name)
    {
        return Some(word.into());
    }
    match &choice.kind {
        Value::Switch { .. } => matches.get_flag(choice.key).then_some(true.into()),
        Value::Whole { .. } => matches.get_one::<u64>(choice.key).map(|number| (*number).into()),
        // As text, which can be NaN: the plan says what is wrong with that.
        Value::Number { .. } => matches.get_one::<f64>(choice.key).map(|number| number.to_string().into()),
        Value::Ranks { .. } => Some(matches.get_many::<u32>(choice.key)?.copied().collect::<Vec<_>>().into()),
        Value::Words { .. } | Value::Scale { .. } | Value::Layers { .. } | Value::Signs { .. } => {
            matches.get_one::<String>(choice.key).map(|text| text.as_str().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};
    use hydra_shared::schedule::choices::of_key;

    use super::*;

    fn choices(settings: Settings, flags: &[&str]) -> Choices {
        let matches = Flags::augment_args(Command::new("plan")).get_matches_from([&["plan"], flags].concat());
        let mut settings = settings;
        settings.put(&Flags::from_arg_matches(&matches).unwrap());
        settings.choices().unwrap()
    }

    #[test]
    fn every_choice_has_a_flag_that_reaches_it() {
        for choice in ALL {
            let (text, value) = match choice.kind {
                Value::Switch { .. } => (None, "true".to_owned()),
                Value::Whole { bounds: (low, _), .. } => (Some((low + 7).to_string()), (low + 7).to_string()),
                Value::Number { .. } => (Some("0.75".to_owned()), "0.75".to_owned()),
                Value::Words { words, .. } => (Some(words[1].name.to_owned()), words[1].name.to_owned()),
                Value::Scale { .. } => (Some("rslora:32".to_owned()), "rslora:32".to_owned()),
                Value::Ranks { .. } | Value::Layers { .. } => (Some("4,8".to_owned()), "4,8".to_owned()),
                Value::Signs { .. } => (Some("q=-".to_owned()), "q=-,k=0,v=0,o=0,gate=0,up=0,down=0".to_owned()),
            };
            let flag = format!("--{}", choice.key.replace('_', "-"));
            let flags: Vec<&str> = [flag.as_str()].into_iter().chain(text.as_deref()).collect();
            let made = choices(Settings::default(), &flags);
            assert_eq!(choice.text(&made), Some(value), "{flag}");
        }
    }

    #[test]
    fn the_file_that_the_page_exports_makes_the_choices_of_its_session() {
        for link in [
            "v=1&sample=smollm2&r=16&stages=4&contiguous=1&seed=7&ranks=8,16,32,32&delta=4&signs=q=-,k=-,up=%2B&cap=64\
             &budget=4000000&norm=root-sum-squares&scale=rslora:32&count=rank-units&signal=rms&warmup=0.25",
            "v=1&sample=smollm2&layers=0-9/10-28/29&ratio=3&seed=18446744073709551615",
            "v=1&sample=smollm2&r=16&stages=4&contiguous=1&ranks=8,16,32,32&delta=4&signs=q=-\
             &norm=root-sum-squares&cap=64&preset=eva-like",
        ] {
            let session = hydra_playground::link::from_link(link).session;
            let analysis = hydra_playground::analysis::Analysis::new(&session).unwrap();
            let files = hydra_playground::export::exports(&session, &analysis, "http://x/#v=1").unwrap();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("plan.toml");
            std::fs::write(&file, &files.iter().find(|export| export.file == "plan.toml").unwrap().text).unwrap();
            let resolved = load::<Settings>(&Sources { file: Some(file), ..Sources::default() }).unwrap();
            let (made, chosen) = (resolved.value.choices().unwrap(), session.choices());
            // The file leaves out what says nothing of the schedule.
            let idle = chosen.idle_by_kind();
            for choice in ALL.iter().filter(|choice| idle.iter().all(|(key, _)| *key != choice.key)) {
                assert_eq!(choice.text(&made), choice.text(&chosen), "{link}, {}", choice.key);
            }
            assert_eq!(resolved.notes, Vec::<String>::new());
        }
    }

    #[test]
    fn a_ratio_on_the_command_line_takes_the_place_of_ranks_in_a_file() {
        let mut settings = Settings::default();
        settings.values.insert(of_key("stage_ranks").unwrap(), serde_json::json!([8, 16, 32]));
        let ratio = of_key("ratio").unwrap();
        assert_eq!(ratio.text(&choices(settings.clone(), &[])), None);
        assert_eq!(ratio.text(&choices(settings, &["--ratio", "3"])), Some("3".to_owned()));
    }

    #[test]
    fn layers_by_hand_on_the_command_line_take_the_place_of_stages_in_a_file_and_not_of_a_flag() {
        let mut settings = Settings::default();
        settings.values.insert(of_key("stages").unwrap(), 5.into());
        let layers = of_key("stage_layers").unwrap();
        assert_eq!(layers.text(&choices(settings, &["--stage-layers", "0-3/4-5"])), Some("0-3/4-5".to_owned()));
        let command = Flags::augment_args(Command::new("plan"));
        for flag in [["--stages", "3"].as_slice(), &["--contiguous"], &["--restarts", "2"]] {
            let line = [&["plan", "--stage-layers", "0-3/4-5"], flag].concat();
            let error = command.clone().try_get_matches_from(line).unwrap_err().to_string();
            assert!(error.contains("cannot be used with"), "{error}");
        }
    }

    #[test]
    fn settings_of_a_file_that_say_nothing_beside_others_are_named() {
        let refused = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("plan.toml");
            std::fs::write(&file, text).unwrap();
            load::<Settings>(&Sources { file: Some(file), ..Sources::default() }).map(drop).unwrap_err().to_string()
        };
        let error = refused("stage_layers = \"0-3/4-5\"\nstages = 5\n");
        assert!(
            error.ends_with("plan.toml:2: `stages` has no effect: stage_layers is given, which takes its place"),
            "{error}"
        );
        assert!(
            refused("stage_ranks = [4, 8, 16]\nratio = 3.0\n").contains("`ratio` has no effect: stage_ranks is given")
        );
        assert!(refused("delta = 0\nsigns = \"q=-\"\n").contains("`signs` has no effect: delta is 0"));
        assert!(refused("stages = 1\nratio = 3.0\n").contains("`ratio` has no effect: stages is 1"));
        assert!(refused("contiguous = true\nrestarts = 4\n").contains("`restarts` has no effect: contiguous is true"));
    }

    #[test]
    fn flags_and_settings_that_say_nothing_of_the_schedule_are_named() {
        let refusal = |text: &str, flags: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("plan.toml");
            std::fs::write(&file, text).unwrap();
            let matches = Flags::augment_args(Command::new("plan")).get_matches_from([&["plan"], flags].concat());
            let flags = Flags::from_arg_matches(&matches).unwrap();
            let resolved = load::<Settings>(&Sources { file: Some(file), ..Sources::default() }).unwrap();
            let mut settings = resolved.value.clone();
            settings.put(&flags);
            settings.refuse_idle(&flags, &resolved).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (text, flags, part) in [
            ("", &["--delta", "0", "--signs", "q=-"][..], "--signs has no effect: delta is 0"),
            ("delta = 0\n", &["--signs", "q=-"], "--signs has no effect: delta is 0"),
            ("", &["--stages", "1", "--ratio", "2"], "--ratio has no effect: stages is 1"),
            ("", &["--contiguous", "--restarts", "4"], "--restarts has no effect: contiguous is true"),
            ("", &["--schedule-kind", "uniform", "--delta", "3"], "--delta has no effect: schedule_kind is uniform"),
            ("", &["--schedule-kind", "eva-like", "--stages", "4"], "neither stages nor a fine step"),
            ("", &["--schedule-kind", "linear", "--stage-layers", "0/1"], "--stage-layers has no effect"),
            ("", &["--schedule-kind", "hydra-coarse", "--delta", "3"], "hydra-coarse, which has no fine step"),
            ("schedule_kind = \"linear\"\n", &["--ratio", "3"], "--ratio has no effect: schedule_kind is linear"),
            (
                "schedule_kind = \"linear\"\ndelta = 3\n",
                &[],
                "plan.toml:2: `delta` has no effect: schedule_kind is linear",
            ),
        ] {
            let refusal = refusal(text, flags);
            assert!(refusal.contains(part), "{text}{flags:?}: {refusal}");
        }
        for (text, flags) in [
            ("", &["--schedule-kind", "hydra-coarse", "--stages", "4"][..]),
            ("", &["--schedule-kind", "random-feasible", "--seed", "4", "--rank-cap", "9", "--budget", "9999"]),
            // A flag takes the place of what the file says.
            ("delta = 3\nsigns = \"q=-\"\n", &["--schedule-kind", "uniform"]),
            ("signs = \"q=-\"\n", &["--delta", "0"]),
            // The file of a search, which heeds both.
            ("[plan]\nschedule_kind = \"linear\"\ndelta = 3\n", &[]),
        ] {
            assert_eq!(refusal(text, flags), "", "{text}{flags:?}");
        }
    }

    #[test]
    fn ranks_on_the_command_line_say_how_many_stages_there_are() {
        let stages = of_key("stages").unwrap();
        let made = choices(Settings::default(), &["--stage-ranks", "8,16,32,64"]);
        assert_eq!(stages.text(&made), Some("4".to_owned()));
        let made = choices(Settings::default(), &["--stage-ranks", "8,16", "--stages", "5"]);
        assert_eq!(stages.text(&made), Some("5".to_owned()));
    }
}
