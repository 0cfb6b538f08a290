//! Everything wired together once, for the server and for the commands that work on the same database.
//!
//! Opening an [`App`] brings the tables up to date, puts what lango ships (terminology, profiles, measures) into the store where
//! it is missing or was not edited, loads the terminology into memory and finishes what a crash interrupted. What runs beside
//! the requests (deliveries, linking, other processes' changes of terminology) is [`App::background`].

mod audit;
mod gauges;
mod measures;
mod operations;
mod reindex;
mod relabel;
mod renew;

pub use gauges::{Gauges, Request};
pub use reindex::{REINDEX_JOB, Reindex};

use crate::access::{self, Caller};
use crate::config::Settings;
use crate::definitions::{self, CodeSet};
use crate::destinations::dhis2::{JOB_KIND, MetadataCache};
use crate::exchange::notice::{self, NOTICE_JOB};
use crate::exchange::{Holders, Pace, consent_request};
use crate::fhir::time::now;
use crate::ingest::consent::CONSENT_JOB;
use crate::ingest::load::Loader;
use crate::ingest::relabel::RELABEL_JOB;
use crate::ingest::submit::{Rules, Submitter};
use crate::ingest::template::Templates;
use crate::ingest::write::{Author, Policy, Writer};
use crate::outbox::{Outbox, Outcome, Pulse};
use crate::registry::{LINK_JOB, Registry};
use crate::search::extract;
use crate::search::own::{self, OwnParams};
use crate::store::{Scope, Store, Stored, TypeCode};
use crate::terminology::{self, Terminology};
use crate::validate::{Profiles, Validator, package, structure};
use anyhow::Context;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Marks a resource that lango shipped, with the hash of its content, so that an edited one is left alone by an upgrade.
const SHIPPED: &str = "urn:lango:shipped";
/// What the ids of golden Patients are made with.
pub(crate) const GOLDEN_SECRET: &str = "lango 2026 golden patient ids";
/// How often another process's changes of terminology are looked for.
const REFRESH: Duration = Duration::from_secs(2);
/// How long a start waits for interrupted submissions.
const RECOVERY: Duration = Duration::from_secs(10);
/// Between two tries to finish them, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Rows read at a time when the terminology is loaded.
const LOAD_PAGE: u32 = 200;

/// The parts, each cheap to clone.
#[derive(Clone)]
pub struct App {
    pub settings: Arc<Settings>,
    pub zone: TimeZone,
    pub store: Store,
    pub writer: Writer,
    pub terminology: Terminology,
    pub registry: Registry,
    pub submitter: Submitter,
    /// Beats while this process's outbox works.
    pub pulse: Pulse,
    /// What is going on in this process.
    pub gauges: Gauges,
    /// How often clients look persons up, and persons are looked up.
    pub lookups: Arc<Pace>,
    /// Held while somebody breaks the glass.
    pub glass: Arc<tokio::sync::Mutex<()>>,
    /// Facilities whose records stay with them.
    pub holders: Arc<Holders>,
    /// What was read of DHIS2 servers a short while ago.
    dhis2: MetadataCache,
}

impl App {
    /// Opens the database that the settings name. `base_url`: how clients reach the server.
    pub async fn open(settings: Settings, base_url: &str) -> anyhow::Result<App> {
        let database = &settings.database;
        let store = Store::open(database.expose()).await.with_context(|| format!("the database {database} cannot be opened"))?;
        let zone = TimeZone::get(&settings.zone).with_context(|| format!("zone: {} is no time zone", settings.zone))?;
        let options = extract::Options {
            zone: zone.clone(),
            base: format!("{base_url}/fhir"),
            full_text: settings.search.full_text,
            own: OwnParams::default(),
            staff: [&settings.systems.facility, &settings.systems.practitioner].map(|system| system.as_str().into()).into(),
            people: settings.systems.strong.iter().map(|system| system.as_str().into()).collect(),
        };
        let templates = match &settings.templates_dir {
            Some(folder) => Templates::load(folder).with_context(|| format!("templates_dir: {}", folder.display()))?,
            None => Templates::shipped().context("the shipped templates are broken")?,
        };
        let secret = access::secret_of(&store, GOLDEN_SECRET).await.context("the signing keys cannot be read")?;
        let registry = Registry::new(store.clone(), secret, settings.systems.strong.iter().cloned())?;
        let terminology = Terminology::new();
        // Before what is stored, which replaces one of the same id.
        terminology.load(&required_value_sets());
        let policy = Policy { update_create: settings.update_create, delete_most: settings.limits.delete_matches };
        let validator = Validator::new(Profiles::new(), Arc::new(terminology.clone()), settings.validation).at(&options.base);
        let writer = Writer::new(store.clone(), options, registry.clone(), terminology.clone(), validator)
            .with_policy(policy)
            .with_systems(&settings.systems.facility, &settings.systems.practitioner);
        let rules = Rules {
            operator: settings.operator.code.clone(),
            zone: zone.clone(),
            strict_blocks: settings.strict_templates,
            most_records: settings.limits.template_records as usize,
        };
        let submitter = Submitter {
            writer: writer.clone(),
            templates: Arc::new(templates),
            terminology: terminology.clone(),
            rules: Arc::new(rules),
            turn: Arc::default(),
        };
        let holders = Arc::new(Holders::new(&settings)?);
        let app = App {
            settings: Arc::new(settings),
            zone,
            store,
            writer,
            terminology,
            registry,
            submitter,
            pulse: Pulse::default(),
            gauges: Gauges::default(),
            lookups: Arc::default(),
            glass: Arc::default(),
            holders,
            dhis2: MetadataCache::default(),
        };
        app.put_shipped().await.context("what lango ships could not be stored")?;
        let packed = app.put_packages().await?;
        app.load_definitions(None).await.context("the terminology and profiles could not be loaded")?;
        let profiles = app.writer.validator().profiles().clone();
        // Beside the rest: each is compiled for it.
        tokio::task::spawn_blocking(move || {
            for (url, why) in profiles.unusable(&packed) {
                tracing::warn!(url, %why, "a profile of a package cannot be used");
            }
        });
        app.load_parameters(true).await.context("the search parameters could not be loaded")?;
        app.renew_consents().await.context("the stored Consents could not be read")?;
        app.check_labels().await.context("what is stored could not be held against the value sets of sensitive codes")?;
        Ok(app)
    }

    /// Finishes submissions that were kept but not carried out when the process ended. What takes long goes on beside the requests: a
    /// server that does not answer because of one payload helps nobody.
    pub async fn recover(&self) -> anyhow::Result<()> {
        let me = self.clone();
        let mut recovery = tokio::spawn(async move {
            let mut pause = Duration::from_secs(1);
            loop {
                match me.recorded("finish submissions", me.submitter.recover()).await {
                    Ok(0) => return,
                    Ok(finished) => return tracing::info!(submissions = finished, "finished what was interrupted"),
                    Err(error) => tracing::error!(%error, "interrupted submissions could not be finished; this is tried again"),
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        });
        match tokio::time::timeout(RECOVERY, &mut recovery).await {
            Ok(ended) => ended.context("interrupted submissions could not be finished"),
            Err(_) => {
                tracing::warn!(
                    "interrupted submissions are still being finished; template payloads wait for them, everything else is answered"
                );
                Ok(())
            }
        }
    }

    /// lango's own work: everything is visible, what is written is the operator's.
    pub fn operator(&self) -> Caller {
        Caller::unrestricted(0, None)
    }

    /// Runs until `shutdown`: deliveries, linking that a crash left undone, terminology that another process changed, upkeep.
    pub async fn background(self, shutdown: CancellationToken) {
        tokio::join!(
            self.outbox().run(shutdown.clone()),
            self.refresh(shutdown.clone()),
            self.keep_audit(shutdown.clone()),
            self.store.upkeep(shutdown)
        );
    }

    fn outbox(&self) -> Outbox {
        let (linking, pushing, indexing) = (self.clone(), self.clone(), self.clone());
        let (telling, labelling, noticing) = (self.clone(), self.clone(), self.clone());
        Outbox::new(self.store.clone())
            .with_pulse(self.pulse.clone())
            .register(LINK_JOB, move |job| {
                let app = linking.clone();
                async move {
                    match app.link(&job.payload).await {
                        Ok(()) => Outcome::Done(Value::Null),
                        Err(error) => Outcome::retry(format!("{error:#}")),
                    }
                }
            })
            .register(CONSENT_JOB, move |job| {
                let app = telling.clone();
                async move {
                    match consent_request::tell(&app, &job.payload).await {
                        Ok(()) => Outcome::Done(Value::Null),
                        Err(error) => Outcome::retry(format!("{error:#}")),
                    }
                }
            })
            .register(NOTICE_JOB, move |job| {
                let app = noticing.clone();
                async move { notice::deliver(&app, &job.payload).await }
            })
            .register(REINDEX_JOB, move |job| {
                let app = indexing.clone();
                async move { app.reindex(&job.payload).await }
            })
            .register(RELABEL_JOB, move |job| {
                let app = labelling.clone();
                async move { app.relabel(&job.payload).await }
            })
            .register(JOB_KIND, move |job| {
                let app = pushing.clone();
                async move { app.deliver(&job.payload).await }
            })
    }

    async fn refresh(&self, shutdown: CancellationToken) {
        let mut since = now();
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(REFRESH) => {}
            }
            let before = now();
            // A little overlap: another process's clock, and commits that took a while.
            match self.load_definitions(Some(since.saturating_sub(10_000_000))).await {
                Ok(()) => since = before,
                Err(error) => tracing::warn!(%error, "terminology and profiles were not refreshed"),
            }
            if let Err(error) = self.check_labels().await {
                tracing::warn!(error = format!("{error:#}"), "labels were not held against the value sets of sensitive codes");
            }
            if let Err(error) = self.load_parameters(false).await {
                tracing::warn!(%error, "search parameters were not refreshed");
            }
        }
    }

    /// The handler of [`LINK_JOB`].
    async fn link(&self, payload: &Value) -> anyhow::Result<()> {
        let patients = payload.get("patients").and_then(Value::as_array).into_iter().flatten();
        let patients: Vec<String> = patients.filter_map(Value::as_str).map(str::to_owned).collect();
        self.registry.link(&patients).await.with_context(|| format!("{LINK_JOB} failed"))
    }

    /// Loads files on behalf of `caller`.
    pub fn loader(&self, caller: Caller) -> Loader {
        Loader {
            writer: self.writer.clone(),
            submitter: self.submitter.clone(),
            caller,
            base_url: self.writer.options().base.clone(),
            most_entries: self.settings.limits.bundle_entries as usize,
        }
    }

    async fn put_shipped(&self) -> anyhow::Result<()> {
        let shipped = terminology::shipped()
            .into_iter()
            .chain(crate::validate::shipped_profiles())
            .chain(crate::measure::shipped())
            .chain(operations::shipped());
        self.put_missing(shipped).await
    }

    /// Stores resources that are missing, or there from an earlier release and not edited since.
    async fn put_missing(&self, resources: impl Iterator<Item = Value>) -> anyhow::Result<()> {
        let r4 = definitions::r4();
        let mut wanted: Vec<(TypeCode, String, Value)> = Vec::new();
        for mut resource in resources {
            let type_code = resource.get("resourceType").and_then(Value::as_str).and_then(|name| r4.type_code(name));
            let id = resource.get("id").and_then(Value::as_str).map(str::to_owned);
            let (Some(type_code), Some(id)) = (type_code, id) else { continue };
            let hash = content_hash(&resource);
            if let Some(members) = resource.as_object_mut() {
                let meta = members.entry("meta").or_insert_with(|| json!({}));
                meta["tag"] = json!([{ "system": SHIPPED, "code": hash }]);
            }
            wanted.push((type_code, id, resource));
        }
        let names: Vec<(TypeCode, String)> = wanted.iter().map(|(type_code, id, _)| (*type_code, id.clone())).collect();
        let present = self.store.read_many(&names).await?;
        let mut drafts = Vec::new();
        for (type_code, id, resource) in wanted {
            let stored = present.iter().find(|stored| stored.type_code == type_code && *stored.id == *id);
            if stored.is_none_or(|stored| is_outdated(stored, &resource)) {
                drafts.push(self.writer.draft(type_code, &id, resource));
            }
        }
        if !drafts.is_empty() {
            self.writer.put_all(drafts, &Author { scope: Scope::All, owner: 0, caller: None }).await?;
        }
        Ok(())
    }

    /// Stores what the configured packages hold; what an operator edited or deleted since is left alone. Gives the URLs of the profiles.
    async fn put_packages(&self) -> anyhow::Result<Vec<String>> {
        let mut profiles = Vec::new();
        // A package's search parameters must know the codes that are taken.
        own::refresh(&self.store, &self.writer.options().own).await.context("the search parameters could not be loaded")?;
        for path in &self.settings.packages {
            let from = path.clone();
            let read = tokio::task::spawn_blocking(move || package::read(&from)).await?;
            let resources = read.with_context(|| format!("packages: {}", path.display()))?;
            let (usable, broken): (Vec<Value>, Vec<Value>) =
                resources.into_iter().partition(|resource| !structure(resource).iter().any(|issue| issue.severity.is_error()));
            for resource in &broken {
                let url = resource.get("url").and_then(Value::as_str).unwrap_or_default();
                tracing::warn!(url, "a resource of a package is not valid FHIR R4 and was left out");
            }
            tracing::info!(path = %path.display(), resources = usable.len(), "read a package");
            let packed = usable.iter().filter(|one| one.get("resourceType").and_then(Value::as_str) == Some("StructureDefinition"));
            profiles.extend(packed.filter_map(|one| Some(one.get("url")?.as_str()?.to_owned())));
            for part in usable.chunks(LOAD_PAGE as usize) {
                let own = self.writer.options().own.load();
                let mut beside = Vec::new();
                self.put_missing(part.iter().filter(|resource| is_searchable(&own, &mut beside, resource)).cloned())
                    .await
                    .with_context(|| format!("packages: {} could not be stored", path.display()))?;
            }
        }
        Ok(profiles)
    }

    async fn load_definitions(&self, since: Option<i64>) -> anyhow::Result<()> {
        load_definitions(&self.store, &self.terminology, self.writer.validator().profiles(), since).await
    }

    /// The terminology of a database, for a command that needs nothing else.
    pub async fn terminology_of(store: &Store) -> anyhow::Result<Terminology> {
        let terminology = Terminology::new();
        load_definitions(store, &terminology, &Profiles::new(), None).await?;
        Ok(terminology)
    }
}

/// Whether this is no search parameter, or one that can be used here: not one of R4's defined again, nor one whose code another has, in
/// the store or among those `beside` it, which it joins.
fn is_searchable(own: &own::Own, beside: &mut Vec<own::Definition>, resource: &Value) -> bool {
    if resource.get("resourceType").and_then(Value::as_str) != Some("SearchParameter") {
        return true;
    }
    let why = match own::Definition::written(resource) {
        Ok(None) => return true,
        Ok(Some(definition)) => {
            let is_taken = own.taken(&definition).is_some() || beside.iter().any(|other| definition.shares_code(other).is_some());
            if !is_taken {
                beside.push(definition);
                return true;
            }
            "another search parameter has its code".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let url = resource.get("url").and_then(Value::as_str).unwrap_or_default();
    tracing::warn!(url, why, "a search parameter of a package was left out");
    false
}

/// Reads every terminology resource and profile into memory, or those that changed or were deleted since.
async fn load_definitions(store: &Store, terminology: &Terminology, profiles: &Profiles, since: Option<i64>) -> anyhow::Result<()> {
    for name in ["CodeSystem", "ValueSet", "ConceptMap", "StructureDefinition"] {
        let Some(type_code) = definitions::r4().type_code(name) else { continue };
        let mut after = (i64::MIN, 0);
        loop {
            let rows = store.changed_since(type_code, since.unwrap_or(i64::MIN), after, LOAD_PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = (last.updated, last.key);
            let (kept, gone): (Vec<&Stored>, Vec<&Stored>) = rows.iter().partition(|row| row.body.is_some());
            let read = |row: &&Stored| serde_json::from_slice::<Value>(row.body.as_ref()?).ok();
            let resources: Vec<Value> = kept.iter().filter_map(read).collect();
            // At the start nothing is there that could be gone.
            let gone = gone.into_iter().filter(|_| since.is_some());
            match Profiles::holds(name) {
                true => {
                    profiles.load(&resources);
                    gone.for_each(|row| profiles.remove(&row.id));
                }
                false => {
                    resources.iter().for_each(|resource| terminology.upsert(resource));
                    gone.for_each(|row| terminology.remove(name, &row.id));
                }
            }
        }
    }
    Ok(())
}

/// The value sets that R4 itself requires somewhere, as ValueSets that operations can be asked of. They are known and not stored.
fn required_value_sets() -> Vec<Value> {
    let concepts = |codes: &[&str]| codes.iter().map(|code| json!({ "code": code })).collect::<Vec<_>>();
    let value_set = |set: &CodeSet| {
        let groups = set.groups().iter();
        let include: Vec<Value> = groups.map(|group| json!({ "system": group.system, "concept": concepts(&group.codes) })).collect();
        let id = set.url.rsplit('/').next().unwrap_or_default();
        json!({ "resourceType": "ValueSet", "id": id, "url": set.url, "version": "4.0.1", "status": "active", "compose": { "include": include } })
    };
    definitions::r4().code_sets().iter().map(value_set).collect()
}

/// The hash of what a shipped resource says, whatever its version and tags.
fn content_hash(resource: &Value) -> String {
    let mut content = resource.clone();
    if let Some(members) = content.as_object_mut() {
        members.retain(|key, _| !matches!(key.as_str(), "meta" | "id" | "resourceType"));
    }
    blake3::hash(content.to_string().as_bytes()).to_hex().get(..32).unwrap_or_default().to_owned()
}

/// Whether `stored` is an earlier release's and nobody edited it. A deleted one stays deleted.
fn is_outdated(stored: &Stored, shipped: &Value) -> bool {
    let Some(before) = stored.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) else { return false };
    let hash_of = |resource: &Value| -> Option<String> {
        let tags = resource.pointer("/meta/tag")?.as_array()?;
        let tag = tags.iter().find(|tag| tag.get("system").and_then(Value::as_str) == Some(SHIPPED))?;
        Some(tag.get("code")?.as_str()?.to_owned())
    };
    let unedited = hash_of(&before).is_some_and(|hash| hash == content_hash(&before));
    unedited && hash_of(&before) != hash_of(shipped)
}
