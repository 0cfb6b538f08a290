//! `lango doctor explain "Observation?…"`: how the store answers a search.

use crate::app::App;
use crate::config::Settings;
use crate::definitions;
use crate::search::own::{self, OwnParams};
use crate::search::{self, Over, ParseOptions};
use crate::store::{Query, Scope, Store, TypeCode};
use anyhow::Context;
use jiff::tz::TimeZone;
use std::process::ExitCode;

/// What to write.
const USAGE: &str =
    "write Type?parameter=value, such as Patient?name=a, Patient/ID/Type?… or ?_type=Type,Type&…, or the URL of such a search";

/// Prints filters with the rows that their indexes give, the statement and the database's own plan, as the operator sees the data.
pub async fn run(settings: &Settings, store: &Store, text: &str) -> anyhow::Result<ExitCode> {
    let zone = TimeZone::get(&settings.zone).with_context(|| format!("zone: {} is no time zone", settings.zone))?;
    let terminology = App::terminology_of(store).await?;
    let own = OwnParams::default();
    own::refresh(store, &own).await?;
    let base_url = format!("{}/fhir", settings.public_url(settings.listen));
    let options = ParseOptions {
        strict: true,
        terminology,
        own: own.load(),
        full_text: settings.search.full_text,
        ..ParseOptions::new(base_url, zone)
    };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let (types, compartment) = searched(path, &pairs)?;
    let over = match types.as_slice() {
        [type_code] => Over::Type(*type_code),
        types => Over::Named(types),
    };
    let mut request = match search::parse_over(over, &pairs, Scope::All, &options) {
        Ok(request) => request,
        Err(issues) => {
            for issue in issues {
                say!("{}: {}", issue.expression, issue.diagnostics);
            }
            return Ok(ExitCode::from(1));
        }
    };
    if let Some((of, id)) = compartment {
        let type_code = request.query.type_code;
        let filter = search::in_compartment(of, &id, type_code).with_context(|| {
            let r4 = definitions::r4();
            format!("{} is not in the compartment of a {}", r4.type_name(type_code), r4.type_name(of))
        })?;
        request.query.filters.push(filter);
    }
    search::contained::apply(&mut request, Vec::new());
    for query in request.queries() {
        if types.len() > 1 {
            say!("--- {}", definitions::r4().type_name(query.type_code));
        }
        explain(store, query, request.count).await?;
    }
    let started = std::time::Instant::now();
    let page = store.search_any(&request.queries(), request.count, None).await?;
    let took = started.elapsed();
    say!(
        "\n{} on the first page in {:.1} ms{}",
        page.rows.len(),
        took.as_secs_f64() * 1e3,
        if page.next.is_some() { ", and more" } else { "" }
    );
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// The type and id of what defines one.
type Compartment = (TypeCode, String);

/// The types that a URL or its end searches, and what defines the compartment that it looks into.
fn searched(path: &str, pairs: &[(String, String)]) -> anyhow::Result<(Vec<TypeCode>, Option<Compartment>)> {
    let type_code = |name: &str| definitions::r4().type_code(name).with_context(|| format!("'{}': {USAGE}", search::shown(name)));
    let path = path.split_once("://").map_or(path, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path)).trim_matches('/');
    // A base URL may have a path of its own.
    let path = path.rsplit_once("fhir/").map_or(path, |(_, rest)| rest);
    let path = path.strip_suffix("_search").map_or(path, |path| path.trim_end_matches('/'));
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["" | "fhir"] => {
            let named = pairs.iter().filter(|(name, _)| name == "_type").flat_map(|(_, value)| value.split(',')).map(str::trim);
            let types = named.map(type_code).collect::<anyhow::Result<Vec<TypeCode>>>()?;
            anyhow::ensure!(!types.is_empty(), USAGE);
            Ok((types, None))
        }
        [name] => Ok((vec![type_code(name)?], None)),
        [of, id, name] => Ok((vec![type_code(name)?], Some((type_code(of)?, (*id).to_owned())))),
        _ => anyhow::bail!(USAGE),
    }
}

async fn explain(store: &Store, query: &Query, count: u32) -> anyhow::Result<()> {
    let explained = store.explain(query, count).await?;
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_as_it_stands_in_a_log() {
        let code = |name: &str| definitions::r4().type_code(name).unwrap();
        let one = |path: &str| searched(path, &[]).unwrap();
        for path in ["Patient", "/fhir/Patient", "https://hie.example.org/lango/fhir/Patient/_search", "http://127.0.0.1:80/fhir/Patient/"]
        {
            assert_eq!(one(path), (vec![code("Patient")], None), "{path}");
        }
        assert_eq!(one("Encounter/e1/Observation"), (vec![code("Observation")], Some((code("Encounter"), "e1".to_owned()))));
        let types = [("_type".to_owned(), "Patient,Observation".to_owned())];
        for path in ["", "/fhir", "http://h/fhir/"] {
            assert_eq!(searched(path, &types).unwrap().0, [code("Patient"), code("Observation")], "{path}");
        }
        for path in ["", "Patien", "Patient/a/b/c"] {
            assert!(searched(path, &[]).is_err(), "{path}");
        }
    }
}
