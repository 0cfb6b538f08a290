//! An expansion as a tree, `excludeNested=false`: each code below the nearest code of the expansion that is above it in its code system.

use super::expansion::Contained;
use super::{Loaded, TerminologyError};
use std::collections::{HashMap, HashSet, VecDeque};

/// Levels of an answer; what lies deeper stands on the last.
const MAX_LEVELS: usize = 64;

/// Concepts looked at on the ways up.
const MAX_STEPS: usize = 2_000_000;

/// The places of a flat expansion in the order of a tree, each with the place that it is nested in.
pub(super) fn nest(loaded: &Loaded, contains: &[Contained]) -> Result<Vec<(usize, Option<usize>)>, TerminologyError> {
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); contains.len()];
    let mut roots = Vec::new();
    let places: HashMap<(&str, &str), usize> = contains.iter().zip(0..).map(|(one, at)| ((&*one.system, &*one.code), at)).collect();
    let mut steps = 0;
    for (at, one) in contains.iter().enumerate() {
        match nearest(loaded, one, &places, &mut steps)?.and_then(|parent| below.get_mut(parent)) {
            Some(children) => children.push(at),
            None => roots.push(at),
        }
    }
    let mut order = Vec::with_capacity(contains.len());
    let mut seen = vec![false; contains.len()];
    // What is in a loop of parents is below no root: the first of it stands as one.
    for root in roots.into_iter().chain(0..contains.len()) {
        // A code, the one that it is nested in, its level.
        let mut waiting: Vec<(usize, Option<usize>, usize)> = vec![(root, None, 1)];
        while let Some((at, parent, level)) = waiting.pop() {
            if std::mem::replace(seen.get_mut(at).unwrap_or(&mut true), true) {
                continue;
            }
            order.push((at, parent));
            let children = below.get(at).map_or(&[][..], Vec::as_slice).iter().rev();
            let inner = if level < MAX_LEVELS { (Some(at), level + 1) } else { (parent, level) };
            waiting.extend(children.map(|&child| (child, inner.0, inner.1)));
        }
    }
    Ok(order)
}

/// The place of the nearest code above that is in the expansion too.
fn nearest(
    loaded: &Loaded,
    one: &Contained,
    places: &HashMap<(&str, &str), usize>,
    steps: &mut usize,
) -> Result<Option<usize>, TerminologyError> {
    let version = one.version.as_deref();
    let Some(system) = loaded.systems.version(&one.system, version) else { return Ok(None) };
    let Some(own) = system.place(&one.code) else { return Ok(None) };
    let mut seen = HashSet::from([own]);
    let mut waiting = VecDeque::from([own]);
    while let Some(concept) = waiting.pop_front().and_then(|place| system.at(place)) {
        for &parent in &concept.parents {
            *steps += 1;
            if *steps > MAX_STEPS {
                return Err(TerminologyError::TooCostly);
            }
            let Some(above) = system.at(parent).filter(|_| seen.insert(parent)) else { continue };
            if let Some(&found) = places.get(&(&*one.system, &*above.code)) {
                return Ok(Some(found));
            }
            waiting.push_back(parent);
        }
    }
    Ok(None)
}
