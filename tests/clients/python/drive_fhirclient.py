"""Drives a FHIR server with fhirclient, logged in by SMART Backend Services: drive_fhirclient.py BASE CLIENT ASSERTION

fhirclient reads every answer into models that refuse elements, types and cardinalities that R4 does not have.
"""

import sys
from contextlib import contextmanager

import requests
from fhirclient.client import FHIRClient
from fhirclient.models.bundle import Bundle
from fhirclient.models.fhirsearch import FHIRSearch
from fhirclient.models.observation import Observation
from fhirclient.models.operationoutcome import OperationOutcome
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRNotFoundException, FHIRUnauthorizedException

SYSTEM = "urn:test:fhirclient"


@contextmanager
def sending(server, **headers):
    """fhirclient has no argument for conditions: they are headers of its session."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    server.session.headers.update(named)
    try:
        yield
    finally:
        for name in named:
            del server.session.headers[name]


def refused(status, call):
    """The OperationOutcome of a request that must fail with this status."""
    try:
        call()
    except (FHIRNotFoundException, FHIRUnauthorizedException) as error:
        response = error.response
    except requests.HTTPError as error:
        response = error.response
    else:
        raise AssertionError(f"it was not refused with {status}")
    assert response.status_code == status, (response.status_code, response.text)
    outcome = OperationOutcome(response.json())
    assert outcome.issue[0].severity == "error" and outcome.issue[0].diagnostics, response.text
    return outcome


def patient(value, family):
    return Patient(
        {
            "identifier": [{"system": SYSTEM, "value": value}],
            "name": [{"family": family, "given": ["Neema"]}],
            "gender": "female",
            "birthDate": "1990-02-28",
        }
    )


def log_in(base, client, assertion):
    settings = {"app_id": client, "api_base": base, "scope": "system/*.cruds", "jwt_token": assertion}
    smart = FHIRClient(settings=settings)
    smart.wants_patient = False
    assert not smart.prepare(), "the server must be found to need a token"
    refused(401, lambda: Patient.read("x", smart.server))
    smart.authorize()
    assert smart.ready
    return smart


def capabilities(server):
    statement = server.capabilityStatement
    assert statement.fhirVersion == "4.0.1" and statement.kind == "instance"
    resources = {resource.type: resource for resource in statement.rest[0].resource}
    assert len(resources) > 140
    assert {one.code for one in resources["Patient"].interaction} >= {"create", "read", "update", "search-type"}
    assert resources["Patient"].conditionalCreate


def instances(server):
    sent = patient("one", "Mwakyusa")
    made = Patient(sent.create(server))
    assert made.id and made.meta.versionId == "1" and made.meta.lastUpdated.date
    read = Patient.read(made.id, server)
    assert read.as_json() == made.as_json()

    read.active = True
    with sending(server, If_Match='W/"1"'):
        updated = Patient(read.update())
        assert updated.meta.versionId == "2" and updated.active
        refused(412, read.update)
    with sending(server, If_None_Exist=f"identifier={SYSTEM}|one"):
        again = Patient(sent.create(server))
    assert again.id == made.id and again.meta.versionId == "2"

    assert made.delete(server) is None
    gone = refused(410, lambda: Patient.read(made.id, server))
    assert gone.issue[0].code == "deleted"
    assert refused(404, lambda: Patient.read("never", server)).issue[0].code == "not-found"
    wrong = patient("wrong", "X").as_json()
    wrong["gender"] = "unheard-of"
    outcome = refused(422, lambda: server.post_json("Patient", wrong))
    assert outcome.issue[0].expression == ["Patient.gender"], outcome.as_json()


def observation(n, subject):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": subject},
        "effectiveDateTime": f"2026-09-{n + 1:02}",
        "valueQuantity": {"value": 60 + n, "system": "http://unitsofmeasure.org", "code": "/min", "unit": "/min"},
    }


def transaction(server):
    whole = patient("two", "Juma").as_json()
    request = {"method": "POST", "url": "Patient", "ifNoneExist": f"identifier={SYSTEM}|two"}
    entries = [{"fullUrl": "urn:uuid:5cf2ff64-4d11-4f5f-a1ef-9f42a3c9a8f0", "resource": whole, "request": request}]
    for n in range(13):
        entry = {"resource": observation(n, entries[0]["fullUrl"]), "request": {"method": "POST", "url": "Observation"}}
        entries.append(entry)
    answer = Bundle(Bundle({"type": "transaction", "entry": entries}).create(server))
    assert answer.type == "transaction-response" and len(answer.entry) == 14
    assert all(entry.response.status.startswith("201") for entry in answer.entry)
    assert all(entry.response.location and entry.response.lastModified.date for entry in answer.entry)

    broken = Bundle({"type": "transaction", "entry": entries[1:]})
    outcome = refused(400, lambda: broken.create(server))
    assert "Bundle.entry[0]" in outcome.issue[0].expression[0], outcome.as_json()


def searches(server):
    subject = {"subject:Patient": {"identifier": f"{SYSTEM}|two"}}
    pages = list(FHIRSearch(Observation, {**subject, "_count": "5", "_sort": "-date", "_total": "accurate"}).perform_iter(server))
    assert [len(page.entry) for page in pages] == [5, 5, 3] and {page.total for page in pages} == {13}
    dates = [entry.resource.effectiveDateTime.isostring for page in pages for entry in page.entry]
    assert dates == sorted(dates, reverse=True) and len(set(dates)) == 13

    found = lambda what: [one.resource_type for one in what.perform_resources_iter(server)]
    some = {**subject, "date": {"$and": ["ge2026-09-03", "lt2026-09-05"]}}
    assert found(FHIRSearch(Observation, some)) == ["Observation"] * 2
    # fhirclient writes comparisons as they were before prefixes had letters.
    old = {**subject, "date": {"$and": [{"$gte": "2026-09-03"}, {"$lt": "2026-09-05"}]}}
    assert found(FHIRSearch(Observation, old)) == ["Observation"] * 2
    assert found(FHIRSearch(Observation, some).include("subject")) == ["Observation"] * 2 + ["Patient"]
    two = {"identifier": f"{SYSTEM}|two"}
    assert found(FHIRSearch(Patient, two).include("subject", Observation, reverse=True)) == ["Patient"] + ["Observation"] * 13
    assert found(FHIRSearch(Patient, {**two, "name": {"$exact": "Juma"}})) == ["Patient"]
    assert found(FHIRSearch(Patient, {**two, "name": {"$exact": "juma"}})) == []
    assert found(FHIRSearch(Patient, {**two, "name": {"$or": ["Nobody", "jum"]}})) == ["Patient"]
    assert found(FHIRSearch(Patient, {**two, "death-date": {"$missing": "true"}})) == ["Patient"]
    refused(400, lambda: found(FHIRSearch(Patient, {"birthdate": "yesterday"})))


def main(base, client, assertion):
    smart = log_in(base, client, assertion)
    capabilities(smart.server)
    instances(smart.server)
    transaction(smart.server)
    searches(smart.server)


main(*sys.argv[1:])
