//! `lango reindex`: has everything that is stored indexed again, by the serving process, while it serves.

use super::Common;
use crate::app::Reindex;
use crate::definitions;
use crate::store::Unit;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct ReindexArgs {
    /// Only these resource types
    types: Vec<String>,
    /// The zone that the setting `zone` named before; dates are then moved to where it is now
    #[arg(long, value_name = "ZONE")]
    from_zone: Option<String>,
}

impl ReindexArgs {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let r4 = definitions::r4();
        if let Some(unknown) = self.types.iter().find(|name| r4.type_code(name).is_none()) {
            anyhow::bail!("{unknown} is no R4 resource type");
        }
        if let Some(zone) = self.from_zone.as_deref().filter(|zone| jiff::tz::TimeZone::get(zone).is_err()) {
            anyhow::bail!("--from-zone: {zone} is no time zone");
        }
        let (_, store) = common.open().await?;
        let types = if self.types.is_empty() { vec!["*".to_owned()] } else { self.types };
        let job = Reindex { parameter: None, types, after: 0, done: 0, unread: 0, from_zone: self.from_zone }.job(0);
        store.commit(Unit { jobs: vec![job], ..Unit::default() }).await?;
        store.close().await;
        say!("it is done while lango serve runs; lango outbox list shows how far it is");
        Ok(ExitCode::SUCCESS)
    }
}
