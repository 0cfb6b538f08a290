//! The list of settings: what `docs/configuration.md` and the environment are made from.

/// One setting of `lango.toml`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its path in the file, such as `limits.body_mb`.
    pub path: &'static str,
    /// Its default as TOML; empty: none.
    pub default: &'static str,
}

impl Key {
    /// The environment variable that sets it: `limits.body_mb` is `LANGO_LIMITS_BODY_MB`.
    pub fn variable(&self) -> String {
        format!("LANGO_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// The environment variable's text as a TOML value: as it stands where the setting is text, else parsed.
    pub(super) fn value(&self, text: &str) -> Result<toml::Value, String> {
        if self.default.is_empty() || self.default.starts_with('"') {
            return Ok(toml::Value::String(text.to_owned()));
        }
        let document: toml::Table = format!("value = {}", text.trim()).parse().map_err(|_| "not a TOML value".to_owned())?;
        document.into_iter().next().map(|(_, value)| value).ok_or_else(|| "empty".to_owned())
    }
}

/// Every setting, in the order of the documentation.
pub const KEYS: &[Key] = &[
    Key { path: "listen", default: "\"127.0.0.1:8080\"" },
    Key { path: "database", default: "\"sqlite:lango.db\"" },
    Key { path: "auth", default: "\"smart\"" },
    Key { path: "base_url", default: "" },
    Key { path: "zone", default: "\"UTC\"" },
    Key { path: "templates_dir", default: "" },
    Key { path: "strict_templates", default: "false" },
    Key { path: "update_create", default: "true" },
    Key { path: "validation", default: "\"structure\"" },
    Key { path: "packages", default: "[]" },
    Key { path: "log_format", default: "\"text\"" },
    Key { path: "operator.code", default: "\"operator\"" },
    Key { path: "operator.name", default: "\"Operator\"" },
    Key { path: "limits.body_mb", default: "64" },
    Key { path: "limits.decompressed_mb", default: "256" },
    Key { path: "limits.bodies_mb", default: "1024" },
    Key { path: "limits.bundle_entries", default: "50000" },
    Key { path: "limits.template_records", default: "50000" },
    Key { path: "limits.page_default", default: "20" },
    Key { path: "limits.page_max", default: "1000" },
    Key { path: "limits.lookups_per_client", default: "1200" },
    Key { path: "limits.lookups_per_patient", default: "120" },
    Key { path: "limits.emergencies_per_practitioner", default: "10" },
    Key { path: "limits.emergencies_per_client", default: "60" },
    Key { path: "limits.requests_per_second", default: "10000" },
    Key { path: "limits.requests_at_once", default: "256" },
    Key { path: "limits.request_s", default: "900" },
    Key { path: "limits.reads_per_patient", default: "600" },
    Key { path: "limits.patients_per_hour", default: "20000" },
    Key { path: "limits.holders_s", default: "8" },
    Key { path: "limits.holders_at_once", default: "16" },
    Key { path: "limits.holder_mb", default: "8" },
    Key { path: "limits.holder_rest_s", default: "30" },
    Key { path: "search.full_text", default: "false" },
    Key { path: "limits.delete_matches", default: "1" },
    Key { path: "systems.facility", default: "\"urn:lango:facility\"" },
    Key { path: "systems.practitioner", default: "\"urn:lango:practitioner\"" },
    Key { path: "systems.strong", default: "[\"https://lango.health/id/nida\", \"https://lango.health/id/hcr\"]" },
    Key { path: "consent.policy", default: "\"deny\"" },
    Key { path: "consent.break_glass_exempt", default: "[\"PSYTHPN\"]" },
    Key { path: "consent.break_glass_minutes", default: "5" },
    Key { path: "audit.record", default: "\"smart\"" },
    Key { path: "audit.keep_days", default: "0" },
    Key { path: "audit.checkpoint_file", default: "" },
    Key { path: "destinations", default: "[]" },
    Key { path: "notices.url", default: "" },
    Key { path: "notices.token_file", default: "" },
    Key { path: "notices.timeout_s", default: "30" },
    Key { path: "issuers", default: "[]" },
    Key { path: "holders", default: "[]" },
    Key { path: "tls.certificate", default: "" },
    Key { path: "tls.key", default: "" },
    Key { path: "tls.client_ca", default: "" },
    Key { path: "cors.origins", default: "[]" },
];
