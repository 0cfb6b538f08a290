//! What the operator's tools ask: is it alive, can it work, what has it done.
//!
//! Metrics carry route templates, methods and status codes; never an id, an address or a word of a request.

use super::auth::json_body;
use crate::app::Gauges;
use crate::outbox::Pulse;
use crate::store::Store;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Upper bounds of the latency buckets in seconds.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A database that takes longer than this cannot serve.
const PING: Duration = Duration::from_secs(1);
/// An outbox looks for work every few seconds; one that is silent for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);

/// Counts requests; one per process.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: Mutex<BTreeMap<String, BTreeMap<&'static str, Route>>>,
    gauges: Gauges,
}

#[derive(Debug, Default)]
struct Route {
    by_status: BTreeMap<u16, u64>,
    /// Requests no slower than each bound of [`BUCKETS`], and slower than the bound before.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// `/livez`, `/readyz`, `/metrics`.
pub fn routes<S: Clone + Send + Sync + 'static>(metrics: Arc<Metrics>, store: Store, pulse: Pulse) -> Router<S> {
    Router::new()
        .route("/livez", get(|| async { json_body(json!({ "status": "alive" })) }))
        .route("/readyz", get(ready).with_state((store, pulse)))
        .route("/metrics", get(render).with_state(metrics))
}

/// Ready means: the database answers, its tables are this version's, and the outbox looks for work. Each is told in words.
async fn ready(State((store, pulse)): State<(Store, Pulse)>) -> Response {
    let (database, migrations) = match tokio::time::timeout(PING, asked(&store)).await {
        Ok(Ok(true)) => ("ok", "ok"),
        Ok(Ok(false)) => ("ok", "the tables are another version's: run one version of lango on this database, and restart it"),
        Ok(Err(error)) => {
            tracing::error!(%error, "not ready");
            ("the database fails: see the log", "not known")
        }
        Err(_) => ("the database does not answer within a second", "not known"),
    };
    let outbox = match pulse.silence() {
        silence if silence < SILENCE => "ok".to_owned(),
        silence => format!("it has not looked for work for {} s: deliveries wait; see the log, and restart lango", silence.as_secs()),
    };
    let is_ready = database == "ok" && migrations == "ok" && outbox == "ok";
    let (code, status) = if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, json_body(json!({ "status": status, "database": database, "migrations": migrations, "outbox": outbox }))).into_response()
}

/// Whether the tables are those that this program works with.
async fn asked(store: &Store) -> Result<bool, sqlx::Error> {
    store.ping().await?;
    store.migrated().await
}

async fn render(State(metrics): State<Arc<Metrics>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

/// Counts a request; a layer around all routes.
pub async fn measure(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let template = request.extensions().get::<MatchedPath>().cloned();
    let method = method(request.method());
    let running = metrics.gauges.request();
    let start = Instant::now();
    let response = next.run(request).await;
    drop(running);
    let template = template.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics.count(template, method, response.status().as_u16(), start.elapsed());
    response
}

/// A method's name; what a client made up is `other`, so that it cannot make up series.
fn method(method: &Method) -> &'static str {
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS]
        .iter()
        .position(|known| known == method)
        .and_then(|at| ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"].get(at).copied())
        .unwrap_or("other")
}

impl Metrics {
    pub fn new(gauges: Gauges) -> Metrics {
        Metrics { gauges, ..Metrics::default() }
    }

    fn count(&self, template: &str, method: &'static str, status: u16, took: Duration) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = match routes.get_mut(template) {
            Some(methods) => methods.entry(method).or_default(),
            None => routes.entry(template.to_owned()).or_default().entry(method).or_default(),
        };
        let seconds = took.as_secs_f64();
        *route.by_status.entry(status).or_default() += 1;
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound).and_then(|at| route.buckets.get_mut(at)) {
            *bucket += 1;
        }
        route.count += 1;
        route.seconds += seconds;
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        self.write(&mut text).ok();
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# HELP lango_build_info The running version.\n# TYPE lango_build_info gauge")?;
        writeln!(out, "lango_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "# HELP lango_http_requests_in_flight Requests being answered.\n# TYPE lango_http_requests_in_flight gauge")?;
        writeln!(out, "lango_http_requests_in_flight {}", self.gauges.in_flight())?;
        let name = "lango_audit_unpublished_events";
        writeln!(out, "# HELP {name} Recorded events that are no AuditEvents yet.\n# TYPE {name} gauge")?;
        writeln!(out, "{name} {}", self.gauges.unpublished())?;
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let series = || routes.iter().flat_map(|(route, methods)| methods.iter().map(move |(method, counts)| (route, method, counts)));
        writeln!(out, "# HELP lango_http_requests_total Requests answered.\n# TYPE lango_http_requests_total counter")?;
        for (route, method, counts) in series() {
            for (status, count) in &counts.by_status {
                writeln!(out, "lango_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}")?;
            }
        }
        let name = "lango_http_request_duration_seconds";
        writeln!(out, "# HELP {name} Time until the answer's first byte.\n# TYPE {name} histogram")?;
        for (route, method, counts) in series() {
            let labels = format!("route=\"{route}\",method=\"{method}\"");
            let mut below = 0;
            for (bound, count) in BUCKETS.iter().zip(counts.buckets) {
                below += count;
                writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
            }
            writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", counts.count)?;
            writeln!(out, "{name}_sum{{{labels}}} {}", counts.seconds)?;
            writeln!(out, "{name}_count{{{labels}}} {}", counts.count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use tower::ServiceExt;

    async fn call(metrics: &Arc<Metrics>, method: &str, path: &str) -> StatusCode {
        let app: Router = Router::new()
            .route("/fhir/{type}/{id}", get(|| async { "here" }))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(axum::middleware::from_fn_with_state(Arc::clone(metrics), measure));
        app.oneshot(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn requests_are_counted_by_route_template_and_never_by_id() {
        let metrics = Arc::new(Metrics::default());
        call(&metrics, "GET", "/fhir/Patient/secret-1").await;
        call(&metrics, "GET", "/fhir/Patient/secret-2").await;
        call(&metrics, "BREW", "/fhir/Patient/secret-3").await;
        call(&metrics, "GET", "/nowhere/secret-4").await;
        let text = metrics.render();
        assert!(text.contains("lango_http_requests_total{route=\"/fhir/{type}/{id}\",method=\"GET\",status=\"200\"} 2\n"), "{text}");
        assert!(text.contains("{route=\"/fhir/{type}/{id}\",method=\"other\",status=\"405\"} 1\n"), "{text}");
        assert!(text.contains("{route=\"unmatched\",method=\"GET\",status=\"404\"} 1\n"), "{text}");
        assert!(text.contains("lango_http_requests_in_flight 0\n"), "{text}");
        assert!(!text.contains("secret") && !text.contains("BREW"), "{text}");
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_end_at_the_count() {
        let metrics = Metrics::default();
        for millis in [0, 3, 30, 60_000] {
            metrics.count("/x", "GET", 200, Duration::from_millis(millis));
        }
        let text = metrics.render();
        let bucket = |bound: &str| {
            let line = format!("lango_http_request_duration_seconds_bucket{{route=\"/x\",method=\"GET\",le=\"{bound}\"}} ");
            text.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(["0.001", "0.005", "0.05", "10", "+Inf"].map(bucket), [1, 2, 3, 3, 4]);
    }
}
