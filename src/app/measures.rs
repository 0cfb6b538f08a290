//! Measures over this database: evaluated, kept, pushed.

use super::App;
use crate::config::Destination;
use crate::definitions;
use crate::destinations::dhis2::{self, Dhis2Destination, Mapping, PushPlan};
use crate::fhir::{Issue, IssueCode};
use crate::ingest::draft::Draft;
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::ingest::write::Author;
use crate::measure::MeasureError;
use crate::measure::run::{self, Counted, Request, Setting};
use crate::outbox::Outcome;
use crate::store::{FacilityKey, Scope, Unit};
use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

impl App {
    /// Evaluates the Measure with this id for what `scope` shows, and keeps the reports when `keep`.
    pub async fn evaluate(&self, measure_id: &str, request: &Request, scope: &Scope, keep: bool) -> Result<Vec<Counted>, Refusal> {
        let measure = self.resource("Measure", measure_id).await?.ok_or_else(|| {
            let words = format!("There is no Measure/{measure_id}: GET /fhir/Measure lists those there are.");
            Refusal::new(RefusalKind::NotFound, Issue::error(IssueCode::NotFound, words))
        })?;
        let setting = Setting {
            store: &self.store,
            terms: &self.terminology,
            zone: &self.zone,
            facility_system: &self.settings.systems.facility,
            operator_code: &self.settings.operator.code,
            scope,
        };
        let counted = run::run(&setting, &measure, request).await.map_err(|error| match error {
            MeasureError::Refused(issues) => Refusal::all(RefusalKind::Invalid, issues),
            error => Refusal::internal(error),
        })?;
        if keep {
            self.keep(&counted).await?;
        }
        Ok(counted)
    }

    /// Stores reports under their ids: a second evaluation is a new version, and only where a number changed.
    async fn keep(&self, counted: &[Counted]) -> Result<(), Refusal> {
        let Some(type_code) = definitions::r4().type_code("MeasureReport") else { return Ok(()) };
        let mut by_owner: BTreeMap<FacilityKey, Vec<Draft>> = BTreeMap::new();
        for Counted { owner, report } in counted {
            let Some(id) = report.get("id").and_then(Value::as_str) else { continue };
            by_owner.entry(*owner).or_default().push(self.writer.draft(type_code, id, report.clone()));
        }
        for (owner, drafts) in by_owner {
            self.writer.put_all(drafts, &Author { scope: Scope::All, owner, caller: None }).await?;
        }
        Ok(())
    }

    /// The settings of a destination.
    fn destination(&self, id: &str) -> anyhow::Result<Dhis2Destination> {
        let settings: &Destination = self.settings.destinations.iter().find(|destination| destination.id == id).with_context(|| {
            let known: Vec<&str> = self.settings.destinations.iter().map(|destination| destination.id.as_str()).collect();
            let known = if known.is_empty() { "none is set".to_owned() } else { known.join(", ") };
            format!("there is no destination {id} (known: {known}): add it to [[destinations]] in lango.toml")
        })?;
        Ok(Dhis2Destination::new(settings, settings.credentials()?)?)
    }

    /// The Measure-to-DHIS2 mapping as the database has it now.
    async fn mapping(&self) -> Result<Mapping, Refusal> {
        let mut maps = Vec::with_capacity(3);
        for url in [dhis2::DATA_ELEMENT_MAP, dhis2::CATEGORY_OPTION_MAP, dhis2::ORG_UNIT_MAP] {
            let id = url.rsplit('/').next().unwrap_or_default();
            maps.push(self.resource("ConceptMap", id).await?);
        }
        let at = |place: usize| maps.get(place).and_then(Option::as_ref);
        Ok(Mapping::new(at(0), at(1), at(2)))
    }

    async fn resource(&self, type_name: &str, id: &str) -> Result<Option<Value>, Refusal> {
        let Some(type_code) = definitions::r4().type_code(type_name) else { return Ok(None) };
        let stored = self.store.read(type_code, id, &Scope::All).await?;
        Ok(stored.and_then(|stored| serde_json::from_slice(stored.body.as_ref()?).ok()))
    }

    /// What a push of these reports would send, against the server's own metadata; every problem when the mapping does not fit.
    pub async fn plan_push(&self, destination: &str, reports: &[Value]) -> anyhow::Result<Result<PushPlan, Vec<Issue>>> {
        let destination = self.destination(destination)?;
        let mapping = self.mapping().await?;
        let client = dhis2::Client::new(&destination)?;
        let metadata = dhis2::metadata_for(&client, &destination, reports, &mapping).await?;
        Ok(dhis2::plan(reports, &metadata, &mapping, destination.attribute_option_combo.as_deref(), self.today()))
    }

    /// Enqueues the push of these kept reports; the number of jobs. The outbox of a serving process carries them out.
    pub async fn push(&self, destination: &str, reports: &[Value]) -> anyhow::Result<usize> {
        self.destination(destination)?;
        let ids = reports.iter().filter_map(|report| report.get("id").and_then(Value::as_str));
        let jobs: Vec<_> = ids.map(|id| dhis2::push_job(id, destination)).collect();
        let count = jobs.len();
        self.store.commit(Unit { jobs, ..Unit::default() }).await?;
        Ok(count)
    }

    /// The outbox's handler of a push.
    pub(super) async fn deliver(&self, payload: &Value) -> Outcome {
        let Some((report, destination)) = dhis2::read_job(payload) else {
            return Outcome::dead("the job was made by another version of lango: push the report again");
        };
        let destination = match self.destination(destination) {
            Ok(destination) => destination,
            Err(error) => return Outcome::dead(format!("{error:#}")),
        };
        let (report, mapping) = match (self.resource("MeasureReport", report).await, self.mapping().await) {
            (Ok(Some(report)), Ok(mapping)) => (report, mapping),
            (Ok(None), _) => return Outcome::dead("the report was deleted: evaluate the measure again"),
            _ => return Outcome::retry("the database failed"),
        };
        dhis2::deliver(&destination, &report, &mapping, self.today(), &self.dhis2).await
    }

    fn today(&self) -> jiff::civil::Date {
        Timestamp::now().to_zoned(self.zone.clone()).date()
    }
}
