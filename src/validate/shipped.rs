//! The profiles that lango ships, compiled into the program.

use super::Profile;
use std::sync::LazyLock;

const SOURCES: [&str; 3] = [
    include_str!("../../profiles/lango-patient.json"),
    include_str!("../../profiles/lango-encounter.json"),
    include_str!("../../profiles/lango-observation.json"),
];

static SHIPPED: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let read = |source: &&str| {
        let definition = serde_json::from_str(source).expect("a shipped profile is no JSON");
        Profile::from_structure_definition(&definition).expect("a shipped profile cannot be read")
    };
    SOURCES.iter().map(read).collect()
});

/// The profiles that canonical Patients, Encounters and Observations claim in `meta.profile`.
pub fn shipped_profiles() -> &'static [Profile] {
    &SHIPPED
}

/// The shipped profile with this canonical URL, `|version` allowed.
pub fn shipped_profile(url: &str) -> Option<&'static Profile> {
    let url = url.split('|').next().unwrap_or(url);
    shipped_profiles().iter().find(|profile| profile.url() == url)
}
