//! Which modules of a log get ranks, and which columns of the log are theirs.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::layout::{Catalog, Kind, Layout, Module, ModuleId, ModuleShape, short_name};
use crate::names::first_names;

use super::log::GradientLog;
use super::parameter::ParameterName;
use super::profiling::{ProfileError, layer_list, list};
use super::report::SkipReason;
use super::wish::Wish;

/// What a log's modules come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The modules that get ranks, under the names that they have in the log where the model's own would not match.
    pub layout: Arc<Layout>,
    /// Modules of the decoder that nobody excluded and that the log does not hold: they were not trained.
    pub untrained: usize,
    /// A module's name in the log and in the model, where the log's was taken over.
    pub renamed: Option<(String, String)>,
    /// Modules of the log that get no rank and that nobody excluded.
    pub outside: Vec<Outside>,
}

/// A module of the log that gets no rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Its path in the log.
    pub name: String,
    /// What it is.
    pub reason: SkipReason,
    /// Its widths, where they are known.
    pub shape: Option<ModuleShape>,
    /// Whether its weight itself was trained, not LoRA on it.
    pub whole: bool,
}

/// Finds which of a model's modules a log holds. The log decides: what it lacks was not trained and gets no rank. What it
/// holds beside the decoder gets a rank only where `wish` includes it.
///
/// `wish` is asked for the name that the module will have.
///
/// # Errors
/// A log that is not of this model, or holds none of the wanted modules; one whose last layers are those before the model's
/// last, which is what the log of a smaller model looks like; included modules of unknown shape, or experts.
pub fn fit(log: &GradientLog, catalog: &Catalog, wish: impl Fn(&str) -> Wish) -> Result<Fit, ProfileError> {
    let columns = Columns::of(log);
    let mut fit = Matches { modules: Vec::new(), missing: Vec::new(), renamed: None };
    let mut used = BTreeSet::new();
    for module in catalog.decoder().modules() {
        let column = columns.find(module).filter(|column| !used.contains(column));
        used.extend(column);
        let name = column.and_then(|column| log.path(column)).map_or(Cow::Borrowed(module.name.as_str()), |path| {
            // PEFT matches the ends of names, so a path that only has more in front needs none of that.
            if ends_with(path, &module.name) { Cow::Borrowed(module.name.as_str()) } else { whole_name(path, module) }
        });
        if wish(&name) == Wish::Exclude {
            continue;
        }
        match column {
            None => fit.missing.push(module),
            Some(_) => fit.take(module, &name),
        }
    }
    fit.check(log, catalog.decoder(), &used)?;
    let mut outside = Vec::new();
    let mut included = Vec::new();
    for (column, path) in log.paths().filter(|(column, _)| !used.contains(column)) {
        let other = column.checked_sub(log.modules.len()).and_then(|at| log.others.get(at));
        let reason = other.map_or(SkipReason::Unknown, |other| other.reason);
        let shape = catalog.other(path);
        let whole = log.holds_weight(column);
        match wish(path) {
            Wish::Exclude => {}
            Wish::None => outside.push(Outside { name: path.to_owned(), reason, shape, whole }),
            Wish::Include => included.push((path, reason, shape)),
        }
    }
    let Matches { mut modules, missing, renamed } = fit;
    modules.extend(included_modules(included)?);
    if modules.is_empty() {
        return Err(nothing(log, catalog, &outside));
    }
    let untrained = missing.len();
    let layout = Layout::new(catalog.decoder().model(), modules)?;
    let layout = match catalog.decoder().decoder_parameters() {
        Some(parameters) => layout.with_decoder_parameters(parameters),
        None => layout,
    };
    Ok(Fit { layout: Arc::new(layout), untrained, renamed, outside })
}

/// What was found of a decoder.
struct Matches<'a> {
    modules: Vec<Module>,
    missing: Vec<&'a Module>,
    renamed: Option<(String, String)>,
}

impl<'a> Matches<'a> {
    fn take(&mut self, module: &'a Module, name: &str) {
        if name != module.name && self.renamed.is_none() {
            self.renamed = Some((name.to_owned(), module.name.clone()));
        }
        self.modules.push(Module { name: name.to_owned(), ..module.clone() });
    }

    /// Refuses the log of another model.
    fn check(&self, log: &GradientLog, decoder: &Layout, used: &BTreeSet<usize>) -> Result<(), ProfileError> {
        let mut what = Vec::new();
        if let Some(last) = self.modules.iter().filter_map(|module| module.layer).max() {
            let trained: BTreeSet<usize> = self.modules.iter().filter_map(|module| module.layer).collect();
            let after: BTreeSet<usize> =
                self.missing.iter().filter_map(|module| module.layer).filter(|layer| *layer > last).collect();
            if !after.is_empty() && trained.len() == last + 1 {
                let layers = layer_list(&after.into_iter().collect::<Vec<_>>());
                what.push(format!("it lacks {layers} (if only those before were trained, exclude these by name)"));
            }
        }
        let layers = decoder.modules().iter().filter_map(|module| module.layer).max().map_or(0, |last| last + 1);
        let unused = log.modules.iter().enumerate().filter(|(column, _)| !used.contains(column));
        let beyond: BTreeSet<usize> =
            unused.map(|(_, module)| module.id.layer).filter(|layer| *layer >= layers).collect();
        if !beyond.is_empty() && layers > 0 {
            let beyond = layer_list(&beyond.into_iter().collect::<Vec<_>>());
            what.push(format!("it has {beyond} which the model, of {layers} layers, has not"));
        }
        if what.is_empty() {
            return Ok(());
        }
        Err(ProfileError::Modules { model: decoder.model().to_owned(), what: what.join(", and ") })
    }
}

/// Modules outside the decoder, those of one layer together.
fn included_modules(included: Vec<(&str, SkipReason, Option<ModuleShape>)>) -> Result<Vec<Module>, ProfileError> {
    if let Some((name, ..)) = included.iter().find(|(_, reason, _)| *reason == SkipReason::Experts) {
        return Err(ProfileError::Experts { module: (*name).to_owned() });
    }
    let unknown: Vec<&str> = included.iter().filter(|(.., shape)| shape.is_none()).map(|(name, ..)| *name).collect();
    if !unknown.is_empty() {
        return Err(ProfileError::UnknownShape { modules: first_names(&unknown) });
    }
    let mut modules: Vec<Module> =
        included.into_iter().filter_map(|(name, _, shape)| Some(outside(name, shape?))).collect();
    modules.sort_by(|a, b| {
        let place = |module: &Module| (module.layer.is_none(), module.stack().map(str::to_owned), module.layer);
        place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(modules)
}

/// A module outside the decoder. It is of a kind of its own even where it is called like one of the seven projections.
fn outside(name: &str, ModuleShape { d_in, d_out }: ModuleShape) -> Module {
    let layer = ParameterName::parse(name).layer;
    let kind = Kind::Other(name.rsplit('.').next().unwrap_or(name).to_owned());
    Module { name: name.to_owned(), layer, kind, d_in, d_out }
}

/// Why no module gets a rank.
fn nothing(log: &GradientLog, catalog: &Catalog, outside: &[Outside]) -> ProfileError {
    let model = catalog.decoder().model().to_owned();
    let decoder = catalog.decoder().modules().first().map_or("", |module| module.name.as_str());
    let what = match outside.first() {
        Some(first) => {
            format!("it holds {} and the like, and the model's modules are {decoder} and the like", first.name)
        }
        None => format!("every one of its {} modules is excluded", log.paths().count()),
    };
    ProfileError::NoModules { model, what }
}

/// Whether a path is a name or ends with it, from a dot on.
fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A log's path of a module; with the model's own parts where the log leaves some out, as in `layers.0.q_proj`: PEFT finds
/// no module by such a name.
fn whole_name<'a>(path: &'a str, module: &'a Module) -> Cow<'a, str> {
    let own = || {
        let layer = format!(".{}.", module.layer?);
        let (stack, inside) = module.name.split_once(&layer)?;
        // The log's path may begin with the list of layers.
        let (logged_stack, logged_inside) = path.split_once(&layer)?;
        inside.strip_suffix(logged_inside).filter(|left_out| left_out.ends_with('.'))?;
        let whole = format!("{logged_stack}{layer}{inside}");
        let is_own = ends_with(stack, logged_stack) || ends_with(&whole, &module.name);
        Some(if is_own { Cow::Borrowed(module.name.as_str()) } else { Cow::Owned(whole) })
    };
    own().unwrap_or(Cow::Borrowed(path))
}

/// Where a log has the gradients of a module.
pub(super) struct Columns<'a> {
    by_path: HashMap<&'a str, usize>,
    /// None where several paths have one short name.
    by_short_name: HashMap<String, Option<usize>>,
    by_id: HashMap<ModuleId, usize>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(log: &'a GradientLog) -> Self {
        let mut by_short_name = HashMap::new();
        for (column, path) in log.paths() {
            by_short_name.entry(short_name(path)).and_modify(|found| *found = None).or_insert(Some(column));
        }
        let by_id = log.modules.iter().enumerate().map(|(column, module)| (module.id, column)).collect();
        Self { by_path: log.paths().map(|(column, path)| (path, column)).collect(), by_short_name, by_id }
    }

    /// By its name, wherever the path begins; a projection of the decoder also by layer and kind, since decoders call it by
    /// several names.
    pub(super) fn find(&self, module: &Module) -> Option<usize> {
        if let Some(column) = self.by_path.get(module.name.as_str()) {
            return Some(*column);
        }
        if let Some(Some(column)) = self.by_short_name.get(&short_name(&module.name)) {
            return Some(*column);
        }
        let id = ModuleId { layer: module.layer?, projection: module.kind.projection()? };
        self.by_id.get(&id).copied()
    }
}

/// Modules in few words.
pub(super) fn shown(modules: &[&Module]) -> String {
    let id = |module: &&Module| Some(ModuleId { layer: module.layer?, projection: module.kind.projection()? });
    match modules.iter().map(id).collect::<Option<Vec<_>>>() {
        Some(ids) => list(&ids),
        None => first_names(modules.iter().map(|module| &module.name)),
    }
}
