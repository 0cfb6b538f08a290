use super::*;
use crate::definitions::{ElementKind, Primitive, Structure, r4};
use crate::fhir::narrative;
use crate::validate::structure;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

fn read(xml: &str) -> Value {
    serde_json::from_slice(&to_json(xml.as_bytes()).unwrap_or_else(|error| panic!("{error}: {xml}"))).unwrap()
}

fn written(resource: &Value) -> String {
    String::from_utf8(from_json(resource.to_string().as_bytes(), false).unwrap_or_else(|error| panic!("{error}: {resource}"))).unwrap()
}

fn patient(inside: &str) -> String {
    format!("<Patient xmlns=\"{FHIR}\">{inside}</Patient>")
}

#[test]
fn a_patient_goes_to_xml_and_back_unchanged() {
    let json = br#"{"resourceType":"Patient","id":"a","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">Asha &amp; <b>Juma</b> \u00e9 <br/></div>"},"extension":[{"url":"http://x.org/e","valueDecimal":1.50}],"active":true,"name":[{"family":"Juma","given":["Asha","Neema"]}],"birthDate":"1990-01","_birthDate":{"extension":[{"url":"http://x.org/f","valueString":"x"}]}}"#;
    let xml = String::from_utf8(from_json(json, false).unwrap()).unwrap();
    let before: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(before, read(&xml), "{xml}");
    assert_eq!(
        xml,
        "<Patient xmlns=\"http://hl7.org/fhir\"><id value=\"a\"/><text><status value=\"generated\"/><div xmlns=\"http://www.w3.org/1999/xhtml\">Asha &amp; <b>Juma</b> é <br/></div></text>\
         <extension url=\"http://x.org/e\"><valueDecimal value=\"1.50\"/></extension><active value=\"true\"/><name><family value=\"Juma\"/><given value=\"Asha\"/><given value=\"Neema\"/></name>\
         <birthDate value=\"1990-01\"><extension url=\"http://x.org/f\"><valueString value=\"x\"/></extension></birthDate></Patient>"
    );
}

#[test]
fn pretty_is_a_line_for_each_element_and_says_the_same() {
    let div = "<div xmlns=\"http://www.w3.org/1999/xhtml\">Asha <b>Juma</b>\n<pre> a\n b</pre></div>";
    let patient = json!({ "resourceType": "Patient", "text": { "status": "generated", "div": div }, "name": [{ "family": "Juma" }],
        "contained": [{ "resourceType": "Basic", "id": "b" }], "active": true });
    let bundle = json!({ "resourceType": "Bundle", "type": "collection", "entry": [{ "resource": patient },
        { "resource": { "resourceType": "Nonsense" } }, { "resource": { "resourceType": "Basic" } }] });
    let xml = String::from_utf8(from_json(bundle.to_string().as_bytes(), true).unwrap()).unwrap();
    let begun = format!(
        "<Bundle xmlns=\"{FHIR}\">\n  <type value=\"collection\"/>\n  <entry>\n    <resource>\n      <Patient>\n        <text>\n          \
         <status value=\"generated\"/>\n          {div}\n        </text>\n        <contained>\n          <Basic>\n            <id value=\"b\"/>\n          </Basic>\n        </contained>\n"
    );
    assert!(xml.starts_with(&begun), "{xml}");
    assert!(xml.ends_with("\n  <entry>\n    <resource>\n      <Basic/>\n    </resource>\n  </entry>\n</Bundle>"), "{xml}");
    assert_eq!(read(&xml), read(&written(&bundle)));
}

#[test]
fn elements_stand_in_the_order_of_r4() {
    let turned = json!({ "name": [{ "given": ["A"], "use": "usual", "family": "F", "id": "n" }], "active": true, "id": "a", "resourceType": "Patient" });
    assert_eq!(
        written(&turned),
        patient(
            "<id value=\"a\"/><active value=\"true\"/><name id=\"n\"><use value=\"usual\"/><family value=\"F\"/><given value=\"A\"/></name>"
        )
    );
}

#[test]
fn white_space_in_values_survives() {
    let json = br#"{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">a\nb<!-- \" --><i title=\"x\ty\">c</i></div>"},"name":[{"text":" line 1\nline 2\tend\r\n \"it's\" > <&> "}]}"#;
    let before: Value = serde_json::from_slice(json).unwrap();
    let xml = written(&before);
    assert!(xml.contains("line 1&#10;line 2&#9;end&#13;&#10;"), "{xml}");
    assert_eq!(before, read(&xml), "{xml}");
}

#[test]
fn literal_white_space_in_attributes_is_a_space() {
    let json = read(
        "<?xml version=\"1.0\"?>\r\n<!-- it's\n --><Patient xmlns=\"http://hl7.org/fhir\">\r\n<text><status value='generated'/>\
         <div xmlns=\"http://www.w3.org/1999/xhtml\">a\r\nb</div></text><name><text\n value=\"a\r\nb\tc&#10;d&#xD;&#9;e\"/></name></Patient>",
    );
    assert_eq!(json["name"][0]["text"], "a b c\nd\r\te");
    assert_eq!(json["text"]["div"], "<div xmlns=\"http://www.w3.org/1999/xhtml\">a\nb</div>");
}

#[test]
fn bundles_and_outcomes_have_an_xml_form() {
    let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": 1, "entry": [
        { "fullUrl": "http://x/fhir/Patient/a", "resource": { "resourceType": "Patient", "id": "a" }, "search": { "mode": "match" } }
    ] });
    let xml = written(&bundle);
    assert!(xml.contains("<resource><Patient><id value=\"a\"/></Patient></resource>") && xml.contains("<total value=\"1\"/>"), "{xml}");
    assert_eq!(read(&xml), bundle);
}

#[test]
fn a_resource_without_an_xml_form_takes_it_from_nothing_else() {
    let odd = json!({ "resourceType": "Patient", "foo": 1 });
    let right = json!({ "resourceType": "Patient", "id": "a" });
    let bundle =
        |first: &Value| json!({ "resourceType": "Bundle", "type": "collection", "entry": [{ "resource": first }, { "resource": right }] });
    let told = read(&written(&bundle(&odd)));
    assert_eq!(told["entry"][0]["resource"]["resourceType"], "OperationOutcome");
    assert_eq!(told["entry"][1], bundle(&odd)["entry"][1]);
    // What it contains is part of it.
    let contains = json!({ "resourceType": "Patient", "contained": [odd] });
    assert_eq!(read(&written(&bundle(&contains)))["entry"][0]["resource"]["resourceType"], "OperationOutcome");
    for alone in [odd, contains] {
        assert_eq!(from_json(alone.to_string().as_bytes(), false), Err(XmlError::NoXmlForm));
    }
}

#[test]
fn what_is_deeper_than_json_is_read_is_told_with_its_place() {
    let deep = |levels: usize| patient(&format!("{}{}", "<extension url='u'>".repeat(levels), "</extension>".repeat(levels)));
    assert_eq!(read(&deep(63))["resourceType"], "Patient");
    match to_json(deep(64).as_bytes()) {
        Err(XmlError::Misplaced { expression, .. }) => {
            assert_eq!(expression, format!("Patient{}", ".extension[0]".repeat(63) + ".extension"))
        }
        other => panic!("{other:?}"),
    }
    let stored = (0..120).fold(json!([]), |inner, _| json!([{ "url": "u", "extension": inner }]));
    let resource = json!({ "resourceType": "Patient", "extension": stored });
    assert_eq!(written(&resource).matches("<extension").count(), 120, "what is stored is written however deep");
}

#[test]
fn xml_as_others_write_it_is_read() {
    let active = json!({ "resourceType": "Patient", "active": true });
    let xsi = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"";
    for xml in [
        format!("<f:Patient xmlns:f=\"{FHIR}\"><f:active value=\"true\"/></f:Patient>"),
        format!("<Patient xmlns=\"{FHIR}\" {xsi}><active value=\"true\"/></Patient>"),
        format!("<Patient xmlns=\"{FHIR}\" {xsi} xsi:schemaLocation=\"{FHIR} patient.xsd\"><active value=\" true \"/></Patient>"),
        format!("<?xml version=\"1.0\"?><?xml-stylesheet href=\"a\"?>{}", patient("<?p x?><active value='true'></active>")),
        format!("\u{FEFF}{}\n<!-- end -->", patient("<!-- < --><active value='tru&#101;'/>")),
    ] {
        assert_eq!(read(&xml), active, "{xml}");
    }
    let div = |xml: &str| read(xml)["text"]["div"].clone();
    let wanted = "<div xmlns=\"http://www.w3.org/1999/xhtml\" title=\"x\">a<b>&lt;</b><br/></div>";
    for xml in [
        patient("<text><div title='x' xmlns='http://www.w3.org/1999/xhtml'>a<b>&lt;</b><br/></div></text>")
            .replace("<Patient", "<!-- --><Patient"),
        patient("<text><h:div xmlns:h='http://www.w3.org/1999/xhtml' title='x'>a<h:b><![CDATA[<]]></h:b><h:br/></h:div></text>"),
        patient("<text><div title=\"x\">a<b>&lt;</b><br/></div></text>"),
        format!(
            "<f:Patient xmlns:f=\"{FHIR}\" xmlns=\"http://www.w3.org/1999/xhtml\"><f:text><div title=\"x\">a<b>&lt;</b><br/></div></f:text></f:Patient>"
        ),
    ] {
        let said = div(&xml);
        let same = said == wanted || said == "<div title='x' xmlns='http://www.w3.org/1999/xhtml'>a<b>&lt;</b><br/></div>";
        assert!(same, "{said}");
    }
}

#[test]
fn what_is_no_fhir_is_said_with_its_place() {
    // By the validator, in the same words as of JSON.
    for (inside, expression) in [
        ("<birthdate value='2000'/>", "Patient.birthdate"),
        ("<active value='TRUE'/>", "Patient.active"),
        ("<multipleBirthInteger value='a'/>", "Patient.multipleBirth"),
        ("<birthDate value='2000'/><birthDate value='2001'/>", "Patient.birthDate"),
        ("<name><nick><a value='1'/></nick></name>", "Patient.name[0].nick"),
        ("<active/>", "Patient.active"),
        ("<name/>", "Patient.name[0]"),
        ("<contained/>", "Patient.contained[0]"),
        ("<contained><Patiant/></contained>", "Patient.contained[0]"),
        ("<gender value=''/>", "Patient.gender"),
    ] {
        let issues = structure(&read(&patient(inside)));
        assert_eq!(issues.iter().map(|issue| issue.expression.as_str()).collect::<Vec<_>>(), [expression], "{inside}: {issues:?}");
    }
    // Here, because JSON has no place for it.
    for (inside, place) in [
        ("<active value='true' foo='1'/>", "Patient.active"),
        ("<name><given value='a'/><given xml:lang='en' value='b'/></name>", "Patient.name[0].given[1]"),
        ("<name>Juma</name>", "Patient.name[0]"),
        ("<active><![CDATA[true]]></active>", "Patient.active"),
        ("<name><id value='x'/></name>", "Patient.name[0].id"),
        ("<extension><url value='x'/></extension>", "Patient.extension[0].url"),
        ("<_active value='true'/>", "Patient"),
        ("<resourceType value='Group'/>", "Patient.resourceType"),
        ("<contained><Patient/><Patient/></contained>", "Patient.contained[0]"),
        ("<active xmlns='urn:x' value='true'/>", "Patient.active"),
        ("<text><div xmlns='urn:x'/></text>", "Patient.text.div"),
        ("stray", "Patient"),
    ] {
        match to_json(patient(inside).as_bytes()) {
            Err(XmlError::Misplaced { expression, .. }) => assert_eq!(expression, place, "{inside}"),
            other => panic!("{inside}: {other:?}"),
        }
    }
}

#[test]
fn hostile_xml_is_refused() {
    let deep = |name: &str| patient(&format!("{}{}", format!("<{name}>").repeat(100_000), format!("</{name}>").repeat(100_000)));
    let bomb = "<!DOCTYPE a [<!ENTITY b \"cc\">]><Patient xmlns=\"http://hl7.org/fhir\"/>";
    let twice = format!("{0}{0}", patient(""));
    for bad in [
        &deep("contact")[..],
        &deep("extension"),
        &deep("active"),
        bomb,
        &twice,
        "",
        "<",
        "<Patient",
        "</Patient>",
        "<a></a>",
        "<Patient xmlns='x&y'/>",
        "<Patient xmlns='urn:x'/>",
        "<p:Patient/>",
    ] {
        assert!(to_json(bad.as_bytes()).is_err(), "{}", bad.get(..30).unwrap_or(bad));
    }
    assert_eq!(to_json(b"\xff\xfe"), Err(XmlError::NotUtf8));
    for bad in [
        &b"{}"[..],
        b"[]",
        br#"{"resourceType":"HumanName"}"#,
        br#"{"resourceType":"Patient","a b":1}"#,
        br#"{"resourceType":"Patient","name":[1]}"#,
    ] {
        assert_eq!(from_json(bad, true), Err(XmlError::NoXmlForm), "{}", String::from_utf8_lossy(bad));
    }
}

/// A resource or element with all that it may have; of a choice, the type at `pick`.
fn full(structure: &'static Structure, depth: usize, pick: usize) -> Value {
    let extension = |text: &str| json!({ "url": "http://x.org/e", "valueString": text });
    let mut members = Map::new();
    for element in &structure.elements {
        let kind = &element.types[pick % element.types.len()];
        let key = element.json_key(kind).into_owned();
        let one = match kind.kind {
            ElementKind::Primitive(primitive) => match primitive {
                Primitive::Boolean => json!(true),
                Primitive::Integer | Primitive::PositiveInt | Primitive::UnsignedInt => json!(depth + pick),
                Primitive::Decimal => serde_json::from_str("-1.50").unwrap(),
                Primitive::Xhtml => json!(format!("<div xmlns=\"{}\">x</div>", narrative::XHTML)),
                _ => json!(" a\u{FDD0}\"<&>\n'é "),
            },
            ElementKind::Resource => json!({ "resourceType": "Basic", "id": "b", "code": { "text": "x" } }),
            ElementKind::Structure(_) if depth > 2 || (element.name == "extension" && depth > 0) => continue,
            ElementKind::Structure(place) => full(r4().structure_at(place).unwrap(), depth + 1, pick),
        };
        let extensible = matches!(kind.kind, ElementKind::Primitive(primitive) if primitive != Primitive::Xhtml);
        let has_sibling = extensible && depth < 2 && !structure.is_attribute(element.name);
        match element.is_list() {
            true if has_sibling => {
                members.insert(key.clone(), json!([one, null, one]));
                members.insert(format!("_{key}"), json!([null, { "id": "i", "extension": [extension("y")] }, { "id": "j" }]));
            }
            true => _ = members.insert(key, if depth == 0 { json!([one, one]) } else { json!([one]) }),
            false => {
                members.insert(key.clone(), one);
                if has_sibling {
                    members.insert(format!("_{key}"), json!({ "extension": [extension("z")] }));
                }
            }
        }
    }
    Value::Object(members)
}

#[test]
fn every_element_of_every_type_goes_to_xml_and_back_unchanged() {
    for name in r4().resource_types() {
        for pick in 0..4 {
            let mut resource = full(r4().structure(name).unwrap(), 0, pick);
            resource["resourceType"] = json!(name);
            assert_eq!(read(&written(&resource)), resource, "{name}");
        }
    }
    let value = r4().structure("Extension").unwrap().element("value").unwrap();
    for pick in 0..value.types.len() {
        let mut extension = full(r4().structure("Extension").unwrap(), 1, pick);
        extension.as_object_mut().unwrap().shift_remove("extension");
        let resource = json!({ "resourceType": "Basic", "extension": [extension] });
        assert_eq!(read(&written(&resource)), resource);
    }
}

/// What is hard about texts and narratives.
const PIECES: [&str; 32] = [
    "a",
    " ",
    "é",
    "<p>",
    "</p>",
    "<br/>",
    "<b>",
    "</b>",
    "<p class='a'>",
    "<p title=\"a&lt;'b\">",
    "<p title='a<b'>",
    "<p a='1' a='2'>",
    "<x:p>",
    "&nbsp;",
    "&hellip;",
    "&amp;",
    "&foo;",
    "&#160;",
    "&#0;",
    "&",
    ";",
    "]]>",
    ">",
    "<",
    "<!-- x -->",
    "<!-- -- -->",
    "<![CDATA[&x]]>",
    "<?x y?>",
    "\r\n",
    "\t",
    "\u{1}",
    "\u{FFFE}\u{FDD0}0\u{FDD0}",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&PIECES[..]), 1..7).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// What the validator takes comes back as it was stored; what it would not take, and is there all the same, can be read.
    #[test]
    fn whatever_is_taken_comes_out_as_xml_that_reads_back(inside in text(), family in text(), begin in select(&["<div xmlns=\"http://www.w3.org/1999/xhtml\">", "<div>", " <div class='xmlns=\"\"'>", ""][..])) {
        let div = format!("{begin}{inside}{}", if begin.is_empty() { "" } else { "</div>" });
        let mut resource = json!({ "resourceType": "Patient", "text": { "status": "generated", "div": div }, "name": [{ "family": family }] });
        let taken = !structure(&resource).iter().any(|issue| issue.severity.is_error());
        let as_sent = read(&written(&resource));
        narrative::settle(&mut resource);
        let stored = read(&written(&resource));
        if taken {
            prop_assert_eq!((&as_sent, &stored), (&resource, &resource));
        }
        let told = stored.pointer("/text/div").and_then(Value::as_str).unwrap_or_default();
        prop_assert_eq!(narrative::as_xml(told), told);
    }
}

/// The tree of a resource that another implementation reads and writes, as JSON.
type Theirs = fhirbolt::element::Element<{ fhirbolt::FhirReleases::R4 }>;

/// Of what the other implementation can say: it drops or refuses ids and extensions of primitives, and knows narratives by their text alone.
#[test]
fn another_implementation_reads_what_is_written_and_writes_what_is_read() {
    let packed = include_bytes!("../../../tests/data/synthea-hiv/Assunta351_Dickens475_3d195286-ce77-f5b3-b64f-3eacfb9c273e.json.gz");
    let bundle: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&packed[..])).unwrap();
    let resources = bundle["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
    let mut types = std::collections::BTreeSet::new();
    for resource in resources.filter(|resource| resource.get("text").is_none()) {
        let xml = written(resource);
        let theirs: Theirs = fhirbolt::xml::from_str(&xml, None).unwrap_or_else(|error| panic!("{error}: {xml}"));
        let read_by_them: Value = serde_json::from_str(&fhirbolt::json::to_string(&theirs, None).unwrap()).unwrap();
        assert_eq!(read_by_them, *resource, "{xml}");
        assert_eq!(read(&fhirbolt::xml::to_string(&theirs, None).unwrap()), *resource);
        types.insert(resource["resourceType"].as_str().unwrap_or_default());
    }
    assert!(types.len() > 5, "{types:?}");
}
