//! The words of a consent that stand in an order: purposes of use, confidentiality, sensitivity.
//!
//! Purposes: HL7 v3 ActReason, the branch PurposeOfUse (<https://terminology.hl7.org/CodeSystem-v3-ActReason.html>, 4.0.0). Labels: the HL7
//! Healthcare Privacy and Security Classification System and v3 Confidentiality, ActCode
//! (<https://hl7.org/fhir/R4/security-labels.html#hcs>). The tables are short on purpose: a code that is not in them matches itself alone.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
pub const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
pub const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";
pub const PARTICIPATION_TYPE: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
pub const CONSENT_ACTION: &str = "http://terminology.hl7.org/CodeSystem/consentaction";
/// lango's own roles, those that a client is registered with, as codings.
pub const LANGO_ROLE: &str = "https://lango.health/fhir/CodeSystem/role";

/// A code of a system; the system is empty where none was said, and then matches only where none was said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Coding {
    pub system: String,
    pub code: String,
}

impl Coding {
    /// A coding; HL7 v3 systems by their older names get today's.
    pub fn new(system: &str, code: &str) -> Coding {
        let system = match system {
            "urn:oid:2.16.840.1.113883.5.8" => ACT_REASON.to_owned(),
            "urn:oid:2.16.840.1.113883.5.4" => ACT_CODE.to_owned(),
            "urn:oid:2.16.840.1.113883.5.25" => CONFIDENTIALITY.to_owned(),
            "urn:oid:2.16.840.1.113883.5.90" => PARTICIPATION_TYPE.to_owned(),
            other => match other.strip_prefix("http://hl7.org/fhir/v3/") {
                Some(name) => format!("http://terminology.hl7.org/CodeSystem/v3-{name}"),
                None => other.to_owned(),
            },
        };
        Coding { system, code: code.to_owned() }
    }

    pub fn purpose(code: &str) -> Coding {
        Coding::new(ACT_REASON, code)
    }

    pub fn confidentiality(code: &str) -> Coding {
        Coding::new(CONFIDENTIALITY, code)
    }

    pub fn sensitivity(code: &str) -> Coding {
        Coding::new(ACT_CODE, code)
    }

    /// A role as it stands at a registered client.
    pub fn role(code: &str) -> Coding {
        Coding::new(LANGO_ROLE, code)
    }
}

/// Child, parent.
const PURPOSES: &[(&str, &str)] = &[
    ("TREAT", "PurposeOfUse"),
    ("CLINTRL", "TREAT"),
    ("COC", "TREAT"),
    ("ETREAT", "TREAT"),
    ("BTG", "ETREAT"),
    ("ERTREAT", "ETREAT"),
    ("POPHLTH", "TREAT"),
    ("TREATDS", "TREAT"),
    ("HMARKT", "PurposeOfUse"),
    ("HOPERAT", "PurposeOfUse"),
    ("CAREMGT", "HOPERAT"),
    ("DONAT", "HOPERAT"),
    ("FRAUD", "HOPERAT"),
    ("GOV", "HOPERAT"),
    ("HACCRED", "HOPERAT"),
    ("HCOMPL", "HOPERAT"),
    ("HDECD", "HOPERAT"),
    ("HDIRECT", "HOPERAT"),
    ("HDM", "HOPERAT"),
    ("HLEGAL", "HOPERAT"),
    ("HOUTCOMS", "HOPERAT"),
    ("HPRGRP", "HOPERAT"),
    ("HQUALIMP", "HOPERAT"),
    ("HSYSADMIN", "HOPERAT"),
    ("MEMADMIN", "HOPERAT"),
    ("MILCDM", "HOPERAT"),
    ("MLTRAINING", "HOPERAT"),
    ("PATADMIN", "HOPERAT"),
    ("PATSFTY", "HOPERAT"),
    ("PERFMSR", "HOPERAT"),
    ("RECORDMGT", "HOPERAT"),
    ("SYSDEV", "HOPERAT"),
    ("HTEST", "SYSDEV"),
    ("TRAIN", "HOPERAT"),
    ("HPAYMT", "PurposeOfUse"),
    ("CLMATTCH", "HPAYMT"),
    ("COVAUTH", "HPAYMT"),
    ("COVERAGE", "HPAYMT"),
    ("ELIGDTRM", "COVERAGE"),
    ("ELIGVER", "COVERAGE"),
    ("ENROLLM", "COVERAGE"),
    ("MILDCRG", "COVERAGE"),
    ("REMITADV", "HPAYMT"),
    ("PMTDS", "HPAYMT"),
    ("HRESCH", "PurposeOfUse"),
    ("BIORCH", "HRESCH"),
    ("CLINTRCH", "HRESCH"),
    ("CLINTRCHNPC", "CLINTRCH"),
    ("CLINTRCHPC", "CLINTRCH"),
    ("PRECLINTRCH", "CLINTRCH"),
    ("DSRCH", "HRESCH"),
    ("POARCH", "HRESCH"),
    ("TRANSRCH", "HRESCH"),
    ("PATRQT", "PurposeOfUse"),
    ("FAMRQT", "PATRQT"),
    ("PWATRNY", "PATRQT"),
    ("SUPNWK", "PATRQT"),
    ("PUBHLTH", "PurposeOfUse"),
    ("DISASTER", "PUBHLTH"),
    ("THREAT", "PUBHLTH"),
];

/// Child, parent; IHE PCF puts alcohol and opioids under `ETH` too.
const SENSITIVITIES: &[(&str, &str)] = &[
    ("ETHUD", "ETH"),
    ("OPIOIDUD", "ETH"),
    ("ETHUD", "SUD"),
    ("OPIOIDUD", "SUD"),
    ("SUD", "BH"),
    ("COGN", "BH"),
    ("DVD", "BH"),
    ("EMOTDIS", "BH"),
    ("MH", "BH"),
    ("PSY", "BH"),
    ("PSYTHPN", "BH"),
];

/// Codes that say what the data is about; one of them alone already means restricted.
const SENSITIVE: &[&str] = &[
    "BH", "COGN", "DIA", "DVD", "EMOTDIS", "ETH", "ETHUD", "GDIS", "HIV", "MH", "MST", "OPIOIDUD", "PREGNANT", "PSY", "PSYTHPN", "SCA",
    "SDV", "SEX", "SICKLE", "SPI", "STD", "SUD", "TBOO", "VIO",
];

/// From the least to the most confidential.
const CONFIDENTIALITIES: [&str; 6] = ["U", "L", "M", "N", "R", "V"];

/// How confidential data is; unlabelled data is [`Confidentiality::NORMAL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confidentiality(usize);

impl Confidentiality {
    pub const NORMAL: Confidentiality = Confidentiality(3);
    pub const RESTRICTED: Confidentiality = Confidentiality(4);

    /// `None` for a coding of another system, or a code that is none of U, L, M, N, R, V.
    pub fn of(label: &Coding) -> Option<Confidentiality> {
        let known = (label.system == CONFIDENTIALITY).then(|| CONFIDENTIALITIES.iter().position(|code| *code == label.code));
        known.flatten().map(Confidentiality)
    }

    pub fn code(self) -> &'static str {
        CONFIDENTIALITIES.get(self.0).copied().unwrap_or("V")
    }

    /// This and everything less confidential.
    pub fn and_below(self) -> impl Iterator<Item = Confidentiality> {
        (0..=self.0).map(Confidentiality)
    }

    /// This and everything more confidential.
    pub fn and_above(self) -> impl Iterator<Item = Confidentiality> {
        (self.0..CONFIDENTIALITIES.len()).map(Confidentiality)
    }
}

/// Whether it is known what a label says, or at least that it says nothing of how confidential the data is: HL7's labels and lango's own.
pub fn is_understood(label: &Coding) -> bool {
    const KNOWN: [&str; 3] = ["http://terminology.hl7.org/", "http://hl7.org/fhir/", "https://lango.health/"];
    !label.code.is_empty() && KNOWN.iter().any(|base| label.system.starts_with(base))
}

/// The confidentiality of data with these labels: the highest that is said; a sensitivity alone means restricted; otherwise normal.
/// A label that cannot be read counts as the highest.
pub fn confidentiality(labels: &BTreeSet<Coding>) -> Confidentiality {
    let said = labels.iter().filter(|label| label.system == CONFIDENTIALITY || !is_understood(label));
    let highest = said.map(|label| Confidentiality::of(label).unwrap_or(Confidentiality(CONFIDENTIALITIES.len() - 1))).max();
    let sensitive = labels.iter().any(is_sensitivity).then_some(Confidentiality::RESTRICTED);
    highest.max(sensitive).unwrap_or(Confidentiality::NORMAL)
}

/// The labels that are known: sensitivities, and all levels.
pub fn labels() -> impl Iterator<Item = Coding> {
    let sensitivities = SENSITIVE.iter().chain(SENSITIVITIES.iter().map(|(child, _)| child)).map(|code| Coding::sensitivity(code));
    sensitivities.chain(CONFIDENTIALITIES.iter().map(|code| Coding::confidentiality(code)))
}

pub fn is_sensitivity(label: &Coding) -> bool {
    label.system == ACT_CODE && SENSITIVE.contains(&label.code.as_str())
}

/// `purpose` and every purpose above it.
fn with_ancestors(table: &'static [(&str, &str)], code: &str) -> Vec<String> {
    let mut found = vec![code.to_owned()];
    let mut at = 0;
    while let Some(child) = found.get(at).cloned() {
        for (_, parent) in table.iter().filter(|(one, _)| *one == child) {
            if !found.iter().any(|known| known == parent) {
                found.push((*parent).to_owned());
            }
        }
        at += 1;
    }
    found
}

/// The purpose and every purpose that it is a kind of.
pub fn purpose_and_above(purpose: &Coding) -> Vec<Coding> {
    if purpose.system != ACT_REASON {
        return vec![purpose.clone()];
    }
    with_ancestors(PURPOSES, &purpose.code).iter().map(|code| Coding::purpose(code)).collect()
}

/// Whether a rule that names `named` speaks of data asked for with `asked`: the same purpose or one below it.
pub fn purpose_covers(named: &Coding, asked: &Coding) -> bool {
    let system = named.system == asked.system;
    system && (named.code == asked.code || named.system == ACT_REASON && with_ancestors(PURPOSES, &asked.code).contains(&named.code))
}

/// Whether it is known what the purpose is: codes of ActReason that are no purpose of use, or misspelt, are not.
pub fn is_known_purpose(purpose: &Coding) -> bool {
    purpose.system != ACT_REASON || purpose.code == "PurposeOfUse" || PURPOSES.iter().any(|(code, _)| *code == purpose.code)
}

/// Whether it is a role of lango's own, of which it knows who holds it.
pub fn is_known_role(role: &Coding) -> bool {
    role.system == LANGO_ROLE && role.code.parse::<crate::access::Role>().is_ok()
}

/// Emergency treatment and what stands below it, break-glass above all.
pub fn is_emergency(purpose: &Coding) -> bool {
    purpose_covers(&Coding::purpose("ETREAT"), purpose)
}

/// The sensitivity `label` and every one below it; a label of another kind alone.
pub fn label_and_below(label: &Coding) -> BTreeSet<Coding> {
    let mut found = BTreeSet::from([label.clone()]);
    if label.system == ACT_CODE {
        let below = SENSITIVITIES.iter().filter(|(child, _)| with_ancestors(SENSITIVITIES, child).contains(&label.code));
        found.extend(below.map(|(child, _)| Coding::sensitivity(child)));
    }
    found
}
