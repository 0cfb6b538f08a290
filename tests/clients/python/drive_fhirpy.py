"""Drives a FHIR server with fhirpy: drive_fhirpy.py BASE"""

import asyncio
import json
import sys

from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import MultipleResourcesFound, OperationOutcome, ResourceNotFound

SYSTEM = "urn:test:fhirpy"


def refused(kind, call):
    """The OperationOutcome of a request that must fail so."""
    try:
        call()
    except kind as error:
        outcome = json.loads(str(error))
    else:
        raise AssertionError(f"it was not refused as {kind.__name__}")
    assert outcome["resourceType"] == "OperationOutcome" and outcome["issue"][0]["diagnostics"], outcome
    return outcome["issue"][0]


def patient(client, value, family="Mushi"):
    name = [{"family": family, "given": ["Asha"]}]
    return client.resource("Patient", identifier=[{"system": SYSTEM, "value": value}], name=name, gender="female")


def capabilities(client):
    statement = client.execute("metadata", method="get")
    assert statement["resourceType"] == "CapabilityStatement" and statement.fhirVersion == "4.0.1"
    resource = next(one for one in statement.rest[0].resource if one.type == "Patient")
    assert resource.conditionalUpdate and resource.conditionalCreate


def instances(client):
    one = patient(client, "one")
    one.save()
    assert one.id and one["meta"]["versionId"] == "1"
    read = client.reference("Patient", one.id).to_resource()
    assert read.serialize() == one.serialize()

    one["active"] = True
    one.update()
    assert one["meta"]["versionId"] == "2"
    matched = SyncFHIRClient(client.url, extra_headers={"If-Match": 'W/"1"'})
    stale = matched.resource("Patient", **one.serialize())
    stale["active"] = False
    refused(MultipleResourcesFound, stale.save)  # fhirpy's word for every 412

    one.patch(birthDate="1990-02", active=None)
    assert one["birthDate"] == "1990-02" and "active" not in one and one["name"][0]["family"] == "Mushi"
    one["gender"] = "other"
    one.save(fields=["gender"])
    assert one["meta"]["versionId"] == "4"
    read.refresh()
    assert read["meta"]["versionId"] == "4" and read["gender"] == "other"

    assert one.is_valid()
    wrong = client.resource("Patient", gender="unheard-of")
    assert not wrong.is_valid()
    issue = refused(OperationOutcome, wrong.save)
    assert issue["expression"] == ["Patient.gender"], issue

    one.delete()
    refused(ResourceNotFound, lambda: client.get("Patient", one.id))
    refused(ResourceNotFound, lambda: client.get("Patient", "never"))


def conditions(client):
    those = client.resources("Patient").search(identifier=f"{SYSTEM}|two")
    first, created = those.get_or_create(patient(client, "two"))
    again, created_again = those.get_or_create(patient(client, "two", "Other"))
    assert created and not created_again and first.id == again.id and again["name"][0]["family"] == "Mushi"
    updated, created = those.update(patient(client, "two", "Massawe"))
    assert not created and updated.id == first.id and updated["name"][0]["family"] == "Massawe"
    patched = those.patch(active=True)
    assert patched.id == first.id and patched["active"] is True and patched["name"][0]["family"] == "Massawe"
    assert those.get().id == first.id

    patient(client, "two", "Twin").save()
    refused(MultipleResourcesFound, lambda: those.patch(active=False))
    refused(MultipleResourcesFound, lambda: those.update(patient(client, "two")))
    absent = client.resources("Patient").search(identifier=f"{SYSTEM}|absent")
    assert absent.first() is None
    assert those.search(family__exact="Twin").delete()[1] == 204
    assert those.count() == 1


def transaction(client):
    subject = "urn:uuid:5cf2ff64-4d11-4f5f-a1ef-9f42a3c9a8f1"
    whole = patient(client, "three", "Kimaro").serialize()
    entries = [{"fullUrl": subject, "resource": whole, "request": {"method": "POST", "url": "Patient"}}]
    for n in range(13):
        observation = {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "subject": {"reference": subject},
            "effectiveDateTime": f"2026-09-{n + 1:02}",
        }
        entries.append({"resource": observation, "request": {"method": "POST", "url": "Observation"}})
    bundle = client.resource("Bundle", type="transaction", entry=entries)
    bundle.save()
    assert bundle["type"] == "transaction-response" and len(bundle["entry"]) == 14
    assert all(entry["response"]["status"].startswith("201") for entry in bundle["entry"])

    batch = client.resource("Bundle", type="batch", entry=[{"request": {"method": "GET", "url": f"Patient?identifier={SYSTEM}|three"}}])
    batch.save()
    assert batch["entry"][0]["resource"]["entry"][0]["resource"]["name"][0]["family"] == "Kimaro"


def searches(client):
    pulses = client.resources("Observation").search(subject__Patient__identifier=f"{SYSTEM}|three")
    dates = [one["effectiveDateTime"] for one in pulses.sort("-date").limit(5)]
    assert len(dates) == 13 and dates == sorted(dates, reverse=True)
    assert pulses.count() == 13 and len(pulses.limit(5).fetch()) == 5
    assert len(pulses.search(date__ge="2026-09-03", date__lt="2026-09-05").fetch_all()) == 2
    assert pulses.search(code__not="8867-4").first() is None

    those = client.resources("Patient").search(identifier=f"{SYSTEM}|three")
    raw = those.revinclude("Observation", "subject").fetch_raw()
    kinds = [entry.resource.resource_type for entry in raw.entry]
    assert sorted(kinds) == ["Observation"] * 13 + ["Patient"]
    raw = pulses.include("Observation", "subject").limit(4).fetch_raw()
    assert [entry.search.mode for entry in raw.entry] == ["match"] * 4 + ["include"]
    assert len(client.resources("Patient").has("Observation", "subject", code="8867-4").search(family="kim").fetch()) == 1
    few = those.elements("gender").first()
    assert few["gender"] == "female" and "name" not in few, few
    issue = refused(OperationOutcome, lambda: client.resources("Patient").search(birthdate="yesterday").fetch())
    assert issue["expression"] == ["Patient?birthdate"]


async def at_once(base):
    client = AsyncFHIRClient(base)
    counts = await asyncio.gather(*(client.resources("Observation").search(code="8867-4").count() for _ in range(8)))
    assert set(counts) == {13}
    found = [one["id"] async for one in client.resources("Observation").search(code="8867-4").limit(4)]
    assert len(set(found)) == 13


def main(base):
    client = SyncFHIRClient(base)
    capabilities(client)
    instances(client)
    conditions(client)
    transaction(client)
    searches(client)
    asyncio.run(at_once(base))


main(*sys.argv[1:])
