//! Rows where no Consent decides alone: emergencies, the deployment's policy, obligations; and the example of the documentation.

use super::*;

#[test]
fn break_glass() {
    let deny = [read(&consent(json!({"type": "deny"})))];
    let until = at("2026-06-15T00:15:00Z");
    let broken = Requester { purposes: [Coding::purpose("BTG")].into(), break_glass_until: Some(until), ..requester() };
    let deployment = Deployment { break_glass_exempt: [Coding::sensitivity("PSY")].into(), ..Deployment::default() };
    let verdict = ask(&deny, &broken, &observation(), &deployment);
    assert!(verdict.released && verdict.break_glass);
    assert_eq!(verdict.obligations, [Obligation::NotifyPatient, Obligation::Review].into());
    assert!(ask(&[], &broken, &observation(), &deployment).released, "no consent");
    for (why, closed) in [
        ("it ended", Requester { now: until, ..broken.clone() }),
        ("not granted", Requester { break_glass_until: None, ..broken.clone() }),
        ("it writes", Requester { action: Action::Correct, ..broken.clone() }),
        ("another purpose too", Requester { purposes: [Coding::purpose("BTG"), Coding::purpose("HRESCH")].into(), ..broken.clone() }),
        ("no emergency", Requester { purposes: [Coding::purpose("TREAT")].into(), ..broken.clone() }),
    ] {
        assert!(!ask(&deny, &closed, &observation(), &deployment).released, "{why}");
    }
    assert!(!ask(&deny, &broken, &labelled(&[(ACT_CODE, "PSY")]), &deployment).released, "an exempt label");
    let refused = [read(&consent(json!({"type": "deny", "purpose": [{"system": ACT_REASON, "code": "BTG"}]})))];
    assert!(!ask(&refused, &broken, &observation(), &deployment).released, "the patient refused it");
}

#[test]
fn the_deployments_policy_holds_where_no_consent_speaks() {
    let restricted = labelled(&[(CONFIDENTIALITY, "R")]);
    let clerk = Requester { roles: BTreeSet::new(), ..requester() };
    let research = Requester { purposes: [Coding::purpose("HRESCH")].into(), ..requester() };
    for (policy, expected) in [
        (ImplicitPolicy::BasicNormal, [true, false, false, false]),
        (ImplicitPolicy::AllNormal, [true, false, true, true]),
        (ImplicitPolicy::BreakGlassOnly, [false; 4]),
        (ImplicitPolicy::Deny, [false; 4]),
    ] {
        let deployment = Deployment { implicit: policy, ..Deployment::default() };
        let asked = [
            (requester(), observation()),
            (requester(), restricted.clone()),
            (clerk.clone(), observation()),
            (research.clone(), observation()),
        ];
        let released = asked.map(|(requester, resource)| {
            let verdict = ask(&[], &requester, &resource, &deployment);
            assert_eq!(verdict.outcome, Outcome::NoConsent);
            verdict.released
        });
        assert_eq!(released, expected, "{policy:?}");
        let denied = ask(&[read(&consent(json!({"type": "deny"})))], &requester(), &observation(), &deployment);
        assert!(!denied.released, "a consent comes before the policy");
    }
}

#[test]
fn caveats_go_with_what_is_released() {
    let caveat = labelled(&[(ACT_CODE, "NORDSCLCD")]);
    let verdict = ask(&[read(&consent(json!({"type": "permit"})))], &requester(), &caveat, &Deployment::default());
    assert_eq!(verdict.obligations, [Obligation::Handling(Coding::sensitivity("NORDSCLCD"))].into());
}

/// `docs/access.md` tells of Asha; what it says is what is decided.
#[test]
fn the_worked_example_of_the_documentation_is_true() {
    let page = include_str!("../../../../../docs/access.md");
    let block: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("    { \"resourceType\": \"Consent\""))
        .take_while(|line| line.starts_with("    "))
        .collect();
    let asha: Value = serde_json::from_str(&block.join("\n")).unwrap();
    let asks = |organisations: &[&str], purposes: &[&str], now: &str| Requester {
        organisations: organisations.iter().map(|name| (*name).to_owned()).collect(),
        purposes: purposes.iter().map(|code| Coding::purpose(code)).collect(),
        ..Requester::unknown(at(now))
    };
    let (centre, mnazi) = (["Organization/centre", "Organization/district"], ["urn:lango:facility|mnazi", "Organization/district"]);
    let viral_load = labelled(&[(ACT_CODE, "HIV"), (CONFIDENTIALITY, "R")]);
    for (requester, malaria, hiv) in [
        (asks(&centre, &["TREAT"], "2026-06-15"), true, false),
        (asks(&mnazi, &["TREAT"], "2026-06-15"), true, true),
        (asks(&mnazi, &["ETREAT"], "2026-06-15"), true, true),
        (asks(&mnazi, &["HRESCH"], "2026-06-15"), false, false),
        (asks(&mnazi, &["TREAT", "HRESCH"], "2026-06-15"), false, false),
        (asks(&["Organization/elsewhere"], &["TREAT"], "2026-06-15"), false, false),
        (asks(&mnazi, &["TREAT"], "2026-12-31T23:59:59Z"), true, true),
        (asks(&mnazi, &["TREAT"], "2027-01-01"), false, false),
    ] {
        let released = |resource: &Value| ask(&[read(&asha)], &requester, resource, &Deployment::default()).released;
        assert_eq!((released(&observation()), released(&viral_load)), (malaria, hiv), "{requester:?}");
    }
}
