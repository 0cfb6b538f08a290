//! Counting: facts in, one array of cells per facility out, in one pass.
//!
//! Nothing here knows JSON, FHIRPath or the database. A fact's codes are classified once per distinct code and remembered;
//! after that a fact costs a few look-ups and additions and no allocation.

use super::age::{Age, AgeBand};
use super::period::ReportPeriod;
use crate::fhir::time::Micros;
use crate::store::{FacilityKey, Fact, FactValue, ResourceKey};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use std::collections::{BTreeMap, HashMap};

/// A Measure as the fold needs it: which column means what, and how the cells lie.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// The date column whose beginning decides the period.
    pub period_column: usize,
    /// The token column that decides the groups; `None`: every fact is in every group.
    pub code_column: Option<usize>,
    pub dimensions: Vec<Dimension>,
    /// Each stratifier crosses some dimensions.
    pub stratifiers: Vec<Vec<usize>>,
    /// Per group, the stratifiers that it is reported by.
    pub groups: Vec<Vec<usize>>,
}

/// One component of a stratifier: reads a value's place in its value set from a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Dimension {
    /// The place of the first code of a token column that is listed.
    Code { column: usize, codes: Vec<String> },
    /// The band of the age at the beginning of `at`. A partial birth date counts as its first day.
    Age { birth: usize, at: usize, bands: Vec<AgeBand> },
}

impl Dimension {
    fn size(&self) -> usize {
        match self {
            Dimension::Code { codes, .. } => codes.len(),
            Dimension::Age { bands, .. } => bands.len(),
        }
    }
}

impl Tables {
    /// How many strata a stratifier has.
    pub fn strata(&self, stratifier: usize) -> usize {
        let dimensions = self.stratifiers.get(stratifier).map_or(&[][..], Vec::as_slice);
        dimensions.iter().filter_map(|d| self.dimensions.get(*d)).map(Dimension::size).product()
    }

    /// For a stratum, the place of its value in each of its stratifier's dimensions; the last dimension varies fastest.
    pub fn places(&self, stratifier: usize, mut stratum: usize) -> Vec<usize> {
        let dimensions = self.stratifiers.get(stratifier).map_or(&[][..], Vec::as_slice);
        let mut places: Vec<usize> = dimensions
            .iter()
            .rev()
            .map(|d| {
                let size = self.dimensions.get(*d).map_or(1, Dimension::size).max(1);
                let place = stratum % size;
                stratum /= size;
                place
            })
            .collect();
        places.reverse();
        places
    }
}

/// Which groups a code puts its resource in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeGroups {
    /// Groups that name the code, directly or by a value set.
    pub named: Vec<u16>,
    /// The group that a ConceptMap gives the code. Among a resource's codings the first group in the Measure's order wins, so
    /// that a mapped classification puts a resource in one group only.
    pub mapped: Option<u16>,
}

/// What was counted for one facility.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    groups: Vec<GroupCounts>,
}

/// What was counted for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCounts {
    pub population: u64,
    /// Per stratifier of the group.
    pub stratifiers: Vec<StratifierCounts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StratifierCounts {
    /// Per stratum, as [`Tables::places`] lays them out.
    pub strata: Vec<u64>,
    /// In the population, but some component has no listed value (an unknown sex, a missing birth date).
    pub outside: u64,
}

impl Counts {
    /// Zeros for every cell.
    pub fn zero(tables: &Tables) -> Counts {
        let stratifier = |s: &usize| StratifierCounts { strata: vec![0; tables.strata(*s)], outside: 0 };
        let groups = tables.groups.iter();
        Counts { groups: groups.map(|g| GroupCounts { population: 0, stratifiers: g.iter().map(stratifier).collect() }).collect() }
    }

    pub fn groups(&self) -> &[GroupCounts] {
        &self.groups
    }
}

/// Facts whose code is in no group of the Measure, and facts that were left out: what a reader of the counts should know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncounted {
    /// The record has no code, or none that the Measure's terminology places.
    pub no_group: u64,
}

/// Distinct codes of one system that are remembered before the memory is emptied; more than any real code system uses at once.
const REMEMBERED_CODES: usize = 100_000;

/// (system key, code) to the groups that the code puts its resource in.
type Classify<'a> = dyn FnMut(i64, &str) -> CodeGroups + Send + 'a;

/// The running count.
pub struct Fold<'a> {
    tables: &'a Tables,
    period: ReportPeriod,
    zone: &'a TimeZone,
    classify: Box<Classify<'a>>,
    known: HashMap<i64, HashMap<String, CodeGroups>>,
    seen: KeySet,
    facilities: HashMap<FacilityKey, (Counts, Uncounted)>,
    /// Kept between facts so that a fact allocates nothing.
    members: Vec<u16>,
    places: Vec<Option<usize>>,
}

impl<'a> Fold<'a> {
    /// `classify` is asked once per distinct code: (system key, code) to groups. `zone` must be the zone in which the store's
    /// index read dates that have none.
    pub fn new(
        tables: &'a Tables,
        period: ReportPeriod,
        zone: &'a TimeZone,
        classify: impl FnMut(i64, &str) -> CodeGroups + Send + 'a,
    ) -> Fold<'a> {
        Fold {
            tables,
            period,
            zone,
            classify: Box::new(classify),
            known: HashMap::new(),
            seen: KeySet::default(),
            facilities: HashMap::new(),
            members: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Counts one fact; a resource that was counted before is not counted again.
    pub fn add(&mut self, fact: &Fact) {
        let Some(day) = fact.values.get(self.tables.period_column).and_then(|value| first_day(value, self.zone)) else { return };
        if !self.period.contains(day) || !self.seen.insert(fact.key) {
            return;
        }
        self.find_members(fact);
        let tables = self.tables;
        let (counts, uncounted) = self.facilities.entry(fact.owner).or_insert_with(|| (Counts::zero(tables), Uncounted::default()));
        if self.members.is_empty() {
            uncounted.no_group += 1;
            return;
        }
        self.places.clear();
        self.places.extend(tables.dimensions.iter().map(|dimension| match dimension {
            Dimension::Code { column, codes } => fact.values.get(*column).and_then(|value| listed(value, codes)),
            Dimension::Age { birth, at, bands } => {
                let at = if *at == tables.period_column { Some(day) } else { fact.values.get(*at).and_then(|v| first_day(v, self.zone)) };
                let birth = fact.values.get(*birth).and_then(|value| first_day(value, self.zone));
                let age = birth.zip(at).map(|(birth, at)| Age::on(birth, at));
                age.and_then(|age| bands.iter().position(|band| band.contains(age)))
            }
        }));
        for member in &self.members {
            let group = usize::from(*member);
            let (Some(count), Some(stratifiers)) = (counts.groups.get_mut(group), tables.groups.get(group)) else { continue };
            count.population += 1;
            for (stratifier, cells) in stratifiers.iter().zip(&mut count.stratifiers) {
                match stratum(tables, *stratifier, &self.places).and_then(|at| cells.strata.get_mut(at)) {
                    Some(cell) => *cell += 1,
                    None => cells.outside += 1,
                }
            }
        }
    }

    /// What was counted, by facility.
    pub fn finish(self) -> BTreeMap<FacilityKey, (Counts, Uncounted)> {
        self.facilities.into_iter().collect()
    }

    fn find_members(&mut self, fact: &Fact) {
        self.members.clear();
        let Some(column) = self.tables.code_column else {
            self.members.extend((0..self.tables.groups.len()).filter_map(|group| u16::try_from(group).ok()));
            return;
        };
        let Some(FactValue::Tokens(tokens)) = fact.values.get(column) else { return };
        let mut mapped: Option<u16> = None;
        for (system, code) in tokens {
            let codes = self.known.entry(*system).or_default();
            if codes.len() >= REMEMBERED_CODES {
                codes.clear();
            }
            if !codes.contains_key(code) {
                codes.insert(code.clone(), (self.classify)(*system, code));
            }
            let Some(groups) = codes.get(code) else { continue };
            self.members.extend_from_slice(&groups.named);
            mapped = match (mapped, groups.mapped) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        self.members.extend(mapped);
        self.members.sort_unstable();
        self.members.dedup();
    }
}

/// The stratum's place among its stratifier's cells; `None` when some component has no place.
fn stratum(tables: &Tables, stratifier: usize, places: &[Option<usize>]) -> Option<usize> {
    tables.stratifiers.get(stratifier)?.iter().try_fold(0usize, |at, dimension| {
        let size = tables.dimensions.get(*dimension)?.size();
        let place = (*places.get(*dimension)?)?;
        at.checked_mul(size)?.checked_add(place)
    })
}

fn listed(value: &FactValue, codes: &[String]) -> Option<usize> {
    match value {
        FactValue::Tokens(tokens) => tokens.iter().find_map(|(_, code)| codes.iter().position(|listed| listed == code)),
        _ => None,
    }
}

/// The day on which an interval begins. An interval without a beginning has none.
fn first_day(value: &FactValue, zone: &TimeZone) -> Option<Date> {
    match value {
        FactValue::Date(interval) if interval.low > crate::fhir::Interval::MIN => civil_day(interval.low, zone),
        _ => None,
    }
}

fn civil_day(micros: Micros, zone: &TimeZone) -> Option<Date> {
    Some(zone.to_datetime(Timestamp::from_microsecond(micros).ok()?).date())
}

/// A set of resource keys: a bit each, in pages of 65,536 keys, because keys are given out in order.
#[derive(Default)]
struct KeySet {
    pages: HashMap<i64, Box<[u64]>>,
}

impl KeySet {
    const PAGE_BITS: u32 = 16;

    /// `false` when the key was there already.
    fn insert(&mut self, key: ResourceKey) -> bool {
        let page = self.pages.entry(key >> Self::PAGE_BITS).or_insert_with(|| vec![0; 1 << (Self::PAGE_BITS - 6)].into());
        let within = (key & ((1 << Self::PAGE_BITS) - 1)) as usize;
        let Some(word) = page.get_mut(within >> 6) else { return false };
        let bit = 1u64 << (within & 63);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::time::parse_interval;
    use proptest::prelude::*;

    const ICD: i64 = 10;
    const LOCAL: i64 = 11;
    const GROUPS: [&str; 4] = ["A09", "B50", "I10", "OTHER"];
    const BANDS: [(&str, i32, i32); 5] =
        [("P0Y--P1Y", 0, 1), ("P1Y--P5Y", 1, 5), ("P5Y--P15Y", 5, 15), ("P15Y--P50Y", 15, 50), ("P50Y--P9999Y", 50, 9999)];

    /// Columns: code, visit, birth date, sex.
    fn tables() -> Tables {
        Tables {
            period_column: 1,
            code_column: Some(0),
            dimensions: vec![
                Dimension::Age { birth: 2, at: 1, bands: BANDS.iter().map(|b| AgeBand::parse(b.0).unwrap()).collect() },
                Dimension::Code { column: 3, codes: vec!["female".into(), "male".into()] },
            ],
            stratifiers: vec![vec![0, 1]],
            groups: vec![vec![0]; GROUPS.len()],
        }
    }

    fn classify(system: i64, code: &str) -> CodeGroups {
        let mapped = (system == ICD).then(|| {
            let category = code.get(..3).unwrap_or(code);
            GROUPS.iter().position(|g| *g == category).unwrap_or(GROUPS.len() - 1) as u16
        });
        CodeGroups { named: Vec::new(), mapped }
    }

    #[derive(Clone, Debug)]
    struct Visit {
        key: i64,
        facility: i64,
        codes: Vec<(i64, &'static str)>,
        visit: String,
        birth: Option<String>,
        sex: Option<&'static str>,
    }

    fn zone() -> TimeZone {
        TimeZone::fixed(jiff::tz::offset(3))
    }

    fn fact(visit: &Visit) -> Fact {
        let date = |text: &str| FactValue::Date(parse_interval(text, &zone()).unwrap());
        Fact {
            key: visit.key,
            owner: visit.facility,
            values: vec![
                FactValue::Tokens(visit.codes.iter().map(|(s, c)| (*s, c.to_string())).collect()),
                date(&visit.visit),
                visit.birth.as_deref().map_or(FactValue::Missing, date),
                visit.sex.map_or(FactValue::Missing, |sex| FactValue::Tokens(vec![(0, sex.into())])),
            ],
        }
    }

    fn count(visits: &[Visit]) -> BTreeMap<FacilityKey, (Counts, Uncounted)> {
        let (tables, zone) = (tables(), zone());
        let mut fold = Fold::new(&tables, ReportPeriod::parse("2026-09").unwrap(), &zone, classify);
        for visit in visits {
            fold.add(&fact(visit));
        }
        fold.finish()
    }

    fn one() -> Visit {
        let codes = vec![(ICD, "B50.9")];
        Visit { key: 1, facility: 7, codes, visit: "2026-09-07".into(), birth: Some("2021-09-08".into()), sex: Some("female") }
    }

    fn cell(counts: &Counts, group: usize, band: usize, sex: usize) -> u64 {
        counts.groups()[group].stratifiers[0].strata[band * 2 + sex]
    }

    #[test]
    fn a_visit_is_counted_at_the_age_of_its_day() {
        let counted = count(&[one(), Visit { key: 2, birth: Some("2021-09-07".into()), ..one() }]);
        let counts = &counted[&7].0;
        assert_eq!((cell(counts, 1, 1, 0), cell(counts, 1, 2, 0), counts.groups()[1].population), (1, 1, 2));
    }

    #[test]
    fn the_period_is_decided_by_the_day_where_the_facility_is() {
        // 22:30 UTC on 31 August is 01:30 on 1 September three hours further east.
        let inside = Visit { key: 1, visit: "2026-08-31T22:30:00Z".into(), ..one() };
        let before = Visit { key: 2, visit: "2026-08-31T20:30:00Z".into(), ..one() };
        let after = Visit { key: 3, visit: "2026-09-30T21:00:00Z".into(), ..one() };
        assert_eq!(count(&[inside, before, after])[&7].0.groups()[1].population, 1);
    }

    #[test]
    fn unknown_sex_or_birth_date_counts_in_the_population_only() {
        let counted = count(&[
            Visit { key: 1, sex: None, ..one() },
            Visit { key: 2, sex: Some("unknown"), ..one() },
            Visit { key: 3, birth: None, ..one() },
            Visit { key: 4, birth: Some("2026-09-08".into()), ..one() },
        ]);
        let group = &counted[&7].0.groups()[1];
        assert_eq!((group.population, group.stratifiers[0].outside), (4, 4));
        assert_eq!(group.stratifiers[0].strata.iter().sum::<u64>(), 0);
    }

    #[test]
    fn a_resource_counts_once_however_often_and_with_however_many_codings_it_comes() {
        let several = Visit { codes: vec![(LOCAL, "x"), (ICD, "Z99"), (ICD, "I10"), (ICD, "B50.1")], ..one() };
        let counts = &count(&[several.clone(), several])[&7].0;
        let populations: Vec<u64> = counts.groups().iter().map(|g| g.population).collect();
        assert_eq!(populations, [0, 1, 0, 0]);
    }

    #[test]
    fn a_code_that_no_terminology_places_is_told_apart() {
        let counted = count(&[Visit { codes: vec![(LOCAL, "x")], ..one() }, Visit { key: 2, codes: vec![], ..one() }]);
        assert_eq!(counted[&7].1, Uncounted { no_group: 2 });
    }

    #[test]
    fn places_and_strata_are_each_others_inverse() {
        let tables = tables();
        for stratum in 0..tables.strata(0) {
            let places = tables.places(0, stratum);
            let by_dimension: Vec<Option<usize>> = places.into_iter().map(Some).collect();
            assert_eq!(super::stratum(&tables, 0, &by_dimension), Some(stratum));
        }
    }

    /// The slow, obvious count: text compared with text, a list searched from the start.
    fn oracle(visits: &[Visit]) -> BTreeMap<(i64, String, String, String), u64> {
        let mut seen = Vec::new();
        let mut cells = BTreeMap::new();
        for visit in visits {
            if !visit.visit.starts_with("2026-09") || seen.contains(&visit.key) {
                continue;
            }
            seen.push(visit.key);
            let icd = visit.codes.iter().filter(|(system, _)| *system == ICD);
            let Some(group) = GROUPS.iter().find(|g| **g == "OTHER" || icd.clone().any(|(_, c)| c.starts_with(**g))) else { continue };
            if icd.count() == 0 {
                continue;
            }
            let (Some(birth), Some(sex)) = (&visit.birth, visit.sex) else { continue };
            let part = |text: &str, at: std::ops::Range<usize>| text[at].parse::<i32>().unwrap();
            let years = part(&visit.visit, 0..4) - part(birth, 0..4) - i32::from(visit.visit[5..10] < birth[5..10]);
            let Some(band) = BANDS.iter().find(|b| b.1 <= years && years < b.2) else { continue };
            if sex == "unknown" {
                continue;
            }
            *cells.entry((visit.facility, group.to_string(), band.0.to_string(), sex.to_string())).or_insert(0) += 1;
        }
        cells
    }

    fn some_date(years: std::ops::Range<i16>) -> impl Strategy<Value = String> {
        (years, 1i8..=12, 1i8..=31).prop_map(|(y, m, d)| {
            let first = Date::new(y, m, 1).unwrap();
            Date::new(y, m, d.min(first.days_in_month())).unwrap().to_string()
        })
    }

    fn some_visit() -> impl Strategy<Value = Visit> {
        let code = prop::sample::select(vec![(ICD, "A09"), (ICD, "B50.9"), (ICD, "I10"), (ICD, "K29.7"), (LOCAL, "B50.9")]);
        let sex = prop::option::of(prop::sample::select(vec!["female", "male", "unknown"]));
        let visit = (8u8..11, 1u8..=30).prop_map(|(month, day)| format!("2026-{month:02}-{day:02}"));
        (0i64..40, 0i64..4, prop::collection::vec(code, 0..3), visit, prop::option::of(some_date(1940..2027)), sex)
            .prop_map(|(key, facility, codes, visit, birth, sex)| Visit { key, facility, codes, visit, birth, sex })
    }

    proptest! {
        #[test]
        fn cells_equal_a_slow_count(visits in prop::collection::vec(some_visit(), 0..80)) {
            let mut fast = BTreeMap::new();
            let tables = tables();
            for (facility, (counts, _)) in count(&visits) {
                for (group, counted) in counts.groups().iter().enumerate() {
                    for (stratum, n) in counted.stratifiers[0].strata.iter().enumerate().filter(|(_, n)| **n > 0) {
                        let places = tables.places(0, stratum);
                        let key = (facility, GROUPS[group].to_string(), BANDS[places[0]].0.to_string(), ["female", "male"][places[1]].to_string());
                        fast.insert(key, *n);
                    }
                }
            }
            prop_assert_eq!(fast, oracle(&visits));
        }
    }
}
