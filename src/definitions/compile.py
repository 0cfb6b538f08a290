#!/usr/bin/env python3
"""Compiles HL7's R4 (4.0.1) definitions into the compact tables of this room.

    python3 src/definitions/compile.py FOLDER

FOLDER holds the files of the R4 definitions: search-parameters.json, profiles-resources.json, profiles-types.json,
dataelements.json, valuesets.json, v3-codesystems.json, v2-tables.json, extension-definitions.json, profiles-others.json,
compartmentdefinition-patient.json. Written to `r4/` beside this script:

    order.json          the two frozen lists: resource types, search parameter codes. APPEND-ONLY: existing places are
                        kept as they stand, new names go to the end, because databases hold these places as numbers.
    search.json.gz      search parameters per type, the ids of those that are not called Type-code, and the Patient compartment. The other four compartments are in compartments.json, as
                        R4 publishes them and by hand, since redistributions of the definitions leave them out
    structures.json.gz  elements of resources, datatypes and backbone elements
    codes.json.gz       code lists of the required bindings, and of others that R4 names, where they can be listed and are not long
    invariants.json.gz  the constraints of resources and datatypes, by path
    profiles.json.gz    the differentials of R4's own extensions and profiles, with what a validator needs of them

Some redistributions of the definitions carry elements that R4 does not have. dataelements.json is HL7's own list of
every element of every resource, so an element of a resource that is not in it is left out, and where the two differ it wins.
"""
import gzip, json, pathlib, re, sys

HERE = pathlib.Path(__file__).parent / "r4"
SOURCE = pathlib.Path(sys.argv[1])
BASE = "http://hl7.org/fhir/StructureDefinition/"
# Identifiers of data elements end at 64 characters, so elements with longer ones are not in dataelements.json.
DATA_ELEMENT_ID_MAX = 64
# Not enumerable: their code systems are open-ended grammars or kept by others.
OPEN_VALUE_SETS = {"http://hl7.org/fhir/ValueSet/mimetypes", "http://hl7.org/fhir/ValueSet/ucum-units", "http://hl7.org/fhir/ValueSet/currencies"}

# Extensible bindings to longer lists are asked of the terminology, not of the tables.
EXTENSIBLE_MAX = 400

# In some redistributions only; too deep for dataelements.json to tell.
NOT_R4 = {"EvidenceVariable.characteristic.definitionByTypeAndValue", "EvidenceVariable.characteristic.definitionByCombination"}


def load(name):
    return [entry["resource"] for entry in json.loads((SOURCE / name).read_text())["entry"]]


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    (HERE / name).write_bytes(gzip.compress(text, 9, mtime=0))


def frozen(old, names):
    return old + sorted(set(names) - set(old))


# --- search parameters ---------------------------------------------------------------------------------------------

def branches(expression):
    """The members of a top-level union."""
    parts, depth, part = [], 0, ""
    for c in expression:
        depth += (c == "(") - (c == ")")
        if c == "|" and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += c
    return parts + [part.strip()]


def expression_for(param, type_name):
    expression = param.get("expression", "")
    if param["base"] in (["Resource"], ["DomainResource"]):
        return re.sub(r"^(Domain)?Resource\.", type_name + ".", expression)
    kept = []
    for branch in branches(expression):
        root = re.match(r"\(*([A-Za-z]+)", branch).group(1)
        if root[0].islower():  # R4's InsurancePlan.name says `name | alias`
            branch, root = f"{type_name}.{branch}", type_name
        if root == type_name and branch not in kept:
            kept.append(branch)
    assert kept, (param["id"], type_name)
    return " | ".join(kept)


def components_of(param, by_url):
    parts = [(by_url[c["definition"]], c["expression"]) for c in param.get("component", [])]
    if param["id"] == "DocumentReference-relationship":  # R4 names its two components the wrong way round
        parts = [(parts[1][0], parts[0][1]), (parts[0][0], parts[1][1])]
    # R4 writes the type DateTime where dateTime is meant.
    return [[part["code"], part["type"], expression.replace("as(DateTime)", "as(dateTime)")] for part, expression in parts]


def compile_search(types, old_codes):
    every = [p for p in load("search-parameters.json") if p["code"] != "_query" and p.get("version") == "4.0.1"]
    by_url = {p["url"]: p for p in every}
    domain = {r["name"] for r in load("profiles-resources.json") if r["resourceType"] == "StructureDefinition" and r.get("baseDefinition") == BASE + "DomainResource"}
    codes = frozen(old_codes, [p["code"] for p in every])
    assert len(codes) < 4096
    table, shared = {}, {}
    for name in types:
        rows = {}
        for p in every:
            if not (name in p["base"] or p["base"] == ["Resource"] or (p["base"] == ["DomainResource"] and name in domain)):
                continue
            kind = p["type"] if p.get("expression") else "special"
            targets = [t for t in p.get("target", []) if t in types]
            if set(targets) >= set(types) - {"Parameters"}:
                targets = ["*"]
            row = [p["code"], kind, expression_for(p, name), targets]
            parts = components_of(p, by_url)
            assert p["code"] not in rows, (name, p["code"])
            rows[p["code"]] = row + [parts] if parts else row
            if p["url"] != f"http://hl7.org/fhir/SearchParameter/{name}-{p['code']}":
                shared.setdefault(name, []).append([p["code"], p["url"].removeprefix("http://hl7.org/fhir/SearchParameter/")])
        table[name] = [rows[code] for code in sorted(rows)]
    definition = json.loads((SOURCE / "compartmentdefinition-patient.json").read_text())
    compartment = {r["code"]: r["param"] for r in definition["resource"] if r.get("param")}
    compartment["Encounter"] = ["patient"]  # as R4 publishes it
    compartment["Task"] = ["patient", "focus"]  # as R5 adds: a task about a patient is that patient's
    for name, params in compartment.items():
        assert all(any(row[0] == code for row in table[name]) for code in params), name
    return codes, {"params": table, "patient": compartment, "shared": shared}


# --- structures ----------------------------------------------------------------------------------------------------

def type_code(element, t):
    if t["code"].startswith("http://hl7.org/fhirpath/"):
        if element["path"].endswith(".id") and element["path"].count(".") == 1 and element["path"].split(".")[0] in RESOURCES:
            return "id"
        told = [e["valueUrl"] for e in t.get("extension", []) if e["url"].endswith("structuredefinition-fhir-type")]
        return told[0] if told else "string"
    return t["code"]


def element_row(element, path_of_children):
    name = element["path"].rsplit(".", 1)[1]
    row = {"n": name}
    if "contentReference" in element:
        row["t"] = [element["contentReference"].split("#")[1]]
    elif path_of_children:
        row["t"] = [path_of_children]
    else:
        row["t"] = [type_code(element, t) for t in element["type"]]
    if element["min"]:
        row["l"] = element["min"]
    if element["max"] != "1":
        row["u"] = 0 if element["max"] == "*" else int(element["max"])
    targets = sorted({p.removeprefix(BASE) for t in element.get("type", []) if t["code"] == "Reference" for p in t.get("targetProfile", [])})
    if targets and "Resource" not in targets:
        row["r"] = targets
    binding = element.get("binding", {})
    if binding.get("strength") == "required":
        row["b"] = binding["valueSet"].split("|")[0]
    if binding.get("strength") == "extensible" and "valueSet" in binding:
        row["x"] = binding["valueSet"].split("|")[0]
    return row


def compile_structures():
    original = {}
    for r in load("dataelements.json"):
        element = r["snapshot"]["element"][0]
        original.setdefault(element["path"], element)
    structures, bindings, extensible = {}, set(), set()
    for r in load("profiles-resources.json") + load("profiles-types.json"):
        name = r.get("name")
        if r["resourceType"] != "StructureDefinition" or r["kind"] in ("primitive-type", "logical") or r.get("derivation") == "constraint":
            continue
        if r["kind"] == "resource" and name not in RESOURCES or name == "BackboneElement":
            continue
        elements = {e["path"]: e for e in r["snapshot"]["element"][1:]}
        elements = {path: e for path, e in elements.items() if not any((path + ".").startswith(gone + ".") for gone in NOT_R4)}
        parents = {path.rsplit(".", 1)[0] for path in elements}
        for path in list(elements):
            inherited = path.count(".") == 1 and path.split(".")[1] in ("id", "extension")
            leaf = path not in parents and "contentReference" not in elements[path]
            strict = r["kind"] == "resource" or (name == "Meta" and not inherited)
            if path in original and r["kind"] == "resource":
                elements[path] = original[path]
            elif strict and leaf and path not in original and len("de-" + path) <= DATA_ELEMENT_ID_MAX:
                del elements[path]
        if r["kind"] == "resource":
            elements |= {path: e for path, e in original.items() if path.startswith(name + ".") and path not in elements}
        # A backbone element all of whose own elements went is not R4's either, nor is what refers to it.
        while True:
            own = {path.rsplit(".", 1)[0] for path in elements if path.rsplit(".", 1)[1] not in ("id", "extension", "modifierExtension")}
            gone = [path for path, e in elements.items()
                    if (path in parents and path not in own)
                    or path.rsplit(".", 1)[0] not in own | {name}
                    or ("contentReference" in e and not any(p == e["contentReference"][1:] for p in elements))]
            if not gone:
                break
            for path in gone:
                del elements[path]
        table = {name: []}
        for path, e in elements.items():
            children = path if path in parents else None
            row = element_row(e, children)
            if children:
                table.setdefault(path, [])
            table.setdefault(path.rsplit(".", 1)[0], []).append(row)
            if "b" in row:
                bindings.add(row["b"])
            if "x" in row:
                extensible.add(row["x"])
        for path, rows in table.items():
            structures[path] = {"k": "r" if path in RESOURCES else "d" if "." not in path else "b", "e": rows}
    return structures, bindings, extensible


# --- code lists ----------------------------------------------------------------------------------------------------

def codes_in(concepts):
    stack, found = list(reversed(concepts)), []
    while stack:
        concept = stack.pop()
        found.append(concept["code"])
        stack += reversed(concept.get("concept", []))
    return found


def short_list(url, everything):
    """The groups of an extensible binding's value set; None when it cannot be listed or is long."""
    groups = {}
    for include in everything.get(url, {}).get("compose", {}).get("include", [{"filter": 1}]):
        system = everything.get(include.get("system"), {})
        if include.get("filter") or include.get("valueSet") or not (include.get("concept") or system.get("concept")):
            return None
        groups.setdefault(include["system"], []).extend(codes_in(include.get("concept") or system["concept"]))
    return groups if sum(map(len, groups.values())) <= EXTENSIBLE_MAX else None


def compile_codes(bindings, extensible):
    everything = {}
    for name in ("valuesets.json", "v3-codesystems.json", "v2-tables.json"):
        everything |= {r["url"]: r for r in load(name) if "url" in r}
    table = {}
    for url in sorted(extensible - bindings - OPEN_VALUE_SETS):
        groups = short_list(url, everything)
        if groups:
            table[url] = [[system, list(dict.fromkeys(codes))] for system, codes in groups.items()]
    for url in sorted(bindings - OPEN_VALUE_SETS):
        groups = {}
        for include in everything[url]["compose"]["include"]:
            assert not include.get("filter") and not include.get("valueSet"), url
            concepts = include.get("concept") or everything[include["system"]]["concept"]
            groups.setdefault(include["system"], []).extend(codes_in(concepts))
        table[url] = [[system, list(dict.fromkeys(codes))] for system, codes in groups.items()]
    return table


# --- invariants and profiles ---------------------------------------------------------------------------------------

# Held by the validator in Rust: they stand on every element, need sets where FHIRPath compares all with all, say of periods
# what FHIRPath cannot tell, or have an expression that is known to be wrong.
NATIVE = re.compile(r"ele-1|ext-1|dom-\d|dom-r4b|txt-\d|ref-1|per-1|bdl-7")


# What R4 says wrongly: a FHIR boolean is no Boolean of FHIRPath's own, and nothing is at most 100 (both mended in R4B or R5).
CORRECTED = {
    "que-7": "operator = 'exists' implies (answer is boolean)",
    "ras-2": "probability.ofType(decimal).all($this <= 100)",
}

# The places of three extensions, which R4's own definitions have elsewhere than where they say that these stand.
CORRECTED_CONTEXTS = {
    "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type": ["ElementDefinition.type"],
    "http://hl7.org/fhir/StructureDefinition/structuredefinition-normative-version": ["Element"],
    "http://hl7.org/fhir/StructureDefinition/regex": ["Questionnaire.item", "ElementDefinition", "ElementDefinition.type"],
}


# What the profile asks that R4 puts on amounts; snapshots do not repeat it.
SIMPLE_QUANTITY = ["sqt-1", "e", "The comparator is not used on a SimpleQuantity", "ofType(Quantity).comparator.empty()"]


def compile_invariants(structures):
    known = set(structures) | {f"{path}.{row['n'].removesuffix('[x]')}" for path, s in structures.items() for row in s["e"]}
    table = {}
    for r in load("profiles-resources.json") + load("profiles-types.json"):
        if r["resourceType"] != "StructureDefinition" or r.get("derivation") == "constraint" or r["name"] not in structures:
            continue
        for element in r["snapshot"]["element"]:
            path = element["path"].removesuffix("[x]")
            for c in element.get("constraint", []):
                if "expression" not in c or NATIVE.fullmatch(c["key"]) or path not in known:
                    continue
                row = [c["key"], c["severity"][0], c["human"], CORRECTED.get(c["key"], c["expression"])]
                # A datatype's own constraints are repeated on some elements of that type.
                if row not in table.setdefault(path, []):
                    table[path].append(row)
            profiles = [p for t in element.get("type", []) for p in t.get("profile", [])]
            if path in known and BASE + "SimpleQuantity" in profiles:
                table.setdefault(path, []).append(SIMPLE_QUANTITY)
    return {path: rows for path, rows in table.items() if rows}


def slim(element):
    kept = {k: v for k, v in element.items() if k in ("id", "path", "sliceName", "min", "max", "contentReference", "maxLength")
            or k.startswith(("fixed", "pattern", "minValue", "maxValue"))}
    if "slicing" in element:
        kept["slicing"] = {k: v for k, v in element["slicing"].items() if k != "description"}
    binding = element.get("binding", {})
    if binding.get("strength") in ("required", "extensible") and "valueSet" in binding:
        kept["binding"] = {k: binding[k] for k in ("strength", "valueSet")}
    if "constraint" in element:
        kept["constraint"] = [{k: c[k] for k in ("key", "severity", "human", "expression") if k in c} for c in element["constraint"]]
    if "type" in element:
        kept["type"] = [{k: v for k, v in t.items() if k in ("code", "profile", "targetProfile")} for t in element["type"]]
    return kept


def compile_profiles():
    rows = []
    for r in load("extension-definitions.json") + load("profiles-others.json"):
        if r["resourceType"] == "StructureDefinition":
            row = {"resourceType": r["resourceType"]}
            row |= {k: r[k] for k in ("url", "version", "type", "kind", "derivation", "baseDefinition", "context") if k in r}
            if r["url"] in CORRECTED_CONTEXTS:
                row["context"] = [{"type": "element", "expression": path} for path in CORRECTED_CONTEXTS[r["url"]]]
            rows.append(row | {"differential": {"element": [slim(e) for e in r["differential"]["element"]]}})
    return rows


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    order_file = HERE / "order.json"
    old = json.loads(order_file.read_text()) if order_file.exists() else {"types": [], "codes": []}
    listed = next(r for r in load("valuesets.json") if r.get("url") == "http://hl7.org/fhir/resource-types")
    RESOURCES = {c["code"] for c in listed["concept"]} - {"Resource", "DomainResource"}
    types = frozen(old["types"], RESOURCES)
    codes, search = compile_search(types, old["codes"])
    structures, bindings, extensible = compile_structures()
    open_bindings = {b for b in bindings if b.startswith("http://loinc.org/")} | OPEN_VALUE_SETS
    order_file.write_text(json.dumps({"types": types, "codes": codes}, indent=0) + "\n")
    write("search.json.gz", search)
    write("structures.json.gz", structures)
    profiles = compile_profiles()
    of_profiles = {e["binding"]["valueSet"].split("|")[0] for p in profiles for e in p["differential"]["element"] if "binding" in e}
    write("codes.json.gz", compile_codes(bindings - open_bindings, extensible | of_profiles))
    write("invariants.json.gz", compile_invariants(structures))
    write("profiles.json.gz", profiles)
    print(f"{len(types)} types, {len(codes)} codes, {sum(map(len, search['params'].values()))} parameters, {len(structures)} structures")
