//! What the other rooms call.

use super::query::Snapshot;
use super::*;
use crate::fhir::time::Micros;
use bytes::Bytes;
use std::time::Duration;

/// A handle to the database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store;

/// One version of one resource, as it stands in the database.
#[derive(Clone, Debug)]
pub struct Stored {
    pub key: ResourceKey,
    pub type_code: TypeCode,
    pub id: Box<str>,
    pub version: i64,
    pub updated: Micros,
    pub owner: FacilityKey,
    /// `None`: this version is a delete.
    pub body: Option<Bytes>,
}

/// One page of a search.
#[derive(Clone, Debug)]
pub struct Page {
    pub rows: Vec<Stored>,
    /// Where the next page continues; `None` on the last one.
    pub next: Option<Cursor>,
}

/// A job that this process may work on until its lease ends.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub id: i64,
    pub kind: String,
    pub payload: serde_json::Value,
    /// 1 on the first try.
    pub attempt: i64,
    /// Fencing token: every later word on this job must carry it.
    pub token: i64,
}

/// How a try ended.
#[derive(Clone, Debug)]
pub enum JobEnd {
    Done { result: serde_json::Value },
    Retry { run_at: Micros, error: String },
    Dead { error: String, result: serde_json::Value },
}

/// A job as the operator sees it.
#[derive(Clone, Debug)]
pub struct JobRow {
    pub id: i64,
    pub kind: String,
    pub payload: serde_json::Value,
    /// `waiting`, `running`, `done`, `dead`.
    pub state: String,
    pub attempt: i64,
    pub run_at: Micros,
    pub created: Micros,
    pub error: Option<String>,
    pub result: Option<serde_json::Value>,
}

/// Rows of values for measures: for every resource that `base` finds, one value per column.
#[derive(Clone, Debug)]
pub struct FactQuery {
    pub base: Query,
    pub columns: Vec<FactColumn>,
}

/// A value reached from the base resource by following reference parameters (`hops`), then read from the index of `leaf`.
#[derive(Clone, Debug)]
pub struct FactColumn {
    pub hops: Vec<ParamId>,
    pub leaf: ParamId,
    /// [`query::Kind::Token`] gives every (system key, code), others their smallest value.
    pub kind: query::Kind,
}

#[derive(Clone, Debug)]
pub struct Fact {
    pub key: ResourceKey,
    pub owner: FacilityKey,
    pub values: Vec<FactValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FactValue {
    Missing,
    /// All of the element's codes; `system` is [`system_key`] of the uri, 0 without one.
    Tokens(Vec<(i64, String)>),
    Date(crate::fhir::Interval),
    Real(f64),
    Text(String),
    Key(ResourceKey),
}

#[allow(unused_variables)]
impl Store {
    /// Opens `sqlite:PATH` or `postgres://…`, and brings its tables up to date.
    pub async fn open(url: &str) -> anyhow::Result<Store> {
        unimplemented!()
    }

    /// Applies a unit; answers one [`Written`] per mutation when it is durable.
    pub async fn commit(&self, unit: Unit) -> Result<Vec<Written>, WriteError> {
        unimplemented!()
    }

    /// The current version, a delete included. `None`: never existed, or hidden by `scope`.
    pub async fn read(&self, type_code: TypeCode, id: &str, scope: &Scope) -> Result<Option<Stored>, sqlx::Error> {
        unimplemented!()
    }

    /// The current versions of many resources, in no order, absent ones left out; for the write path.
    pub async fn read_many(&self, targets: &[(TypeCode, String)]) -> Result<Vec<Stored>, sqlx::Error> {
        unimplemented!()
    }

    pub async fn read_version(&self, type_code: TypeCode, id: &str, version: i64, scope: &Scope) -> Result<Option<Stored>, sqlx::Error> {
        unimplemented!()
    }

    /// Versions below `before` (newest first), at most `limit`.
    pub async fn history(
        &self,
        type_code: TypeCode,
        id: &str,
        before: Option<i64>,
        limit: u32,
        scope: &Scope,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        unimplemented!()
    }

    /// One page of at most `limit` rows.
    pub async fn search(&self, query: &Query, limit: u32, cursor: Option<&Cursor>) -> Result<Page, sqlx::Error> {
        unimplemented!()
    }

    /// How many resources a search finds; with `snapshot`, as of then.
    pub async fn count(&self, query: &Query, snapshot: Option<&Snapshot>) -> Result<u64, sqlx::Error> {
        unimplemented!()
    }

    /// `_include`: the resources that `from` refer to by `param` (of type `target`, if given) and `scope` shows.
    pub async fn referenced_by(
        &self,
        from: &[ResourceKey],
        param: ParamId,
        target: Option<TypeCode>,
        scope: &Scope,
        limit: u32,
    ) -> Result<Vec<Stored>, sqlx::Error> {
        unimplemented!()
    }

    /// `_revinclude`: the resources that refer to `to` by `param` and `scope` shows.
    pub async fn referring_to(&self, to: &[ResourceKey], param: ParamId, scope: &Scope, limit: u32) -> Result<Vec<Stored>, sqlx::Error> {
        unimplemented!()
    }

    /// The number of the facility with this code; a new code gets a new number.
    pub async fn facility_key(&self, code: &str) -> Result<FacilityKey, sqlx::Error> {
        unimplemented!()
    }

    /// The code of a facility; `None` for the operator's own organisation and unknown numbers.
    pub async fn facility_code(&self, key: FacilityKey) -> Result<Option<String>, sqlx::Error> {
        unimplemented!()
    }

    /// Feeds every fact of `query` to `each`, in one pass.
    pub async fn facts(&self, query: &FactQuery, each: &mut (dyn FnMut(Fact) + Send)) -> Result<(), sqlx::Error> {
        unimplemented!()
    }

    /// Takes up to `limit` due jobs of these kinds, for `lease`.
    pub async fn claim_jobs(&self, kinds: &[&str], limit: u32, lease: Duration) -> Result<Vec<ClaimedJob>, sqlx::Error> {
        unimplemented!()
    }

    /// Ends a try; `false` when the lease was lost and nothing changed.
    pub async fn end_job(&self, id: i64, token: i64, end: JobEnd) -> Result<bool, sqlx::Error> {
        unimplemented!()
    }

    /// Jobs, newest first; `state` narrows.
    pub async fn jobs(&self, kind: Option<&str>, state: Option<&str>, limit: u32) -> Result<Vec<JobRow>, sqlx::Error> {
        unimplemented!()
    }

    /// Makes a dead or waiting job due now; `false` when there is none such.
    pub async fn requeue_job(&self, id: i64) -> Result<bool, sqlx::Error> {
        unimplemented!()
    }

    /// Wakes when a job was enqueued in this process.
    pub async fn job_enqueued(&self) {
        unimplemented!()
    }
}
