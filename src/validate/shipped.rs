//! The profiles that lango ships, compiled into the program.

use super::Profile;
use serde_json::Value;
use std::sync::LazyLock;

const SOURCES: [&str; 3] = [
    include_str!("../../profiles/lango-patient.json"),
    include_str!("../../profiles/lango-encounter.json"),
    include_str!("../../profiles/lango-observation.json"),
];

/// The StructureDefinitions of the shipped profiles, as resources to be stored and served.
pub fn shipped_profiles() -> Vec<Value> {
    SOURCES.iter().map(|source| serde_json::from_str(source).expect("a shipped profile is no JSON")).collect()
}

/// The profiles that canonical Patients, Encounters and Observations claim in `meta.profile`, ready for [`super::profile`].
pub fn canonical_profiles() -> &'static [Profile] {
    static PROFILES: LazyLock<Vec<Profile>> = LazyLock::new(|| {
        let read = |definition: &Value| Profile::from_structure_definition(definition).expect("a shipped profile cannot be read");
        shipped_profiles().iter().map(read).collect()
    });
    &PROFILES
}

/// The shipped profile with this canonical URL, `|version` allowed.
pub fn canonical_profile(url: &str) -> Option<&'static Profile> {
    let url = url.split('|').next().unwrap_or(url);
    canonical_profiles().iter().find(|profile| profile.url() == url)
}
