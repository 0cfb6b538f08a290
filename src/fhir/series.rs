//! Which of several Consents takes the place of which: of two under the same organisation and policy the newer that of the older, for good.
//!
//! A Consent stands in a [`Place`] from when it is in force. What it said then keeps its place when it is ended, so that what it replaced stays replaced; one that
//! never was in force, or was entered in error, never had one. An organisation is the same when the two share any of its names. Of several organisations and
//! policies one of each in common is enough to take away what the older permits; what it denies goes only with a newer one under all of them,
//! that nothing newer stands over: what cannot be told closes. One without organisation or policy is of no series: it stands beside all others, and what it
//! replaced when it was of one stays replaced.
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
    /// Whether it can replace anything, or be replaced.
    fn is_of_series(&self) -> bool {
        !self.policies.is_empty() && self.organisations.iter().any(|names| !names.is_empty())
    }

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

    /// Whether it was given after the other, or may have been: by what they say, and where that does not tell, by which was recorded first. Each of two that
    /// were recorded at one instant may be the newer.
    fn is_newer(&self, other: &Place) -> bool {
        if self.given.low >= other.given.high {
            true
        } else if other.given.low >= self.given.high {
            false
        } else {
            self.recorded >= other.recorded
        }
    }
}

/// The places of a Consent that had `former` ones and stands in this one from now on; the last is the present one, of no series where it names no organisation
/// or no policy. Saying the same again, or something else under the same organisation and policy, makes it no newer than when it was first recorded.
pub fn after(former: Vec<Place>, now: Place) -> Vec<Place> {
    let former = former.into_iter().filter(Place::is_of_series);
    let (same, mut places): (Vec<Place>, Vec<Place>) = former.partition(|place| place.touches(&now));
    let recorded = same.iter().map(|place| place.recorded).fold(now.recorded, Micros::min);
    // Nothing is given after it was recorded: a date that lies ahead tells no more than that it was given by then.
    let low = if now.given.low > now.recorded { recorded } else { now.given.low };
    let given = Interval { low, high: now.given.high.min(now.recorded.saturating_add(1)) };
    places.push(Place { given, recorded, ..now });
    places
}

/// What others have taken the place of, for each of these Consents, with all places that each has, the present one last.
pub fn replaced(consents: &[&[Place]]) -> Vec<Replaced> {
    let all: Vec<(usize, &Place)> =
        consents.iter().enumerate().flat_map(|(number, places)| places.iter().map(move |place| (number, place))).collect();
    let newer = |number: usize, place: &Place| -> Vec<(usize, &Place)> {
        let stands_over = |(other, newer): &&(usize, &Place)| *other != number && newer.touches(place) && newer.is_newer(place);
        all.iter().filter(stands_over).copied().collect()
    };
    let is_covered = |number: usize, place: &Place| newer(number, place).iter().any(|(_, newer)| newer.covers(place));
    let of = |(number, places): (usize, &&[Place])| {
        let Some(place) = places.last() else { return Replaced::Nothing };
        let newer = newer(number, place);
        // Where the dates go round in a circle, or two were recorded at once, everything is older than something: then all that was denied stays.
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
            // Nor can it be told of two that were recorded at once.
            (on((10, 20), 1), on((10, 20), 1), [Permits, Permits]),
            (on((10, 20), 1), on((20, 30), 1), [Everything, Nothing]),
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
        let on = |policy: &str, recorded| place(&[&["o"]], &[policy], (Interval::MIN, 0), recorded);
        let touched = after(vec![on("x", 1)], on("x", 9));
        assert_eq!(touched, [on("x", 1)], "no newer than before");
        let moved = after(touched, on("y", 10));
        assert_eq!(moved, [on("x", 1), on("y", 10)]);
        assert_eq!(after(moved.clone(), on("x", 11)), [on("y", 10), on("x", 1)], "and back");
        // What the one said before still stands over what it replaced.
        assert_eq!(replaced(&[&[on("x", 0)], &moved]), [Replaced::Everything, Replaced::Nothing]);
    }

    #[test]
    fn what_left_its_series_is_replaced_no_more_and_what_it_replaced_stays_so() {
        let on = |policies: &[&str], recorded| place(&[&["o"]], policies, (Interval::MIN, 0), recorded);
        for left in [
            on(&[], 9),
            Place { organisations: Vec::new(), ..on(&["x"], 9) },
            Place { organisations: vec![BTreeSet::new()], ..on(&["x"], 9) },
        ] {
            let places = after(vec![on(&["x"], 2)], left.clone());
            assert_eq!(places, [on(&["x"], 2), left.clone()]);
            let again = after(places.clone(), Place { recorded: 10, ..left.clone() });
            assert_eq!(again.len(), 2, "it is touched as often as one likes");
            let (older, newer) = ([on(&["x"], 1)], [on(&["x"], 5)]);
            assert_eq!(replaced(&[&older, &places, &newer]), [Replaced::Everything, Replaced::Nothing, Replaced::Nothing]);
            assert_eq!(replaced(&[&older, &places]), [Replaced::Everything, Replaced::Nothing]);
            assert_eq!(after(places, on(&["x"], 11)), [on(&["x"], 2)], "and back");
        }
    }

    #[test]
    fn nothing_is_given_after_it_was_recorded() {
        let on = |given, recorded| place(&[&["o"]], &["x"], given, recorded);
        let (ahead, later) = (after(Vec::new(), on((90, 91), 10)), after(Vec::new(), on((0, 50), 20)));
        assert_eq!(replaced(&[&ahead, &later]), [Replaced::Everything, Replaced::Nothing]);
        let touched = after(ahead, on((90, 91), 30));
        assert_eq!(replaced(&[&touched, &later]), [Replaced::Everything, Replaced::Nothing], "an edit brings nothing back");
        let renewed = after(touched, on((25, 26), 30));
        assert_eq!(replaced(&[&renewed, &later]), [Replaced::Nothing, Replaced::Everything], "a later date does");
        let old = after(Vec::new(), on((1, 2), 40));
        assert_eq!(replaced(&[&after(Vec::new(), on((90, 91), 10)), &old]), [Replaced::Nothing, Replaced::Everything], "nor is it of yore");
    }
}
