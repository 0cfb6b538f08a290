//! `lango doctor explain "Observation?…"`: how the store answers a search.

use crate::app::App;
use crate::config::Settings;
use crate::definitions;
use crate::search::{self, ParseOptions};
use crate::store::{Scope, Store};
use anyhow::Context;
use jiff::tz::TimeZone;
use std::process::ExitCode;

/// Prints filters with the rows that their indexes give, the statement and the database's own plan, as the operator sees the data.
pub async fn run(settings: &Settings, store: &Store, text: &str) -> anyhow::Result<ExitCode> {
    let (type_name, query) = text.split_once('?').unwrap_or((text, ""));
    let type_code = definitions::r4().type_code(type_name).with_context(|| "write Type?parameter=value, such as Patient?name=a")?;
    let zone = TimeZone::get(&settings.zone).with_context(|| format!("zone: {} is no time zone", settings.zone))?;
    let terminology = App::terminology_of(store).await?;
    let base_url = format!("{}/fhir", settings.base_url.as_deref().unwrap_or("http://localhost"));
    let options = ParseOptions { strict: true, terminology, full_text: settings.search.full_text, ..ParseOptions::new(base_url, zone) };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let request = match search::parse(type_code, &pairs, Scope::All, &options) {
        Ok(mut request) => {
            search::contained::apply(&mut request, Vec::new());
            request
        }
        Err(issues) => {
            for issue in issues {
                say!("{}: {}", issue.expression, issue.diagnostics);
            }
            return Ok(ExitCode::from(1));
        }
    };
    let explained = store.explain(&request.query, request.count).await?;
    let started = std::time::Instant::now();
    let page = store.search(&request.query, request.count, None).await?;
    let took = started.elapsed();
    for (place, rows) in explained.filters.iter().enumerate() {
        let role = if explained.driver == Some(place) { "drives" } else { "is probed for each row" };
        match rows {
            Some(rows) if *rows >= explained.counted => say!("filter {}: {role}; {rows} rows or more", place + 1),
            Some(rows) => say!("filter {}: {role}; {rows} rows", place + 1),
            None => say!("filter {}: {role}; not counted", place + 1),
        }
    }
    if explained.driver.is_none() {
        say!("all resources of the type are read in order");
    }
    say!("\n{}\n", explained.statement);
    for line in &explained.plan {
        say!("    {line}");
    }
    say!(
        "\n{} on the first page in {:.1} ms{}",
        page.rows.len(),
        took.as_secs_f64() * 1e3,
        if page.next.is_some() { ", and more" } else { "" }
    );
    store.close().await;
    Ok(ExitCode::SUCCESS)
}
