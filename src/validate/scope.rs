//! What one validation may ask of its surroundings, and what became of a constraint.

use super::binding::{self, Codes};
use super::compile::Profile;
use super::profile;
use super::profiles::Loaded;
use crate::fhir::Severity;
use crate::fhirpath::{Env, EvalError, Expression, Node};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

/// Evaluations that may need too much work before no more are begun.
const MAX_GIVEN_UP: usize = 10;
/// Profiles that ask for profiles of what they lead to, and so on.
const MAX_NESTED: usize = 16;

/// One rule in FHIRPath, parsed once.
#[derive(Debug)]
pub(super) struct Constraint {
    pub key: Box<str>,
    pub human: Box<str>,
    pub severity: Severity,
    /// Or why it cannot be evaluated.
    pub expression: Result<Expression, String>,
}

impl Constraint {
    pub(super) fn new(key: &str, human: &str, severity: Severity, expression: Option<&str>) -> Constraint {
        let expression = match expression {
            Some(text) => Expression::parse(text).map_err(|error| format!("its expression is not understood: {error}")),
            None => Err("it has no FHIRPath expression".to_owned()),
        };
        Constraint { key: key.into(), human: human.into(), severity, expression }
    }
}

/// What became of a constraint on one element.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    Fails,
    /// Nobody can tell, and why.
    Unknown(String),
}

/// The entries of a Bundle, as references name them (<https://hl7.org/fhir/R4/bundle.html#references>).
#[derive(Default)]
pub(super) struct Entries<'a> {
    /// Of each fullUrl the versions that are there.
    by_url: HashMap<&'a str, Vec<&'a Value>>,
    by_id: HashMap<(&'a str, &'a str), &'a Value>,
}

impl<'a> Entries<'a> {
    pub(super) fn of(bundle: &'a Value) -> Entries<'a> {
        let mut entries = Entries::default();
        for entry in super::compile::items(bundle, "entry") {
            let Some(resource) = entry.get("resource") else { continue };
            let text = |value: &'a Value, key: &str| value.get(key).and_then(Value::as_str);
            if let Some(url) = text(entry, "fullUrl") {
                entries.by_url.entry(url).or_default().push(resource);
            }
            if let (Some(name), Some(id)) = (text(resource, "resourceType"), text(resource, "id")) {
                entries.by_id.entry((name, id)).or_insert(resource);
            }
        }
        entries
    }

    pub(super) fn find(&self, reference: &str, base: Option<&str>) -> Option<&'a Value> {
        let (url, version) = reference.split_once("/_history/").map_or((reference, None), |(url, version)| (url, Some(version)));
        // A version that is named must be the one that is there.
        let is_meant = |resource: &Value| {
            let own = resource.pointer("/meta/versionId").and_then(Value::as_str);
            version.is_none() || own == version
        };
        let at = |url: &str| self.by_url.get(url).map(|versions| versions.iter().copied().find(|one| is_meant(one)));
        if let Some(found) = at(url) {
            return found;
        }
        let (name, id) = url.split_once('/').filter(|(name, _)| crate::fhir::reference::is_type_name(name))?;
        // Relative to the server that the entry's own fullUrl names; where it names none, to wherever the Bundle came from.
        match base {
            Some(base) => at(&format!("{base}/{name}/{id}")).flatten(),
            None => self.by_id.get(&(name, id)).copied().filter(|one| is_meant(one)),
        }
    }
}

/// Targets of references that are not in what is validated but were looked up elsewhere, by the reference's text.
pub type Targets = HashMap<String, Value>;

/// Targets that one validation asks for, at most.
const MAX_TARGETS: usize = 20;

/// What holds for one whole validation.
pub(super) struct World<'a> {
    pub profiles: &'a Loaded,
    pub codes: &'a dyn Codes,
    /// When a Bundle is validated.
    pub entries: Option<Entries<'a>>,
    targets: &'a Targets,
    /// References whose targets would have told more.
    wanted: RefCell<Vec<String>>,
    pub told: Told,
    depth: Cell<usize>,
    /// Whether a value meets a profile, by their places in memory: resources that refer to one another are looked at once, and
    /// while one is looked at it is taken to be good.
    met: RefCell<HashMap<(usize, usize), bool>>,
    /// Evaluations that were given up.
    given_up: Cell<usize>,
}

/// What is told once, however often it comes.
#[derive(Default)]
pub(super) struct Told(RefCell<HashSet<String>>);

impl Told {
    /// More different things than this are told again.
    const MOST: usize = 1000;

    /// Whether `what` is new.
    pub(super) fn first(&self, what: &str) -> bool {
        let mut told = self.0.borrow_mut();
        !told.contains(what) && (told.len() >= Told::MOST || told.insert(what.to_owned()))
    }
}

impl<'a> World<'a> {
    pub(super) fn new(profiles: &'a Loaded, codes: &'a dyn Codes, entries: Option<Entries<'a>>, targets: &'a Targets) -> World<'a> {
        World {
            profiles,
            codes,
            entries,
            targets,
            wanted: RefCell::default(),
            told: Told::default(),
            depth: Cell::new(0),
            met: RefCell::default(),
            given_up: Cell::new(0),
        }
    }

    /// The references that led to nothing, each once, the first [`MAX_TARGETS`] of them.
    pub(super) fn into_wanted(self) -> Vec<String> {
        self.wanted.into_inner()
    }

    /// The answer for a value and a profile, worked out once.
    pub(super) fn meets(&self, value: &Value, profile: &Profile, work: impl FnOnce() -> bool) -> bool {
        let key = (std::ptr::from_ref(value).addr(), std::ptr::from_ref(profile).addr());
        if let Some(known) = self.met.borrow().get(&key) {
            return *known;
        }
        self.met.borrow_mut().insert(key, true);
        let answer = work();
        self.met.borrow_mut().insert(key, answer);
        answer
    }

    /// Runs `work` unless profiles are nested too deeply already.
    pub(super) fn nested<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let depth = self.depth.get();
        if depth >= MAX_NESTED {
            return None;
        }
        self.depth.set(depth + 1);
        let result = work();
        self.depth.set(depth);
        Some(result)
    }
}

/// Where in the world an element stands.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub world: &'a World<'a>,
    /// `%resource`.
    pub resource: &'a Value,
    /// `%rootResource`: the container when the resource is contained.
    pub root: &'a Value,
    /// The server that relative references mean, without a slash at the end.
    pub base: Option<&'a str>,
}

impl<'a> Scope<'a> {
    pub(super) fn top(world: &'a World<'a>, resource: &'a Value) -> Scope<'a> {
        Scope { world, resource, root: resource, base: None }
    }

    /// The target of a reference, when it is in what is validated or was looked up.
    pub(super) fn resolve(&self, reference: &str) -> Option<&'a Value> {
        match reference.strip_prefix('#') {
            Some("") => Some(self.root),
            Some(id) => {
                let contained = super::compile::items(self.root, "contained");
                contained.iter().find(|one| one.get("id").and_then(Value::as_str) == Some(id))
            }
            None => {
                let entry = self.world.entries.as_ref().and_then(|entries| entries.find(reference, self.base));
                entry.or_else(|| self.world.targets.get(&*self.absolute(reference)))
            }
        }
    }

    /// [`Scope::resolve`], and a target that is not there is one that would have told more.
    pub(super) fn ask(&self, reference: &str) -> Option<&'a Value> {
        let found = self.resolve(reference);
        if found.is_none() && !reference.starts_with(['#']) && !reference.starts_with("urn:") {
            let (reference, mut wanted) = (self.absolute(reference), self.world.wanted.borrow_mut());
            if wanted.len() < MAX_TARGETS && !wanted.iter().any(|known| **known == *reference) {
                wanted.push(reference.into_owned());
            }
        }
        found
    }

    /// With the server that a relative reference means, where that is told.
    fn absolute<'t>(&self, reference: &'t str) -> Cow<'t, str> {
        match self.base.filter(|_| reference.split('/').next().is_some_and(crate::fhir::reference::is_type_name)) {
            Some(base) => Cow::Owned(format!("{base}/{reference}")),
            None => Cow::Borrowed(reference),
        }
    }

    /// Holds a constraint against `node`. What is empty does not hold: an invariant must be true.
    pub(super) fn holds(&self, constraint: &Constraint, node: Node<'a>) -> Verdict {
        match &constraint.expression {
            Ok(expression) => self.evaluate(node, |node, env| expression.is_true(node, env).map(|truth| truth == Some(true))),
            Err(why) => Verdict::Unknown(why.clone()),
        }
    }

    /// Evaluates with everything known that can be; a "no" that rests on something unknown is no answer.
    pub(super) fn evaluate(&self, node: Node<'a>, work: impl for<'x> FnOnce(Node<'x>, &Env<'x>) -> Result<bool, EvalError>) -> Verdict {
        let given_up = &self.world.given_up;
        if given_up.get() >= MAX_GIVEN_UP {
            return Verdict::Unknown("too many expressions need too much work on this input".to_owned());
        }
        let open: Cell<Option<&'static str>> = Cell::new(None);
        let result = self.with_env(&open, node, work);
        if matches!(result, Err(EvalError::TooCostly)) {
            given_up.set(given_up.get() + 1);
        }
        match (result, open.get()) {
            (Ok(true), _) => Verdict::Holds,
            (Ok(false), None) => Verdict::Fails,
            (Ok(false), Some(why)) => Verdict::Unknown(why.to_owned()),
            (Err(error), _) => Verdict::Unknown(error.to_string()),
        }
    }

    fn with_env<T>(&self, open: &Cell<Option<&'static str>>, node: Node<'a>, work: impl for<'x> FnOnce(Node<'x>, &Env<'x>) -> T) -> T {
        let resolver = resolver(|reference| {
            let found = self.ask(reference);
            if found.is_none() {
                open.set(Some("a reference leads to something that is not sent along"));
            }
            found
        });
        let member_of = |value: &Value, url: &str| {
            let answer = binding::has(self.world.codes, url, value);
            if answer.is_none() {
                open.set(Some("a value set that it asks for is not loaded"));
            }
            answer
        };
        let conforms = |node: &Node<'_>, url: &str| profile::node_conforms(*self, node, url);
        let env = Env::default()
            .with_resource(self.resource)
            .with_root_resource(self.root)
            .with_resolver(&resolver)
            .with_member_of(&member_of)
            .with_conforms_to(&conforms);
        work(node, &env)
    }
}

/// Gives the closure the type that the engine takes.
fn resolver<'x, F: Fn(&str) -> Option<&'x Value>>(hook: F) -> F {
    hook
}
