//! Which of several Consents takes the place of which: of two under the same organisation and policy the newer that of the older, for good.
//!
//! A Consent stands in a [`Place`]. What it said while it was in force keeps its place when it is ended, so that what it replaced stays replaced; only one that
//! was entered in error never had one. An organisation is the same when the two share any of its names. Of several organisations and
//! policies one of each in common is enough to take away what the older permits; what it denies goes only with a newer one under all of them,
//! that nothing newer stands over: what cannot be told closes.
//!
//! The engine reads Consents by this, and the store keeps what it says up to date in the transaction that writes one.

use super::time::{Interval, Micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where a Consent stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whose it is: `Patient/id`.
    pub subject: String,
    /// `Consent.organization`, each by all its names.
    pub organisations: Vec<BTreeSet<String>>,
    /// What it is given under.
    pub policies: BTreeSet<String>,
    /// When it was given, as exactly as it says.
    pub given: Interval,
    /// When it was first recorded here.
    pub recorded: Micros,
}

/// What of a Consent others have taken the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replaced {
    Nothing,
    /// What it permits.
    Permits,
    Everything,
}

impl Place {
    fn shares(&self, organisation: &BTreeSet<String>) -> bool {
        self.organisations.iter().any(|one| !one.is_disjoint(organisation))
    }

    /// Whether the two have an organisation and a policy in common.
    fn touches(&self, other: &Place) -> bool {
        self.subject == other.subject
            && !self.policies.is_disjoint(&other.policies)
            && other.organisations.iter().any(|organisation| self.shares(organisation))
    }

    /// Whether it is under all organisations and policies of the other.
    fn covers(&self, other: &Place) -> bool {
        self.touches(other)
            && other.policies.is_subset(&self.policies)
            && other.organisations.iter().all(|organisation| self.shares(organisation))
    }

    /// Whether it was given after the other: by what they say, and where that does not tell, by which was recorded first. `later`: of two that were
    /// recorded at once it is the later.
    fn is_newer(&self, other: &Place, later: bool) -> bool {
        if self.given.low >= other.given.high {
            true
        } else if other.given.low >= self.given.high {
            false
        } else {
            (self.recorded, later) > (other.recorded, !later)
        }
    }
}

/// The places of a Consent that had `former` ones and stands in this one from now on; the last is the present one. Saying the same again, or something
/// else under the same organisation and policy, makes it no newer than when it was first recorded.
pub fn after(former: Vec<Place>, now: Place) -> Vec<Place> {
    let (same, mut places): (Vec<Place>, Vec<Place>) = former.into_iter().partition(|place| place.touches(&now));
    let recorded = same.iter().map(|place| place.recorded).fold(now.recorded, Micros::min);
    places.push(Place { recorded, ..now });
    places
}

/// What others have taken the place of, for each of these Consents (with all places that each has, the present one last), in the order in which they were
/// recorded where nothing else tells.
pub fn replaced(consents: &[&[Place]]) -> Vec<Replaced> {
    let all: Vec<(usize, &Place)> =
        consents.iter().enumerate().flat_map(|(number, places)| places.iter().map(move |place| (number, place))).collect();
    let newer = |number: usize, place: &Place| -> Vec<(usize, &Place)> {
        let stands_over =
            |(other, newer): &&(usize, &Place)| *other != number && newer.touches(place) && newer.is_newer(place, *other > number);
        all.iter().filter(stands_over).copied().collect()
    };
    let is_covered = |number: usize, place: &Place| newer(number, place).iter().any(|(_, newer)| newer.covers(place));
    let of = |(number, places): (usize, &&[Place])| {
        let Some(place) = places.last() else { return Replaced::Nothing };
        let newer = newer(number, place);
        // Where the dates go round in a circle everything is older than something: then all that was denied stays.
        if newer.iter().any(|(other, newer)| newer.covers(place) && !is_covered(*other, newer)) {
            Replaced::Everything
        } else if newer.is_empty() {
            Replaced::Nothing
        } else {
            Replaced::Permits
        }
    };
    consents.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHENEVER: (Micros, Micros) = (Interval::MIN, Interval::MAX);

    fn place(organisations: &[&[&str]], policies: &[&str], given: (Micros, Micros), recorded: Micros) -> Place {
        Place {
            subject: "Patient/p".to_owned(),
            organisations: organisations.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect(),
            policies: policies.iter().map(|policy| (*policy).to_owned()).collect(),
            given: Interval { low: given.0, high: given.1 },
            recorded,
        }
    }

    fn of(places: &[Place]) -> Vec<Replaced> {
        replaced(&places.iter().map(std::slice::from_ref).collect::<Vec<_>>())
    }

    #[test]
    fn the_newer_of_two() {
        use Replaced::*;
        let on = |given, recorded| place(&[&["o"]], &["x"], given, recorded);
        for (first, second, expected) in [
            (on((10, 20), 1), on((20, 30), 2), [Everything, Nothing]),
            (on((20, 30), 1), on((10, 20), 2), [Nothing, Everything]),
            // It cannot be told: the one that was recorded first is the older.
            (on((10, 30), 1), on((15, 16), 2), [Everything, Nothing]),
            (on((15, 16), 1), on((10, 30), 2), [Everything, Nothing]),
            (on(WHENEVER, 1), on((10, 20), 2), [Everything, Nothing]),
            (on((10, 20), 2), on(WHENEVER, 1), [Nothing, Everything]),
            (on((10, 20), 1), on((10, 20), 1), [Everything, Nothing]),
        ] {
            assert_eq!(of(&[first.clone(), second.clone()]), expected, "{first:?} {second:?}");
        }
        let other = Place { subject: "Patient/q".to_owned(), ..on((20, 30), 2) };
        assert_eq!(of(&[on((10, 20), 1), other]), [Nothing, Nothing]);
        assert_eq!(of(&[place(&[], &["x"], WHENEVER, 1), on((20, 30), 2)]), [Nothing, Nothing]);
    }

    #[test]
    fn several_organisations_and_policies() {
        use Replaced::*;
        let on = |organisations: &[&[&str]], policies: &[&str], recorded| place(organisations, policies, WHENEVER, recorded);
        for (older, newer, expected) in [
            (on(&[&["o", "code"]], &["x"], 1), on(&[&["code"]], &["x"], 2), Everything),
            (on(&[&["o"], &["p"]], &["x"], 1), on(&[&["o"]], &["x"], 2), Permits),
            (on(&[&["o"]], &["x", "y"], 1), on(&[&["o"]], &["y"], 2), Permits),
            (on(&[&["o"]], &["x"], 1), on(&[&["p"], &["o"]], &["y", "x"], 2), Everything),
            (on(&[&["o"]], &["x"], 1), on(&[&["p"]], &["x"], 2), Nothing),
            (on(&[&["o"]], &["x"], 1), on(&[&["o"]], &["y"], 2), Nothing),
            // One that nobody can tell the organisation of.
            (on(&[&["o"], &[]], &["x"], 1), on(&[&["o"], &[]], &["x"], 2), Permits),
        ] {
            assert_eq!(of(&[older.clone(), newer.clone()])[0], expected, "{older:?} {newer:?}");
        }
    }

    #[test]
    fn in_a_circle_nobody_loses_what_they_denied() {
        let on = |given, recorded| place(&[&["o"]], &["x"], given, recorded);
        assert_eq!(of(&[on((30, 31), 1), on(WHENEVER, 2), on((10, 11), 3)]), [Replaced::Permits; 3]);
    }

    #[test]
    fn what_was_said_keeps_its_place() {
        let on = |policy: &str, recorded| place(&[&["o"]], &[policy], WHENEVER, recorded);
        let touched = after(vec![on("x", 1)], on("x", 9));
        assert_eq!(touched, [on("x", 1)], "no newer than before");
        let moved = after(touched, on("y", 10));
        assert_eq!(moved, [on("x", 1), on("y", 10)]);
        assert_eq!(after(moved.clone(), on("x", 11)), [on("y", 10), on("x", 1)], "and back");
        // What the one said before still stands over what it replaced.
        assert_eq!(replaced(&[&[on("x", 0)], &moved]), [Replaced::Everything, Replaced::Nothing]);
    }
}
