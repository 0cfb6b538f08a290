//! Rows about rules and Consents side by side and inside one another.

use super::*;

#[test]
fn what_is_not_understood() {
    let modifier = json!([{"url": "http://example.org/not", "valueBoolean": true}]);
    row("modifierExtension", json!({"modifierExtension": modifier}), &requester(), &observation(), Unknown);
    row("an element of another release", json!({"expression": {"language": "text/cql"}}), &requester(), &observation(), Unknown);
    row("an element of another form", json!({"purpose": "TREAT"}), &requester(), &observation(), Unknown);
    row("an empty list", json!({"purpose": []}), &requester(), &observation(), Unknown);
    row("an extension changes nothing", json!({"extension": [{"url": "http://example.org/note"}]}), &requester(), &observation(), Yes);
    let changed = json!({"actor": [{"modifierExtension": modifier, "role": concept(PARTICIPATION_TYPE, "IRCP"), "reference": {"reference": "Organization/b"}}]});
    row("modifierExtension of an actor", changed, &requester(), &observation(), Unknown);
    let whole = |kind: &str| with(consent(json!({"type": kind})), "modifierExtension", modifier.clone());
    assert_eq!(outcome(&[whole("permit")], &requester(), &observation()), Outcome::NoConsent);
    assert_eq!(outcome(&[whole("deny")], &requester(), &observation()), Outcome::Deny);
    // An exception that does not say what it is closes.
    assert_eq!(
        outcome(&[consent(json!({"type": "permit", "provision": [{"class": [{"code": "Observation"}]}]}))], &requester(), &observation()),
        Outcome::Deny
    );
    // Nothing says what the rules are exceptions to: only what they permit is open.
    let exceptions = |kind: &str| consent(json!({"provision": [{"type": kind, "class": [{"code": "Condition"}]}]}));
    assert_eq!(outcome(&[exceptions("deny")], &requester(), &observation()), Outcome::Deny);
    assert_eq!(outcome(&[exceptions("permit")], &requester(), &json!({"resourceType": "Condition"})), Outcome::Permit);
    assert_eq!(outcome(&[consent(json!({}))], &requester(), &observation()), Outcome::NoConsent);
}

#[test]
fn several_consents() {
    let (permit, deny) = (consent(json!({"type": "permit"})), consent(json!({"type": "deny"})));
    let second = |one: &Value| with(with(one.clone(), "id", json!("d")), "dateTime", json!("2025-01-01"));
    assert_eq!(outcome(&[permit.clone(), second(&permit)], &requester(), &observation()), Outcome::Permit);
    assert_eq!(outcome(&[permit.clone(), second(&deny)], &requester(), &observation()), Outcome::Deny);
    assert_eq!(outcome(&[deny.clone(), second(&permit)], &requester(), &observation()), Outcome::Deny, "of another policy");

    let under = |one: &Value| {
        with(
            with(one.clone(), "organization", json!([{"reference": "Organization/o"}])),
            "policy",
            json!([{"uri": "http://example.org/policy"}]),
        )
    };
    let (permit, deny) = (under(&permit), under(&deny));
    assert_eq!(outcome(&[deny.clone(), second(&permit)], &requester(), &observation()), Outcome::Permit, "the newer replaces");
    assert_eq!(outcome(&[permit.clone(), second(&deny)], &requester(), &observation()), Outcome::Deny, "the newer replaces");
    let by_identifier = with(second(&deny), "organization", json!([{"identifier": {"system": "urn:mfl", "value": "o"}}]));
    assert_eq!(outcome(&[permit.clone(), by_identifier], &requester(), &observation()), Outcome::Deny, "the same, written another way");
    // The dates do not tell which is newer: it is what was stored later.
    let on = |one: &Value, date: &str, stored: &str| {
        with(
            with(with(one.clone(), "id", json!(stored)), "dateTime", json!(date)),
            "meta",
            json!({"versionId": "1", "lastUpdated": stored}),
        )
    };
    for (first, later) in [("2026-01-15", "2026-01"), ("2026-01", "2026-01-15"), ("2026-01-15", "2026-01-15")] {
        let narrowed = [on(&permit, first, "2026-03-01T00:00:00Z"), on(&deny, later, "2026-03-02T00:00:00Z")];
        assert_eq!(outcome(&narrowed, &requester(), &observation()), Outcome::Deny, "{first}, then {later}");
    }
    let never = with(second(&deny), "status", json!("inactive"));
    assert_eq!(outcome(&[permit.clone(), never], &requester(), &observation()), Outcome::Permit, "it never was in force");
    let mistaken = with(second(&deny), "status", json!("entered-in-error"));
    assert_eq!(outcome(&[permit.clone(), mistaken], &requester(), &observation()), Outcome::Permit, "a mistake never replaced anything");
    let other = with(second(&permit), "policy", json!([{"uri": "http://example.org/other"}]));
    assert_eq!(outcome(&[deny.clone(), other.clone()], &requester(), &observation()), Outcome::Deny, "of another policy");
    // However the newer one ends, what it replaced stays replaced, and what it moved away from too.
    let narrow = second(&deny);
    let stood = read(&narrow).places;
    for ended in [
        with(narrow.clone(), "status", json!("rejected")),
        with(narrow.clone(), "status", json!("draft")),
        with(narrow.clone(), "verification", json!([{"verified": false}])),
        with(narrow.clone(), "patient", json!({"reference": "Patient/q"})),
        with(narrow.clone(), "policy", json!([{"uri": "http://example.org/other"}])),
    ] {
        let consents = [read(&permit), read_after(&ended, None, &stood)];
        let elsewhere: Vec<Consent> = in_force(&consents).into_iter().map(|consent| consent.into_owned()).collect();
        assert!(elsewhere.iter().all(|consent| consent.version.id != "c"), "{ended}");
    }
    let consents = [read(&permit), read_after(&with(narrow, "status", json!("entered-in-error")), None, &stood)];
    assert_eq!(in_force(&consents).len(), 1, "a mistake never replaced anything");
    // One of several policies or organisations in common: the newer takes away what the older permits, and not what it denies.
    let several = json!([{"uri": "http://example.org/policy"}, {"uri": "http://example.org/other"}]);
    let wide = |one: &Value| with(one.clone(), "policy", several.clone());
    assert_eq!(outcome(&[wide(&permit), second(&deny)], &requester(), &observation()), Outcome::Deny);
    let narrower = with(second(&permit), "provision", json!({"type": "permit", "class": [{"code": "Condition"}]}));
    assert_eq!(outcome(&[wide(&permit), narrower.clone()], &requester(), &observation()), Outcome::NoConsent, "the newer narrows");
    assert_eq!(outcome(&[wide(&deny), second(&permit)], &requester(), &observation()), Outcome::Deny, "and opens nothing");
    assert_eq!(outcome(&[deny, wide(&second(&permit))], &requester(), &observation()), Outcome::Permit, "it is under all of the older's");
}

#[test]
fn the_consents_used_are_named_with_their_versions() {
    let permit = read(&consent(json!({"type": "permit"})));
    let deny = read(&with(consent(json!({"type": "deny", "class": [{"code": "Condition"}]})), "id", json!("d")));
    let verdict = ask(&[permit.clone(), deny.clone()], &requester(), &observation(), &Deployment::default());
    assert_eq!(verdict.consents, [permit.version.clone()].into());
    let verdict = ask(&[permit, deny.clone()], &requester(), &json!({"resourceType": "Condition"}), &Deployment::default());
    assert_eq!(verdict.consents, [deny.version].into());
}

#[test]
fn policy_rule() {
    let rule = |code: &str, provision: Value| with(consent(provision), "policyRule", concept(ACT_CODE, code));
    let without = |mut one: Value| {
        one.as_object_mut().unwrap().remove("provision");
        one
    };
    for (code, said) in [("OPTIN", Outcome::Permit), ("OPTOUT", Outcome::Deny)] {
        assert_eq!(outcome(&[rule(code, json!({}))], &requester(), &observation()), said, "an empty provision");
        assert_eq!(outcome(&[without(rule(code, json!({})))], &requester(), &observation()), said, "no provision");
    }
    assert_eq!(outcome(&[rule("OPTIN", json!({"period": {"end": "2025"}}))], &requester(), &observation()), Outcome::NoConsent, "it ended");
    // Exceptions to the policy.
    let here = json!({"provision": [{"type": "deny", "class": [{"code": "Observation"}]}]});
    assert_eq!(outcome(&[rule("OPTIN", here)], &requester(), &observation()), Outcome::Deny);
    // The default is for what no rule speaks of.
    let elsewhere = json!({"type": "permit", "class": [{"code": "Condition"}]});
    assert_eq!(outcome(&[rule("OPTOUT", elsewhere.clone())], &requester(), &observation()), Outcome::Deny);
    assert_eq!(outcome(&[rule("OPTOUT", elsewhere)], &requester(), &json!({"resourceType": "Condition"})), Outcome::Permit);
    let permit = with(consent(json!({"type": "permit"})), "id", json!("d"));
    assert_eq!(outcome(&[rule("OPTOUT", json!({})), permit], &requester(), &observation()), Outcome::Permit, "a rule before a default");
}

#[test]
fn nesting() {
    let at = |kind: &str, inner: Vec<Value>| json!({"type": kind, "class": [{"code": "Observation"}], "provision": inner});
    let mut tree = at("permit", Vec::new());
    for (depth, kind) in ["deny", "permit", "deny", "permit"].into_iter().enumerate() {
        tree = at(kind, vec![tree]);
        assert_eq!(outcome(&[consent(tree.clone())], &requester(), &observation()), Outcome::Permit, "the deepest wins, depth {depth}");
    }
    let two = json!({"type": "permit", "provision": [at("permit", Vec::new()), at("deny", Vec::new())]});
    assert_eq!(outcome(&[consent(two)], &requester(), &observation()), Outcome::Deny, "of siblings a deny wins");
    let wider = json!({"type": "deny", "class": [{"code": "Condition"}], "provision": [{"type": "permit"}]});
    assert_eq!(outcome(&[consent(wider)], &requester(), &observation()), Outcome::NoConsent, "an exception only narrows");
}

#[test]
fn what_a_permit_below_two_denies_releases_might_be_released() {
    let permit = json!({"type": "permit"});
    let deny = json!({"type": "deny", "code": [concept(LOINC, "1-1")], "provision": [permit]});
    let consents = [read(&consent(json!({"type": "deny", "provision": [deny]})))];
    let requester = requester();
    assert!(ask(&consents, &requester, &observation(), &Deployment::default()).released);
    assert!(might_release(&consents, &requester, "Observation", &BTreeSet::new(), &Deployment::default()));
}

#[test]
fn merged_patients_are_under_both_their_consents() {
    let mine = consent(json!({"type": "permit"}));
    let theirs = with(with(consent(json!({"type": "deny"})), "patient", json!({"reference": "Patient/q"})), "id", json!("d"));
    assert_eq!(outcome(&[mine.clone(), theirs], &requester(), &observation()), Outcome::Deny, "the stricter wins");
    // The consent of one says nothing once they are apart again: the caller then gives the other's alone.
    assert_eq!(outcome(&[mine], &requester(), &observation()), Outcome::Permit);
}

#[test]
fn a_guardians_permit_ends_when_the_patient_is_of_age() {
    let given = |performer: &str| with(consent(json!({"type": "permit"})), "performer", json!([{"reference": performer}]));
    let ask_at = |consent: &Value, of_age: &str, now: &str| {
        let consents = [read_of_age(consent, Some(at(of_age)))];
        ask(&consents, &Requester { now: at(now), ..requester() }, &observation(), &Deployment::default()).outcome
    };
    let guardian = given("RelatedPerson/mother");
    assert_eq!(ask_at(&guardian, "2026-06-15", "2026-06-14T23:59:59Z"), Outcome::Permit);
    assert_eq!(ask_at(&guardian, "2026-06-15", "2026-06-15"), Outcome::NoConsent);
    assert_eq!(ask_at(&guardian, "2020-01-01", "2026-06-15"), Outcome::Permit, "for an adult");
    assert_eq!(
        outcome(std::slice::from_ref(&guardian), &requester(), &observation()),
        Outcome::NoConsent,
        "when the birth date is not known"
    );
    assert_eq!(ask_at(&given("Patient/p"), "2026-06-15", "2026-06-15"), Outcome::Permit, "the patient's own");
    let refusal =
        with(with(consent(json!({"type": "deny"})), "performer", json!([{"reference": "RelatedPerson/mother"}])), "id", json!("d"));
    assert_eq!(ask_at(&refusal, "2026-06-15", "2027-01-01"), Outcome::Deny, "a refusal stays until the patient lifts it");
}

#[test]
fn a_consent_that_is_too_deep_or_too_large_is_refused() {
    let reading = Reading {
        zone: &ZONE,
        base: BASE,
        value_set: &|_| None,
        references_of: &|_| Vec::new(),
        called: &|_| None,
        organisation: &|names| names.into_iter().collect(),
        former: &[],
        recorded: at("2026-03-01"),
        of_age: None,
    };
    let mut deep = json!({"type": "permit"});
    for _ in 0..MAX_DEPTH {
        deep = json!({"type": "permit", "provision": [deep]});
    }
    assert_eq!(Consent::read(&consent(deep), &reading), Err(ConsentError::TooDeep));
    let wide: Vec<Value> = (0..MAX_PROVISIONS).map(|_| json!({"type": "deny"})).collect();
    assert_eq!(Consent::read(&consent(json!({"type": "permit", "provision": wide})), &reading), Err(ConsentError::TooLarge));
    let codes: Vec<Value> = (0..500).map(|number| concept(LOINC, &number.to_string())).collect();
    let heirs: Vec<Value> = (0..200).map(|_| json!({"type": "deny"})).collect();
    assert_eq!(
        Consent::read(&consent(json!({"type": "permit", "code": codes, "provision": heirs})), &reading),
        Err(ConsentError::TooLarge)
    );
    assert_eq!(Consent::read(&json!({"resourceType": "Patient"}), &reading), Err(ConsentError::NotAConsent));
    assert_eq!(read(&consent(json!("permit"))).provisions.len(), 0);
}
