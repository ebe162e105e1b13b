//! PEFT's rules from keys to modules (0.21: `get_pattern_key`, `check_target_module_exists`).
//!
//! Keys are Python's regular expressions.

#[cfg(feature = "weights")]
mod overlap;

use std::collections::BTreeSet;

use indexmap::IndexMap;

use crate::expression::Regex;

use super::config::{LoraConfig, Modules, OneOrMore, float};

/// `target_modules` for every linear layer but the output head.
const ALL_LINEAR: &str = "all-linear";
/// Transformers' name of the output head.
const HEAD: &str = "lm_head";
/// What has a meaning of its own in a regular expression, the dot left out.
const SPECIAL: &str = r"\^$*+?{}[]|()";

/// A pattern that cannot be read, or takes too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} cannot be read: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A regular expression of Python, for whole texts.
#[derive(Debug)]
struct Expression {
    text: String,
    regex: Regex,
}

impl Expression {
    fn new(text: &str) -> Result<Self, PatternError> {
        Self::within(text, text)
    }

    /// An expression that a pattern is part of. Errors name the pattern.
    fn within(pattern: &str, expression: &str) -> Result<Self, PatternError> {
        let regex = Regex::whole(expression).map_err(|reason| PatternError { pattern: pattern.to_owned(), reason })?;
        Ok(Self { text: pattern.to_owned(), regex })
    }

    /// Python's `re.fullmatch`.
    fn matches(&self, text: &str) -> Result<bool, PatternError> {
        self.regex.is_match(text).map_err(|reason| PatternError { pattern: self.text.clone(), reason })
    }
}

/// A key of `rank_pattern` or `alpha_pattern`: `re.match(rf"(.*\.)?({key})$", name)`, so that a key also applies to modules
/// whose path ends in it.
#[derive(Debug)]
enum Key {
    /// Without special characters but the dot, which stands for any one character, as in PEFT. Most keys are full names.
    Plain(String),
    Expression(Expression),
}

impl Key {
    fn new(key: &str) -> Result<Self, PatternError> {
        if key.contains(|c| SPECIAL.contains(c)) {
            return Expression::within(key, &format!(r"(.*\.)?({key})")).map(Self::Expression);
        }
        Ok(Self::Plain(key.to_owned()))
    }

    fn matches(&self, name: &str) -> Result<bool, PatternError> {
        match self {
            Self::Plain(key) => Ok(plain_key_matches(key, name)),
            Self::Expression(expression) => expression.matches(name),
        }
    }
}

fn plain_key_matches(key: &str, name: &str) -> bool {
    let mut name_end = name.chars().rev();
    for wanted in key.chars().rev() {
        match name_end.next() {
            Some(found) if found == wanted || (wanted == '.' && found != '\n') => {}
            _ => return false,
        }
    }
    let mut before = name_end;
    match before.next() {
        None => true,
        // The dot that ends the prefix; `.*` before it does not cross lines.
        Some('.') => before.all(|c| c != '\n'),
        Some(_) => false,
    }
}

/// Whether an entry of a list names a module: its full name, or the end of its path.
fn suffix_matches(entry: &str, name: &str) -> bool {
    name.strip_suffix(entry).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The first key that matches a module decides. Names are relative to the base model.
fn first<T: Copy>(keys: &[(Key, T)], name: &str) -> Result<Option<T>, PatternError> {
    for (key, value) in keys {
        if key.matches(name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Ranks and scales of modules under a configuration's `rank_pattern` and `alpha_pattern`.
#[derive(Debug)]
pub struct Patterns<'a> {
    config: &'a LoraConfig,
    ranks: Vec<(Key, u32)>,
    alphas: Vec<(Key, f64)>,
}

impl<'a> Patterns<'a> {
    pub(super) fn new(config: &'a LoraConfig) -> Result<Self, PatternError> {
        let ranks = keys(&config.rank_pattern, |rank| *rank)?;
        Ok(Self { config, ranks, alphas: keys(&config.alpha_pattern, float)? })
    }

    /// Rank that PEFT gives a module, if it adapts it: that of the first key that matches, or `r`.
    ///
    /// # Errors
    /// A key that takes too long.
    pub fn rank(&self, module: &str) -> Result<u32, PatternError> {
        Ok(first(&self.ranks, module)?.unwrap_or(self.config.r))
    }

    /// Factor that PEFT gives the update of a module, if it adapts it.
    ///
    /// # Errors
    /// A key that takes too long.
    pub fn scale(&self, module: &str) -> Result<f64, PatternError> {
        let alpha = first(&self.alphas, module)?.unwrap_or(self.config.alpha());
        Ok(self.config.scale(alpha, self.rank(module)?))
    }

    /// Every key with the number of modules that it matches: those of `rank_pattern` first, then what `alpha_pattern` has
    /// beside them.
    ///
    /// # Errors
    /// A key that takes too long.
    pub fn matched(&self, modules: &[&str]) -> Result<Vec<(String, usize)>, PatternError> {
        let ranks = self.config.rank_pattern.keys().zip(self.ranks.iter().map(|(key, _)| key));
        let alphas = self.config.alpha_pattern.keys().zip(self.alphas.iter().map(|(key, _)| key));
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (text, key) in ranks.chain(alphas).filter(|(text, _)| seen.insert(*text)) {
            let mut matched = 0;
            for module in modules {
                matched += usize::from(key.matches(module)?);
            }
            found.push((text.clone(), matched));
        }
        Ok(found)
    }
}

fn keys<T, U>(pattern: &IndexMap<String, T>, value: impl Fn(&T) -> U) -> Result<Vec<(Key, U)>, PatternError> {
    pattern.iter().map(|(key, entry)| Ok((Key::new(key)?, value(entry)))).collect()
}

/// Which modules a configuration adapts.
#[derive(Debug)]
pub struct Targets {
    targets: Names,
    excluded: Names,
    /// Modules that are saved whole, with all that lies inside them.
    saved: Vec<Expression>,
    layers: Option<Layers>,
}

/// Modules by name.
#[derive(Debug)]
enum Names {
    None,
    AllLinear,
    List(Vec<String>),
    Expression(Expression),
}

/// The layers that are adapted.
#[derive(Debug)]
struct Layers {
    wanted: Vec<u64>,
    /// What a name holds before the number of its layer, the dot included.
    before: Vec<Expression>,
}

impl Targets {
    pub(super) fn new(config: &LoraConfig) -> Result<Self, PatternError> {
        let targets = match &config.target_modules {
            Some(Modules::Expression(word)) if word.eq_ignore_ascii_case(ALL_LINEAR) => Names::AllLinear,
            Some(modules) => Names::new(modules)?,
            None if config.target_parameters.is_some() => Names::None,
            // PEFT chooses by the type of the model, which a configuration does not tell.
            None => Names::AllLinear,
        };
        let excluded = config.exclude_modules.as_ref().map_or(Ok(Names::None), Names::new)?;
        let saved = config.modules_to_save.iter().flatten();
        let saved = saved.map(|name| Expression::within(name, &format!(r"(?:^|.*\.)(?:{name})(?:$|\..*)")));
        Ok(Self { targets, excluded, saved: saved.collect::<Result<_, _>>()?, layers: Layers::new(config)? })
    }

    /// Whether it means every linear layer but the output head.
    #[cfg(feature = "weights")]
    pub(super) fn are_all_linear(&self) -> bool {
        matches!(self.targets, Names::AllLinear)
    }

    /// Whether PEFT adapts the module of that name, relative to the base model.
    ///
    /// # Errors
    /// A pattern that takes too long.
    pub fn adapts(&self, module: &str) -> Result<bool, PatternError> {
        if self.excluded.hold(module)? {
            return Ok(false);
        }
        for saved in &self.saved {
            if saved.matches(module)? {
                return Ok(false);
            }
        }
        // Full names and expressions say the layer themselves.
        match (&self.layers, &self.targets) {
            (Some(layers), Names::List(list)) if !list.iter().any(|name| name == module) => {
                Ok(self.targets.hold(module)? && layers.hold(module)?)
            }
            _ => self.targets.hold(module),
        }
    }
}

impl Names {
    fn new(modules: &Modules) -> Result<Self, PatternError> {
        Ok(match modules {
            Modules::List(names) => Self::List(names.clone()),
            Modules::Expression(expression) => Self::Expression(Expression::new(expression)?),
        })
    }

    fn hold(&self, module: &str) -> Result<bool, PatternError> {
        match self {
            Self::None => Ok(false),
            Self::AllLinear => Ok(!suffix_matches(HEAD, module)),
            Self::List(names) => Ok(names.iter().any(|name| suffix_matches(name, module))),
            Self::Expression(expression) => expression.matches(module),
        }
    }
}

impl Layers {
    fn new(config: &LoraConfig) -> Result<Option<Self>, PatternError> {
        let wanted = config.layers_to_transform.as_ref().map_or(&[][..], OneOrMore::as_slice);
        if wanted.is_empty() {
            return Ok(None);
        }
        let given = config.layers_pattern.as_ref().map_or(&[][..], OneOrMore::as_slice);
        let before = if given.iter().all(String::is_empty) {
            vec![Expression::new(r".*\.[^.]*\.")?]
        } else {
            let named = given.iter().map(|pattern| Expression::within(pattern, &format!(r"(?:.*\.)?(?:{pattern})\.")));
            named.collect::<Result<_, _>>()?
        };
        Ok(Some(Self { wanted: wanted.to_vec(), before }))
    }

    /// Whether a module lies in a wanted layer: that of the first pattern which finds one, the outermost of several.
    fn hold(&self, module: &str) -> Result<bool, PatternError> {
        let numbers = numbers(module);
        for expression in &self.before {
            for (before, number) in &numbers {
                if expression.matches(before)? {
                    return Ok(self.wanted.contains(number));
                }
            }
        }
        Ok(false)
    }
}

/// The parts of a path that are numbers, the last part left out, each with what stands before it.
fn numbers(module: &str) -> Vec<(&str, u64)> {
    let mut found = Vec::new();
    let mut start = 0;
    for part in module.split_inclusive('.') {
        let digits = part.strip_suffix('.').filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        if let (Some(before), Some(Ok(number))) = (module.get(..start), digits.map(str::parse)) {
            found.push((before, number));
        }
        start += part.len();
    }
    found
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const VISION: &str = "model.vision_tower.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj";

    #[test]
    fn a_full_name_matches_its_module_and_no_other() {
        let key = "model.layers.3.self_attn.q_proj";
        assert!(key_matches(key, key));
        for other in ["model.layers.13.self_attn.q_proj", "model.layers.3.self_attn.k_proj", VISION, "q_proj", ""] {
            assert!(!key_matches(key, other), "{other}");
        }
    }

    #[test]
    fn a_shorter_key_also_matches_the_vision_tower() {
        let key = "layers.3.self_attn.q_proj";
        assert!(key_matches(key, "model.layers.3.self_attn.q_proj"));
        assert!(key_matches(key, VISION));
    }

    #[test]
    fn the_prefix_ends_at_a_dot_and_digits_do_not_collide() {
        assert!(!key_matches("layers.1.mlp.up_proj", "model.sublayers.1.mlp.up_proj"));
        assert!(!key_matches("1.mlp.up_proj", "model.layers.11.mlp.up_proj"));
        assert!(key_matches("1.mlp.up_proj", "model.layers.1.mlp.up_proj"));
        assert!(key_matches("model.layers.1.mlp.up_proj", "language_model.model.layers.1.mlp.up_proj"));
    }

    #[test]
    fn a_dot_of_the_key_stands_for_any_character_as_in_a_regular_expression() {
        assert!(key_matches("layers.1.mlp", "layers_1_mlp"));
        assert!(!key_matches("layers.1.mlp", "layers\n1.mlp"));
        assert!(!key_matches("layers_1", "layers.1"));
    }

    #[test]
    fn the_empty_key_matches_what_ends_in_a_dot() {
        assert!(key_matches("", ""));
        assert!(key_matches("", "model."));
        assert!(!key_matches("", "model"));
    }

    #[test]
    fn target_lists_match_whole_path_ends_literally() {
        assert!(suffix_matches("q_proj", "model.layers.0.self_attn.q_proj"));
        assert!(suffix_matches("q_proj", "q_proj"));
        assert!(!suffix_matches("q_proj", "model.layers.0.self_attn.my_q_proj"));
        assert!(!suffix_matches("self_attn.q_proj", "self_attn_q_proj"));
    }

    fn key_matches(key: &str, name: &str) -> bool {
        Key::new(key).unwrap().matches(name).unwrap()
    }

    #[test]
    fn plain_keys_match_what_they_match_as_regular_expressions() {
        let keys =
            ["", "q_proj", "q.proj", "self_attn.q_proj", "1.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "."];
        let names =
            ["model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "q_proj", "", "model.", VISION];
        for (key, name) in keys.into_iter().flat_map(|key| names.map(|name| (key, name))) {
            let expression = Expression::new(&format!(r"(.*\.)?({key})")).unwrap();
            assert_eq!(plain_key_matches(key, name), expression.matches(name).unwrap(), "{key:?} on {name:?}");
        }
    }

    #[test]
    fn keys_are_regular_expressions_of_python_with_look_around() {
        let name = "model.layers.11.self_attn.q_proj";
        for key in [
            "(q|k)_proj",
            r"layers\.\d+\.self_attn\.q_proj",
            "^model.layers.11.self_attn.q_proj",
            r"(?<!vision_tower\.)layers\.11\..*",
            r"(?!.*mlp).*_proj",
            r".*(?<=self_attn\.)q_proj",
            r"layers\.(?P<n>\d)(?P=n)\..*",
            r"\Amodel\..*_proj\Z",
            r"self\_attn\.q_proj",
            "[]q]_proj",
            "[k-q]_[^x.]*",
            r"\b11\b.*",
            ".{6}",
            "q_pro[jk]{1,2}",
        ] {
            assert!(key_matches(key, name), "{key}");
        }
        for key in [
            r"layers\.1\.self_attn\.q_proj",
            "^layers.11.self_attn.q_proj",
            "(k|v)_proj",
            r"(?<!\d)1\.self_attn\.q_proj",
            "Q_PROJ",
            "q_proj.+",
        ] {
            assert!(!key_matches(key, name), "{key}");
        }
    }

    #[test]
    fn a_key_that_is_no_regular_expression_is_named() {
        for key in ["(q_proj", "[q", "*q", r"q\"] {
            let error = Key::new(key).unwrap_err();
            assert!(error.to_string().starts_with(&format!("the pattern {key:?} cannot be read: ")), "{error}");
        }
    }

    fn adapted(fields: &str, names: &[&'static str]) -> Vec<&'static str> {
        let config = format!(r#"{{"peft_type": "LORA", "r": 8{fields}}}"#);
        let targets = LoraConfig::from_json(&config).unwrap().targets().unwrap();
        names.iter().filter(|name| targets.adapts(name).unwrap()).copied().collect()
    }

    const NAMES: [&str; 6] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.10.self_attn.q_proj",
        "model.vision_tower.encoder.layers.1.self_attn.q_proj",
        "model.vision_tower.encoder.layers.1.mlp.fc1",
        "lm_head",
    ];

    #[test]
    fn target_modules_are_a_list_an_expression_or_all_linear_layers() {
        let found = |fields| adapted(fields, &NAMES);
        assert_eq!(found(r#", "target_modules": ["q_proj", "lm_head"]"#), [NAMES[0], NAMES[2], NAMES[3], NAMES[5]]);
        assert_eq!(found(r#", "target_modules": "(?!.*vision_tower).*\\.(q|up)_proj""#), NAMES[..3]);
        // An expression is for the whole name.
        assert_eq!(found(r#", "target_modules": "q_proj|lm_head""#), [NAMES[5]]);
        assert_eq!(found(r#", "target_modules": "(?i).*Q_PROJ""#), [NAMES[0], NAMES[2], NAMES[3]]);
        assert_eq!(found(r#", "target_modules": "All-Linear""#), NAMES[..5]);
        assert_eq!(found(""), NAMES[..5]);
        assert_eq!(found(r#", "target_modules": null, "target_parameters": ["gate_up_proj"]"#), [""; 0]);
        assert_eq!(found(r#", "target_modules": []"#), [""; 0]);
    }

    #[test]
    fn excluded_modules_and_those_that_are_saved_whole_get_no_adapter() {
        let found =
            |fields: &str| adapted(&format!(r#", "target_modules": ["q_proj", "up_proj", "lm_head"]{fields}"#), &NAMES);
        assert_eq!(found(r#", "exclude_modules": ["lm_head", "up_proj"]"#), [NAMES[0], NAMES[2], NAMES[3]]);
        assert_eq!(found(r#", "exclude_modules": ".*vision.*""#), [NAMES[0], NAMES[1], NAMES[2], NAMES[5]]);
        assert_eq!(found(r#", "modules_to_save": ["lm_head", "vision_tower"]"#), NAMES[..3]);
        assert_eq!(found(r#", "modules_to_save": ["layers.0"]"#), [NAMES[2], NAMES[3], NAMES[5]]);
    }

    #[test]
    fn layers_to_transform_choose_among_the_modules_that_a_list_names_by_the_end_of_their_path() {
        let found = |fields: &str| adapted(&format!(r#", "target_modules": ["q_proj", "up_proj"]{fields}"#), &NAMES);
        assert_eq!(found(r#", "layers_to_transform": 0"#), NAMES[..2]);
        assert_eq!(found(r#", "layers_to_transform": [1, 10]"#), NAMES[2..4]);
        assert_eq!(found(r#", "layers_to_transform": [1, 10], "layers_pattern": "encoder.layers""#), [NAMES[3]]);
        assert_eq!(found(r#", "layers_to_transform": [1, 10], "layers_pattern": ["h", "layers"]"#), NAMES[2..4]);
        assert_eq!(found(r#", "layers_to_transform": []"#).len(), 4);
        // A list without a module before its name is found under its name alone, as in PEFT.
        let first = r#", "target_modules": ["q_proj"], "layers_to_transform": 0"#;
        assert_eq!(adapted(first, &["layers.0.q_proj"]), [""; 0]);
        let named = format!(r#"{first}, "layers_pattern": "layers""#);
        assert_eq!(adapted(&named, &["layers.0.q_proj"]), ["layers.0.q_proj"]);
        let full = r#", "target_modules": ["model.layers.10.self_attn.q_proj"], "layers_to_transform": 0"#;
        assert_eq!(adapted(full, &NAMES), [NAMES[2]]);
    }

    #[test]
    fn the_outermost_number_is_the_layer() {
        let name = "model.layers.3.experts.5.q_proj";
        for (pattern, layer) in [("", 3), (r#", "layers_pattern": "experts""#, 5), (r#", "layers_pattern": []"#, 3)] {
            let fields = format!(r#", "target_modules": ["q_proj"], "layers_to_transform": {layer}{pattern}"#);
            assert_eq!(adapted(&fields, &[name]), [name], "{pattern}");
        }
    }
}
