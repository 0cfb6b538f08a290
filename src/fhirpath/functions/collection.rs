//! Functions on collections: existence, filtering, subsetting, combining, trees, and what FHIR adds.

use super::{Call, Function};
use crate::fhir::Reference;
use crate::fhirpath::EvalError;
use crate::fhirpath::ast::Expr;
use crate::fhirpath::eval::{List, Scope};
use crate::fhirpath::node::{Element, Node, TypeInfo};
use crate::fhirpath::operators;
use std::cmp::Ordering;

pub(super) fn call<'a>(call: &Call<'_, '_, 'a>, input: List<'a>) -> Result<List<'a>, EvalError> {
    use Function::*;
    let boolean = |value: bool| Ok(vec![Node::Boolean(value)]);
    match call.function {
        Empty => boolean(input.is_empty()),
        Exists if call.arguments.is_empty() => boolean(!input.is_empty()),
        Exists => boolean(call.any(&input, Some(true))?),
        All => boolean(!call.any_but(&input, Some(true))?),
        AllTrue => call.booleans(&input, |values| values.iter().all(|value| *value)),
        AnyTrue => call.booleans(&input, |values| values.iter().any(|value| *value)),
        AllFalse => call.booleans(&input, |values| values.iter().all(|value| !value)),
        AnyFalse => call.booleans(&input, |values| values.iter().any(|value| !value)),
        SubsetOf => boolean(call.contains_all(&call.argument(0)?, &input)?),
        SupersetOf => boolean(call.contains_all(&input, &call.argument(0)?)?),
        Count => Ok(vec![Node::Integer(input.len() as i64)]),
        Distinct => call.evaluation.distinct(input),
        IsDistinct => {
            let count = input.len();
            boolean(call.evaluation.distinct(input)?.len() == count)
        }
        Not => Ok(operators::truth(&input)?.map(|value| Node::Boolean(!value)).into_iter().collect()),
        HasValue => boolean(matches!(input.as_slice(), [node] if node.has_value())),
        GetValue => Ok(match input.as_slice() {
            [node] if node.has_value() => vec![node.to_system()],
            _ => Vec::new(),
        }),
        Where => call.filter(input),
        Select => {
            let mut found = Vec::new();
            call.each(&input, |list| found.extend(list))?;
            Ok(found)
        }
        Repeat => call.repeat(input, true),
        RepeatAll => call.repeat(input, false),
        Single => {
            if input.len() > 1 {
                call.error("needs a single item")
            } else {
                Ok(input)
            }
        }
        First => Ok(input.into_iter().take(1).collect()),
        Last => Ok(input.into_iter().next_back().into_iter().collect()),
        Tail => Ok(input.into_iter().skip(1).collect()),
        Skip => Ok(match call.integer_argument(0)? {
            Some(count) => input.into_iter().skip(usize::try_from(count).unwrap_or(0)).collect(),
            None => Vec::new(),
        }),
        Take => Ok(match call.integer_argument(0)? {
            Some(count) => input.into_iter().take(usize::try_from(count).unwrap_or(0)).collect(),
            None => Vec::new(),
        }),
        Intersect => {
            let other = call.argument(0)?;
            let kept = call.evaluation.distinct(input)?;
            call.keep(kept, &other, true)
        }
        Exclude => {
            let other = call.argument(0)?;
            call.keep(input, &other, false)
        }
        Union => call.evaluation.union(input, call.argument(0)?),
        Combine => {
            let mut all = input;
            all.extend(call.argument(0)?);
            Ok(all)
        }
        Coalesce => {
            for at in 0..call.arguments.len() {
                let list = call.argument(at)?;
                if !list.is_empty() {
                    return Ok(list);
                }
            }
            Ok(Vec::new())
        }
        Iif => call.iif(&input),
        Children => {
            let mut found = Vec::new();
            input.iter().for_each(|node| children(node, &mut found));
            call.evaluation.spend(found.len())?;
            Ok(found)
        }
        Descendants => call.descendants(&input),
        Trace => Ok(input),
        Now => Ok(vec![Node::Temporal(call.evaluation.now())]),
        Today => Ok(call.evaluation.now().date().map(Node::Temporal).into_iter().collect()),
        TimeOfDay => Ok(call.evaluation.now().time().map(Node::Temporal).into_iter().collect()),
        Aggregate => call.aggregate(&input),
        Sort => call.sort(input),
        Type => Ok(input.iter().map(type_info).collect()),
        Extension => call.extension(&input),
        Resolve => Ok(input.iter().filter_map(|node| call.resolve(node)).collect()),
        MemberOf => call.member_of(&input),
        ConformsTo => call.conforms_to(&input),
        HtmlChecks => boolean(true),
        _ => call.error("is not for collections"),
    }
}

fn children<'a>(node: &Node<'a>, found: &mut List<'a>) {
    if let Node::Element(element) = node {
        element.children(found);
    }
}

fn type_info<'a>(node: &Node<'a>) -> Node<'a> {
    let namespace = if matches!(node, Node::Element(_) | Node::Target(_)) { "FHIR" } else { "System" };
    Node::TypeInfo(TypeInfo { namespace, name: node.type_name().into() })
}

impl<'a> Call<'_, '_, 'a> {
    /// The first argument, seen from one item.
    fn inside<'s>(&'s self, this: &'s Node<'a>, index: usize) -> Scope<'s, 'a> {
        Scope { this: Some(this), index, total: self.scope.total }
    }

    fn each(&self, input: &[Node<'a>], mut take: impl FnMut(List<'a>)) -> Result<(), EvalError> {
        let Some(argument) = self.arguments.first() else { return Ok(()) };
        for (index, node) in input.iter().enumerate() {
            take(self.evaluation.eval(argument, self.inside(node, index))?);
        }
        Ok(())
    }

    /// Whether the criterion has the value `wanted` for any item.
    fn any(&self, input: &[Node<'a>], wanted: Option<bool>) -> Result<bool, EvalError> {
        self.find(input, |value| value == wanted)
    }

    /// Whether the criterion has another value than `usual` for any item.
    fn any_but(&self, input: &[Node<'a>], usual: Option<bool>) -> Result<bool, EvalError> {
        self.find(input, |value| value != usual)
    }

    fn find(&self, input: &[Node<'a>], accept: impl Fn(Option<bool>) -> bool) -> Result<bool, EvalError> {
        let Some(argument) = self.arguments.first() else { return Ok(false) };
        for (index, node) in input.iter().enumerate() {
            if accept(self.evaluation.criterion(argument, self.inside(node, index))?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn filter(&self, input: List<'a>) -> Result<List<'a>, EvalError> {
        let Some(argument) = self.arguments.first() else { return Ok(input) };
        let mut kept = Vec::new();
        for (index, node) in input.into_iter().enumerate() {
            if self.evaluation.criterion(argument, self.inside(&node, index))? == Some(true) {
                kept.push(node);
            }
        }
        Ok(kept)
    }

    fn booleans(&self, input: &[Node<'a>], judge: impl Fn(&[bool]) -> bool) -> Result<List<'a>, EvalError> {
        let values: Option<Vec<bool>> = input.iter().map(Node::as_bool).collect();
        match values {
            Some(values) => Ok(vec![Node::Boolean(judge(&values))]),
            None => self.error("needs booleans"),
        }
    }

    fn contains_all(&self, larger: &[Node<'a>], smaller: &[Node<'a>]) -> Result<bool, EvalError> {
        for node in smaller {
            if !self.evaluation.has(larger, node)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn keep(&self, input: List<'a>, other: &[Node<'a>], present: bool) -> Result<List<'a>, EvalError> {
        let mut kept = Vec::new();
        for node in input {
            if self.evaluation.has(other, &node)? == present {
                kept.push(node);
            }
        }
        Ok(kept)
    }

    /// Projects again and again; with `distinct`, items that were found before are not followed.
    fn repeat(&self, input: List<'a>, distinct: bool) -> Result<List<'a>, EvalError> {
        let mut found: List<'a> = Vec::new();
        let mut level = input;
        while !level.is_empty() {
            let mut next = Vec::new();
            self.each(&level, |list| next.extend(list))?;
            self.evaluation.spend(next.len())?;
            level = Vec::new();
            for node in next {
                if !distinct || !self.evaluation.has(&found, &node)? {
                    found.push(node.clone());
                    level.push(node);
                }
            }
        }
        Ok(found)
    }

    fn descendants(&self, input: &[Node<'a>]) -> Result<List<'a>, EvalError> {
        let mut found: List<'a> = Vec::new();
        input.iter().for_each(|node| children(node, &mut found));
        let mut at = 0;
        while let Some(node) = found.get(at).cloned() {
            self.evaluation.spend(1)?;
            children(&node, &mut found);
            at += 1;
        }
        Ok(found)
    }

    fn iif(&self, input: &[Node<'a>]) -> Result<List<'a>, EvalError> {
        if input.len() > 1 {
            return self.error("needs a single item");
        }
        let scope = match input.first() {
            Some(node) => Scope { this: Some(node), ..self.scope },
            None => self.scope,
        };
        let [criterion, branches @ ..] = self.arguments else { return Ok(Vec::new()) };
        let criterion = self.evaluation.eval(criterion, scope)?;
        let chosen = match criterion.as_slice() {
            [] => branches.get(1),
            [node] => match node.as_bool() {
                Some(true) => branches.first(),
                Some(false) => branches.get(1),
                None => return self.error("needs a boolean condition"),
            },
            _ => return self.error("needs a single condition"),
        };
        chosen.map_or(Ok(Vec::new()), |branch| self.evaluation.eval(branch, scope))
    }

    fn aggregate(&self, input: &[Node<'a>]) -> Result<List<'a>, EvalError> {
        let Some(argument) = self.arguments.first() else { return Ok(Vec::new()) };
        let mut total = self.argument(1)?;
        for (index, node) in input.iter().enumerate() {
            total = self.evaluation.eval(argument, Scope { this: Some(node), index, total: &total })?;
        }
        Ok(total)
    }

    /// Each argument is a key; a leading minus turns its order round. Items without a key come first.
    fn sort(&self, input: List<'a>) -> Result<List<'a>, EvalError> {
        let mut keyed = Vec::with_capacity(input.len());
        for (index, node) in input.into_iter().enumerate() {
            let mut keys = Vec::new();
            for argument in self.arguments {
                let key = if let Expr::Negate(inner) = argument { inner } else { argument };
                keys.push(operators::singleton(&self.evaluation.eval(key, self.inside(&node, index))?)?);
            }
            if self.arguments.is_empty() {
                keys.push(Some(node.to_system()));
            }
            keyed.push((keys, node));
        }
        self.evaluation.spend(keyed.len().saturating_mul(8))?;
        let mut failure = None;
        keyed.sort_by(|(a, _), (b, _)| {
            for (at, (x, y)) in a.iter().zip(b).enumerate() {
                let order = match (x, y) {
                    (Some(x), Some(y)) => match operators::compare(x, y) {
                        Ok(order) => order.unwrap_or(Ordering::Equal),
                        Err(error) => {
                            failure = Some(error);
                            Ordering::Equal
                        }
                    },
                    // What has no key comes first in either direction.
                    (x, y) if x.is_some() != y.is_some() => return x.is_some().cmp(&y.is_some()),
                    _ => Ordering::Equal,
                };
                if order.is_ne() {
                    let descending = matches!(self.arguments.get(at), Some(Expr::Negate(_)));
                    return if descending { order.reverse() } else { order };
                }
            }
            Ordering::Equal
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(keyed.into_iter().map(|(_, node)| node).collect()),
        }
    }

    fn extension(&self, input: &[Node<'a>]) -> Result<List<'a>, EvalError> {
        let Some(url) = self.text_argument(0)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for node in input {
            if let Node::Element(element) = node {
                element.member("extension", &mut found);
            }
        }
        self.evaluation.spend(found.len())?;
        found
            .retain(|node| matches!(node, Node::Element(Element { value, .. }) if value.get("url").and_then(|u| u.as_str()) == Some(&url)));
        Ok(found)
    }

    /// The target of a reference: contained, or what the hook gives, or else only its type.
    fn resolve(&self, node: &Node<'a>) -> Option<Node<'a>> {
        let Node::Element(element) = node else { return None };
        let text = match element.value.as_str() {
            Some(text) => text,
            None => element.get("reference")?.as_str()?,
        };
        if let Some(id) = text.strip_prefix('#') {
            let container = self.evaluation.env.container().map_or_else(|| self.evaluation.root.clone(), Node::root);
            let Node::Element(container) = container else { return None };
            if id.is_empty() {
                return Some(Node::Element(container));
            }
            let contained = container.get("contained")?.as_array()?;
            return contained.iter().find(|item| item.get("id").and_then(|i| i.as_str()) == Some(id)).map(Node::root);
        }
        if let Some(found) = self.evaluation.env.resolver.and_then(|resolver| resolver(text)) {
            return Some(Node::root(found));
        }
        target_type(text).or_else(|| element.get("type")?.as_str()).map(|name| Node::Target(name.into()))
    }

    fn member_of(&self, input: &[Node<'a>]) -> Result<List<'a>, EvalError> {
        let (Some(url), [node]) = (self.text_argument(0)?, input) else { return Ok(Vec::new()) };
        let answer = self.evaluation.env.member_of.and_then(|hook| hook(&node.as_json(), &url));
        Ok(answer.map(Node::Boolean).into_iter().collect())
    }

    /// Base types are decided here; profiles by the hook, because they are the validator's affair.
    fn conforms_to(&self, input: &[Node<'a>]) -> Result<List<'a>, EvalError> {
        let (Some(url), [node]) = (self.text_argument(0)?, input) else { return Ok(Vec::new()) };
        match url.strip_prefix("http://hl7.org/fhir/StructureDefinition/") {
            Some(name) if crate::fhirpath::model::is_fhir_type(name) => {
                Ok(vec![Node::Boolean(crate::fhirpath::model::derives_from(node.type_name(), name))])
            }
            _ => match self.evaluation.env.conforms_to.and_then(|hook| hook(node, &url)) {
                Some(answer) => Ok(vec![Node::Boolean(answer)]),
                None => self.error("knows no such profile"),
            },
        }
    }
}

/// The type that a reference names: `Patient/1`, or the same at the end of a URL.
pub fn target_type(text: &str) -> Option<&str> {
    match Reference::parse(text)? {
        Reference::Local { type_name, .. } | Reference::Conditional { type_name, .. } => Some(type_name),
        Reference::Absolute(url) => {
            let url = url.split_once("/_history/").map_or(url, |(start, _)| start);
            let (rest, id) = url.rsplit_once('/')?;
            let type_name = rest.rsplit_once('/')?.1;
            let fits = crate::fhir::reference::is_type_name(type_name) && crate::fhir::reference::is_id(id);
            fits.then_some(type_name)
        }
        _ => None,
    }
}
