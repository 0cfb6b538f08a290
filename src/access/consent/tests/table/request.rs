//! Rows about the request: when, who, to do what, what for.

use super::*;

#[test]
fn period() {
    let now = |text: &str| Requester { now: at(text), ..requester() };
    for (name, period, asked, holds) in [
        ("closed, inside", json!({"start": "2026-01-01", "end": "2026-12-31"}), now("2026-06-15"), Yes),
        ("open at the end", json!({"start": "2026-01-01"}), now("2099-01-01"), Yes),
        ("open at the start", json!({"end": "2026-12-31"}), now("1999-01-01"), Yes),
        ("in the future", json!({"start": "2027"}), now("2026-06-15"), No),
        ("over", json!({"end": "2025"}), now("2026-06-15"), No),
        ("the first instant", json!({"start": "2026-06-15"}), now("2026-06-15T00:00:00Z"), Yes),
        ("before the first instant", json!({"start": "2026-06-15"}), now("2026-06-14T23:59:59Z"), No),
        ("the last instant of its day", json!({"end": "2026-06-15"}), now("2026-06-15T23:59:59.999999Z"), Yes),
        ("after its last day", json!({"end": "2026-06-15"}), now("2026-06-16T00:00:00Z"), No),
        ("the last instant of its year", json!({"end": "2026"}), now("2026-12-31T23:59:59Z"), Yes),
        ("no date", json!({"start": "soon"}), now("2026-06-15"), Unknown),
        ("the wrong way round", json!({"start": "2027", "end": "2026"}), now("2026-06-15"), Unknown),
    ] {
        row(name, json!({"period": period}), &asked, &observation(), holds);
    }
}

#[test]
fn a_date_without_a_zone_is_read_in_the_deployments_zone() {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(3));
    let written = consent(json!({"type": "permit", "period": {"end": "2026-06-15"}}));
    let reading = Reading {
        zone: &zone,
        base: BASE,
        value_set: &|_| None,
        references_of: &|_| Vec::new(),
        called: &|_| None,
        organisation: &|names| names.into_iter().collect(),
        former: &[],
        recorded: at("2026-03-01"),
        of_age: None,
    };
    let consents = [Consent::read(&written, &reading).unwrap()];
    let outcome = |now: &str| ask(&consents, &Requester { now: at(now), ..requester() }, &observation(), &Deployment::default()).outcome;
    assert_eq!(outcome("2026-06-15T20:59:59Z"), Outcome::Permit);
    assert_eq!(outcome("2026-06-15T21:00:00Z"), Outcome::NoConsent);
}

#[test]
fn status_scope_patient_and_verification() {
    let all = |kind: &str| consent(json!({"type": kind}));
    for status in ["draft", "proposed", "rejected", "inactive", "entered-in-error", "unheard-of"] {
        for kind in ["permit", "deny"] {
            assert_eq!(outcome(&[with(all(kind), "status", json!(status))], &requester(), &observation()), Outcome::NoConsent, "{status}");
        }
    }
    assert_eq!(outcome(&[all("permit")], &requester(), &observation()), Outcome::Permit);
    assert_eq!(outcome(&[all("deny")], &requester(), &observation()), Outcome::Deny);
    let research = concept("http://terminology.hl7.org/CodeSystem/consentscope", "research");
    for void in [
        with(all("permit"), "scope", research),
        with(all("permit"), "scope", json!({"text": "patient-privacy"})),
        with(all("permit"), "patient", Value::Null),
        with(all("permit"), "verification", json!([{"verified": true}, {"verified": false}])),
    ] {
        let mut void = void;
        void.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert_eq!(outcome(&[void], &requester(), &observation()), Outcome::NoConsent);
    }
    assert_eq!(outcome(&[with(all("permit"), "verification", json!([{"verified": true}]))], &requester(), &observation()), Outcome::Permit);
}

#[test]
fn actor() {
    let recipient = concept(PARTICIPATION_TYPE, "IRCP");
    let who = |role: &Value, reference: Value| json!({"actor": [{"role": role, "reference": reference}]});
    for (name, criterion, holds) in [
        ("person", who(&recipient, json!({"reference": "Practitioner/x"})), Yes),
        ("another person", who(&recipient, json!({"reference": "Practitioner/q"})), No),
        ("organisation", who(&recipient, json!({"reference": "Organization/b"})), Yes),
        ("organisation by identifier", who(&recipient, json!({"identifier": {"system": "urn:lango:facility", "value": "B"}})), Yes),
        ("organisation by our own address", who(&recipient, json!({"reference": format!("{BASE}/Organization/b")})), Yes),
        ("another server's organisation", who(&recipient, json!({"reference": "http://elsewhere/fhir/Organization/b"})), Unknown),
        ("whom a URN means", who(&recipient, json!({"reference": "urn:uuid:7f4b4a8e-32a1-4a5e-8b7e-111111111111"})), Unknown),
        ("organisation that it is a part of", who(&recipient, json!({"reference": "Organization/district"})), Yes),
        ("part of the organisation", who(&recipient, json!({"reference": "Organization/ward"})), No),
        (
            "organisation by another of its identifiers",
            who(&recipient, json!({"identifier": {"system": "urn:mfl", "value": "88"}})),
            Unknown,
        ),
        ("an identifier of whom nobody knows", who(&recipient, json!({"identifier": {"system": "urn:mfl", "value": "77"}})), Unknown),
        ("group", who(&recipient, json!({"reference": "CareTeam/team"})), Yes),
        ("device", who(&recipient, json!({"reference": "Device/client"})), Yes),
        ("role that it has", json!({"actor": [{"role": concept(LANGO_ROLE, "clinician")}]}), Yes),
        ("role that it has not", json!({"actor": [{"role": concept(LANGO_ROLE, "reporting")}]}), No),
        ("role at the organisation", who(&concept(LANGO_ROLE, "clinician"), json!({"reference": "Organization/b"})), Yes),
        ("role at another", who(&concept(LANGO_ROLE, "clinician"), json!({"reference": "Organization/q"})), No),
        ("a role of another system", json!({"actor": [{"role": concept("urn:job", "nurse")}]}), Unknown),
        ("a role of another system here", who(&concept("urn:job", "nurse"), json!({"reference": "Organization/b"})), Unknown),
        ("a role of another system elsewhere", who(&concept("urn:job", "nurse"), json!({"reference": "Organization/q"})), No),
        ("a role that lango does not have", json!({"actor": [{"role": concept(LANGO_ROLE, "nurse")}]}), Unknown),
        ("a part that is no recipient", who(&concept(PARTICIPATION_TYPE, "CST"), json!({"reference": "Organization/b"})), Unknown),
        ("a role in words", who(&json!({"text": "doctor"}), json!({"reference": "Organization/b"})), Unknown),
        ("somebody in words", who(&recipient, json!({"display": "Dr. X"})), Unknown),
        ("nobody", json!({"actor": [{"role": recipient}]}), Unknown),
    ] {
        row(name, criterion, &requester(), &observation(), holds);
    }
    let two = json!({"actor": [{"role": recipient, "reference": {"reference": "Organization/q"}}, {"role": recipient, "reference": {"reference": "Organization/b"}}]});
    row("one of two", two, &requester(), &observation(), Yes);
}

#[test]
fn what_a_token_leaves_out_takes_nothing_from_a_deny() {
    let to = |reference: Value| json!({"actor": [{"role": concept(PARTICIPATION_TYPE, "IRCP"), "reference": reference}]});
    let somebody = Requester { people: BTreeSet::new(), aliases: [SOMEBODY.to_owned()].into(), ..requester() };
    for (reference, holds) in [("Practitioner/x", Unknown), ("Practitioner/q", Unknown), ("CareTeam/q", Unknown), ("Organization/q", No)] {
        row(reference, to(json!({"reference": reference})), &somebody, &observation(), holds);
    }
    let clerk = Requester { roles: BTreeSet::new(), unclaimed: [Coding::role("clinician")].into(), ..requester() };
    row("a role that was not claimed", json!({"actor": [{"role": concept(LANGO_ROLE, "clinician")}]}), &clerk, &observation(), Unknown);
    let known = Requester { aliases: ["urn:npi|9".to_owned()].into(), ..requester() };
    row("another identifier of theirs", to(json!({"identifier": {"system": "urn:npi", "value": "9"}})), &known, &observation(), Unknown);
}

#[test]
fn action() {
    let action = |code: &str| json!({"action": [concept(vocabulary::CONSENT_ACTION, code)]});
    for (name, criterion, holds) in [
        ("access", action("access"), Yes),
        ("correct", action("correct"), No),
        ("collect", action("collect"), No),
        ("disclose, which is near", action("disclose"), Unknown),
        ("unknown", action("dance"), Unknown),
        ("words", json!({"action": [{"text": "read"}]}), Unknown),
    ] {
        row(name, criterion, &requester(), &observation(), holds);
    }
}

#[test]
fn purpose() {
    let named = |system: &str, code: &str| json!({"purpose": [{"system": system, "code": code}]});
    let asks = |codes: &[&str]| Requester { purposes: codes.iter().map(|code| Coding::purpose(code)).collect(), ..requester() };
    for (name, criterion, asked, holds) in [
        ("the same", named(ACT_REASON, "TREAT"), asks(&["TREAT"]), Yes),
        ("by its older name", named("http://hl7.org/fhir/v3/ActReason", "TREAT"), asks(&["TREAT"]), Yes),
        ("below it", named(ACT_REASON, "TREAT"), asks(&["ETREAT"]), Yes),
        ("two below it", named(ACT_REASON, "TREAT"), asks(&["BTG"]), Yes),
        ("above it", named(ACT_REASON, "ETREAT"), asks(&["TREAT"]), No),
        ("beside it", named(ACT_REASON, "HRESCH"), asks(&["TREAT"]), No),
        ("that nobody knows", named(ACT_REASON, "ZZZ"), asks(&["ZZZ"]), Unknown),
        ("another emergency", named(ACT_REASON, "BTG"), asks(&["ETREAT"]), Unknown),
        ("break-glass", named(ACT_REASON, "BTG"), asks(&["BTG"]), Yes),
        ("of another system", named("http://example.org", "TREAT"), asks(&["TREAT"]), No),
        ("without a system", json!({"purpose": [{"code": "TREAT"}]}), asks(&["TREAT"]), Unknown),
        (
            "both of two",
            json!({"purpose": [{"system": ACT_REASON, "code": "TREAT"}, {"system": ACT_REASON, "code": "HRESCH"}]}),
            asks(&["TREAT", "HRESCH"]),
            Yes,
        ),
        ("one of two", named(ACT_REASON, "TREAT"), asks(&["TREAT", "HRESCH"]), Unknown),
    ] {
        row(name, criterion, &asked, &observation(), holds);
    }
}

#[test]
fn without_a_purpose_no_permit_applies_and_every_deny_does() {
    let silent = Requester { purposes: BTreeSet::new(), ..requester() };
    let treat = json!([{"system": ACT_REASON, "code": "TREAT"}]);
    assert_eq!(outcome(&[consent(json!({"type": "permit"}))], &silent, &observation()), Outcome::NoConsent);
    assert_eq!(outcome(&[consent(json!({"type": "permit", "purpose": treat}))], &silent, &observation()), Outcome::NoConsent);
    assert_eq!(outcome(&[consent(json!({"type": "deny", "purpose": treat}))], &silent, &observation()), Outcome::Deny);
}
