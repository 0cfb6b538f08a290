//! Key sets of others: the registered URLs of clients, and the configured ones of outside issuers.
//!
//! A set is fetched when it is first needed, kept as long as its Cache-Control allows, and fetched again when a token names a key
//! that it lacks, though not more often than every [`BETWEEN_FETCHES`]. When the address is down the old set serves for a bounded time.
//! A client's address is outside this house: https only, no redirects, no addresses of the own network. One that the operator wrote
//! into the configuration may be anywhere.

use super::AccessError;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Url, header};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes and keys of one set: a set of ten thousand is an attack or a mistake.
const LONGEST: usize = 256 << 10;
const MOST_KEYS: usize = 100;
/// Addresses remembered; all are forgotten when there are more.
const MOST_SETS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(5);
/// However many tokens name unknown keys.
pub const BETWEEN_FETCHES: Duration = Duration::from_secs(10);
/// Without Cache-Control, and at most.
const KEPT: Duration = Duration::from_secs(300);
const KEPT_MOST: Duration = Duration::from_secs(24 * 3600);
/// How long an old set serves while its address is down.
const KEPT_WHILE_DOWN: Duration = Duration::from_secs(3600);

/// Who named an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedBy {
    Client,
    Operator,
}

/// The sets, by address.
pub(super) struct KeySets {
    /// Does not connect to addresses of the own network.
    guarded: reqwest::Client,
    trusting: reqwest::Client,
    between_fetches: Duration,
    /// lango itself is only reachable on this machine: it is being tried out.
    loopback: bool,
    sets: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Remote>>>>,
}

#[derive(Default)]
struct Remote {
    keys: Arc<[Jwk]>,
    fresh_until: Option<Instant>,
    serves_until: Option<Instant>,
    tried: Option<Instant>,
}

impl KeySets {
    /// `public_url`: where lango itself is reached.
    pub fn new(public_url: &str, between_fetches: Duration) -> Result<KeySets, AccessError> {
        let loopback = Url::parse(public_url).is_ok_and(|url| is_loopback(&url));
        let client = || {
            reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy().pool_max_idle_per_host(0)
        };
        let broken = |_| AccessError::Broken("no HTTP client for key sets can be made");
        let guarded = client().dns_resolver(Arc::new(Outside { loopback })).build().map_err(broken)?;
        Ok(KeySets { guarded, trusting: client().build().map_err(broken)?, between_fetches, loopback, sets: Mutex::default() })
    }

    /// The key of this name in the set at `url`, if `fits` and no other has the name.
    pub async fn key(&self, url: &str, named_by: NamedBy, id: &str, fits: impl Fn(&Jwk) -> bool) -> Result<Jwk, AccessError> {
        let remote = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            if sets.len() >= MOST_SETS && !sets.contains_key(url) {
                sets.clear();
            }
            Arc::clone(sets.entry(url.to_owned()).or_default())
        };
        // Held while fetching, so that a burst of tokens makes one request.
        let mut remote = remote.lock().await;
        let now = Instant::now();
        let fresh = remote.fresh_until.is_some_and(|until| now < until);
        let known = remote.find(id, &fits);
        let may_try = remote.tried.is_none_or(|tried| now.duration_since(tried) >= self.between_fetches);
        if (!fresh || known.is_none()) && may_try {
            remote.tried = Some(now);
            match self.fetch(url, named_by).await {
                Ok((keys, keep)) => {
                    remote.keys = keys.into();
                    remote.fresh_until = Some(now + keep);
                    remote.serves_until = Some(now + keep + KEPT_WHILE_DOWN);
                }
                // Neither the address nor what it said: both are an outsider's words.
                Err(reason) => tracing::warn!(reason, "a key set could not be fetched; an older one serves for a while"),
            }
        }
        if remote.serves_until.is_none_or(|until| Instant::now() >= until) {
            return Err(AccessError::Refused("a key set cannot be fetched"));
        }
        remote.find(id, &fits).ok_or(AccessError::Refused("a token names a key that its issuer does not have"))
    }

    async fn fetch(&self, url: &str, named_by: NamedBy) -> Result<(Vec<Jwk>, Duration), &'static str> {
        let parsed = Url::parse(url).map_err(|_| "the address is no URL")?;
        let client = match named_by {
            NamedBy::Operator => &self.trusting,
            NamedBy::Client => {
                check(&parsed, self.loopback)?;
                &self.guarded
            }
        };
        let answer = client.get(parsed).header(header::ACCEPT, "application/json").send().await;
        let mut answer = answer.map_err(|_| "the address does not answer")?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err("the address answers with another status than 200");
        }
        let keep = answer.headers().get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).map_or(KEPT, kept);
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| "the answer breaks off")? {
            if body.len().saturating_add(chunk.len()) > LONGEST {
                return Err("the set is too large");
            }
            body.extend_from_slice(&chunk);
        }
        Ok((keys(&body)?, keep))
    }
}

/// Whether a client may name this address. `loopback`: also one on this machine, over http too.
fn check(url: &Url, loopback: bool) -> Result<(), &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address holds a user");
    }
    if loopback && is_loopback(url) && matches!(url.scheme(), "http" | "https") {
        return Ok(());
    }
    if url.scheme() != "https" {
        return Err("the address is not https");
    }
    // A name is judged by what it resolves to; an address never reaches the resolver.
    match url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>()) {
        None => Err("the address names no host"),
        Some(Ok(ip)) if !is_outside(ip) => Err("the address is in the own network"),
        _ if is_loopback(url) => Err("the address is on this machine"),
        _ => Ok(()),
    }
}

/// The same before a client is registered with it. `public_url`: where lango itself is reached.
pub(super) fn check_address(url: &str, public_url: &str) -> Result<(), &'static str> {
    let parsed = Url::parse(url).map_err(|_| "the address is no URL")?;
    check(&parsed, Url::parse(public_url).is_ok_and(|url| is_loopback(&url)))
}

impl Remote {
    fn find(&self, id: &str, fits: impl Fn(&Jwk) -> bool) -> Option<Jwk> {
        let mut named = self.keys.iter().filter(|key| key.common.key_id.as_deref() == Some(id) && fits(key));
        let key = named.next()?;
        named.next().is_none().then(|| key.clone())
    }
}

/// The keys that can be read; those of kinds that lango does not know are other programs' business.
fn keys(body: &[u8]) -> Result<Vec<Jwk>, &'static str> {
    let set = crate::fhir::json::parse(body).map_err(|_| "the set is no JSON")?;
    let keys = set.get("keys").and_then(serde_json::Value::as_array).ok_or("the answer is no key set")?;
    if keys.len() > MOST_KEYS {
        return Err("the set has too many keys");
    }
    let keys = keys.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok()).collect();
    Ok(JwkSet { keys }.keys)
}

/// How long Cache-Control lets a set be kept.
fn kept(cache_control: &str) -> Duration {
    let mut keep = KEPT;
    for directive in cache_control.split(',').map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Duration::ZERO;
        }
        if name.eq_ignore_ascii_case("max-age")
            && let Ok(seconds) = value.trim_matches('"').parse()
        {
            keep = Duration::from_secs(seconds);
        }
    }
    keep.min(KEPT_MOST)
}

fn is_loopback(url: &Url) -> bool {
    // RFC 6761 §6.3: all names below it are this machine too.
    let Some(host) = url.host_str().map(|host| host.trim_end_matches('.')) else { return false };
    host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Resolves names to addresses outside the own network alone.
struct Outside {
    loopback: bool,
}

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        let loopback = self.loopback && name.as_str() == "localhost";
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| is_outside(address.ip()) || (loopback && address.ip().is_loopback())).collect();
            if allowed.is_empty() {
                return Err("the name leads into the own network".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public internet (RFC 6890 lists those that are not).
fn is_outside(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(ip) => {
            if let Some(inner) = ip.to_ipv4_mapped() {
                return is_outside(IpAddr::V4(inner));
            }
            // Global unicast, less 2001::/23 (special purposes), 2002::/16 (6to4, which carries any IPv4 address) and 64:ff9b::/96, which is outside it.
            let [first, second, ..] = ip.segments();
            (0x2000..0x4000).contains(&first)
                && !(first == 0x2001 && second < 0x200)
                && first != 0x2002
                && !(first == 0x2001 && second == 0xdb8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_addresses_are_outside_and_encrypted() {
        let abroad = KeySets::new("https://hie.example.org", BETWEEN_FETCHES).unwrap();
        let here = KeySets::new("http://127.0.0.1:8080", BETWEEN_FETCHES).unwrap();
        let allowed = |sets: &KeySets, url: &str| check(&Url::parse(url).unwrap(), sets.loopback).is_ok();
        assert!(allowed(&abroad, "https://keys.example.org/jwks") && allowed(&abroad, "https://1.1.1.1/jwks"));
        for url in [
            "http://keys.example.org/jwks",
            "http://127.0.0.1/jwks",
            "https://127.0.0.1/jwks",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://0.0.0.0/",
            "https://localhost./",
            "https://keys.localhost/",
            "https://user:word@keys.example.org/",
            "ftp://keys.example.org/",
            "file:///etc/passwd",
        ] {
            assert!(!allowed(&abroad, url), "{url}");
        }
        assert!(allowed(&here, "http://127.0.0.1:9/jwks") && !allowed(&here, "http://10.0.0.1/jwks"));
        assert!(!allowed(&here, "file://localhost/etc/passwd") && !allowed(&abroad, "https://localhost/jwks"));
        assert!(check_address("https://keys.example.org/jwks", "http://127.0.0.1:8080").is_ok());
        assert!(check_address("http://127.0.0.1:9/jwks", "https://hie.example.org").is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_into_the_own_network_is_not_resolved() {
        let name = || "localhost".parse::<Name>().unwrap();
        assert!(Outside { loopback: false }.resolve(name()).await.is_err());
        assert!(Outside { loopback: true }.resolve(name()).await.is_ok());
    }

    #[test]
    fn cache_control_is_kept_to() {
        for (text, seconds) in [
            ("max-age=60", 60),
            ("public, max-age=60", 60),
            ("no-store", 0),
            ("max-age=60, no-cache", 0),
            ("max-age=99999999", 86_400),
            ("x", 300),
        ] {
            assert_eq!(kept(text).as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn a_set_of_ten_thousand_keys_is_not_read() {
        let key = r#"{"kty":"EC","crv":"P-384","kid":"a","x":"AA","y":"AA"}"#;
        let of = |count: usize| format!(r#"{{"keys":[{}]}}"#, vec![key; count].join(","));
        assert_eq!(keys(of(2).as_bytes()).map(|keys| keys.len()), Ok(2));
        assert!(keys(of(10_000).as_bytes()).is_err());
        assert!(keys(b"{}").is_err() && keys(b"x").is_err());
        let odd = r#"{"keys":[{"kty":"ODD"},{"kty":"EC","crv":"P-384","kid":"a","x":"AA","y":"AA"}]}"#;
        let named = keys(odd.as_bytes()).map(|keys| keys.iter().filter(|key| key.common.key_id.is_some()).count());
        assert_eq!(named, Ok(1), "an unknown kind does not spoil the others");
    }
}
