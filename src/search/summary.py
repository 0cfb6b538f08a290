#!/usr/bin/env python3
"""Writes summary.txt: for each R4 resource type, its top-level elements marked isSummary.

    python3 src/search/summary.py FOLDER

FOLDER holds HL7's R4 definitions: profiles-resources.json, dataelements.json and valuesets.json. Some redistributions add
elements; only those that dataelements.json lists count, and groups of such elements.
"""
import json, pathlib, sys

SOURCE = pathlib.Path(sys.argv[1])


def load(name):
    return [entry["resource"] for entry in json.loads((SOURCE / name).read_text())["entry"]]


known = {e["path"] for r in load("dataelements.json") for e in r["snapshot"]["element"][:1]}
groups = {path.rsplit(".", depth)[0] for path in known for depth in (1, 2, 3)}
types = {c["code"] for r in load("valuesets.json") if r.get("url") == "http://hl7.org/fhir/resource-types" for c in r["concept"]}
lines = []
for r in load("profiles-resources.json"):
    if r["resourceType"] != "StructureDefinition" or r["kind"] != "resource" or r.get("abstract") or r["name"] not in types:
        continue
    names = []
    for e in r["snapshot"]["element"][1:]:
        parts = e["path"].split(".")
        if len(parts) == 2 and e.get("isSummary") and (e["path"] in known | groups or parts[1] in ("id", "meta", "implicitRules")):
            names.append(parts[1].removesuffix("[x]"))
    lines.append(f"{r['name']}: {' '.join(names)}\n")
(pathlib.Path(__file__).parent / "summary.txt").write_text("".join(sorted(lines)))
