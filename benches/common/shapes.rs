//! The questions: one or more of each kind that an index serves, over the records of [`super::people`].
//!
//! What a question finds stays the same when the data grows (it is about one of sixteen people, the same at every size), or grows as the
//! data does; then it asks for a page out of more. Either way the answer is of the same size, so how long it takes should not grow.

use super::people::World;
use super::servers::Fhir;

/// Pages that are walked for "page 1000".
const FAR: usize = 1_000;
/// People who are asked about.
const ASKED: usize = 16;
/// "Tests ordered", the commonest code: 3,900 times in 79 records.
const COMMON: &str = "1271AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Systolic blood pressure in mmHg, 400 times.
const PRESSURE: &str = "5085AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// The pulse, 200 times.
const PULSE: &str = "5087AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What becomes of the answer when the data grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finds {
    /// The same at every size.
    Same,
    /// A page out of so many more.
    More,
    /// Counts or sorts all matches, so it grows with them.
    All,
}

/// A question with different values, asked in turns.
pub struct Shape {
    pub name: String,
    pub finds: Finds,
    pub paths: Vec<String>,
}

/// The questions as `server` is to be asked them.
pub async fn shapes(server: &Fhir, world: &World) -> Vec<Shape> {
    let every = (world.people.len() / ASKED).max(1);
    let families: Vec<&str> = world.people.iter().step_by(every).take(ASKED).map(|person| person.family.as_str()).collect();
    let mut patients = Vec::new();
    for family in &families {
        let found = server.get(&format!("Patient?family={family}&_count=1")).await.json();
        patients.push(found["entry"][0]["resource"]["id"].as_str().unwrap_or_else(|| panic!("no Patient {family}: {found}")).to_owned());
    }
    let encounter = server.get("Encounter?_count=1").await.json();
    let hospital = encounter["entry"][0]["resource"]["serviceProvider"]["reference"].as_str().unwrap_or("Organization/none").to_owned();

    let mut shapes = Vec::new();
    let mut each = |name: &str, values: &[&str], path: &dyn Fn(&str) -> String| {
        let paths = values.iter().map(|value| path(value)).collect();
        shapes.push(Shape { name: name.to_owned(), finds: Finds::Same, paths });
    };
    let ids: Vec<&str> = patients.iter().map(String::as_str).collect();
    each("string: a family name", &families, &|family| format!("Patient?family={family}&_count=20"));
    each("reference: Observations of a Patient", &ids, &|id| format!("Observation?subject=Patient/{id}&_count=20"));
    each("reference, token, date", &ids, &|id| format!("Observation?subject=Patient/{id}&code={COMMON}&date=ge2015&_count=20"));
    each("chain: Observations by the Patient's family name", &families, &|family| {
        format!("Observation?subject:Patient.family={family}&_count=20")
    });
    each("nested chain: by the Encounter's Patient's family name", &families, &|family| {
        format!("Observation?encounter:Encounter.subject:Patient.family={family}&_count=20")
    });
    each("_has: Patients of a family name with a code", &families, &|family| {
        format!("Patient?family={family}&_has:Observation:subject:code={COMMON}&_count=20")
    });
    each("revinclude: a Patient's Conditions", &families, &|family| {
        format!("Patient?family={family}&_revinclude=Condition:subject&_count=20")
    });
    each("sort by date: a Patient's Observations", &ids, &|id| format!("Observation?subject=Patient/{id}&_sort=-date&_count=20"));
    each("sort by token", &ids, &|id| format!("Observation?subject=Patient/{id}&_sort=code&_count=20"));
    each("sort by quantity", &ids, &|id| format!("Observation?subject=Patient/{id}&_sort=-value-quantity&_count=20"));
    each("sort by reference", &ids, &|id| format!("Observation?subject=Patient/{id}&_sort=encounter&_count=20"));
    each("sort by string: Patients of a family name", &families, &|family| format!("Patient?family={family}&_sort=given&_count=20"));
    each("sort by uri: a Patient's Conditions", &ids, &|id| format!("Condition?subject=Patient/{id}&_sort=_profile&_count=20"));

    let mut one = |name: &str, finds: Finds, path: String| {
        shapes.push(Shape { name: name.to_owned(), finds, paths: vec![path] });
    };
    use Finds::{All, More};
    one("token: Observations by code", More, format!("Observation?code={COMMON}&_count=20"));
    one("token: either of two codes", More, format!("Observation?code={COMMON},{PRESSURE}&_count=20"));
    one("string: Patients by state", More, "Patient?address-state=ma&_count=20".to_owned());
    one("date: born since", More, "Patient?birthdate=ge1970&_count=20".to_owned());
    one("date: Encounters within a year", More, "Encounter?date=2019&_count=20".to_owned());
    one("date: changed since", More, "Observation?_lastUpdated=ge2020&_count=20".to_owned());
    one("number: probability", More, "RiskAssessment?probability=gt0.5&_count=20".to_owned());
    one("quantity: with a unit", More, "Observation?value-quantity=ge100||mmHg&_count=20".to_owned());
    one("reference: Encounters of a hospital", More, format!("Encounter?service-provider={hospital}&_count=20"));
    one("uri: by profile", More, "Patient?_profile=http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient&_count=20".to_owned());
    one("composite: code and value", More, format!("Observation?code-value-quantity={PRESSURE}$ge100&_count=20"));
    one("chain: Observations of women", More, "Observation?subject:Patient.gender=female&_count=20".to_owned());
    one("chain with a code: the pulse of women", More, format!("Observation?code={PULSE}&subject:Patient.gender=female&_count=20"));
    one("nested chain: of women's Encounters", More, "Observation?encounter:Encounter.subject:Patient.gender=female&_count=20".to_owned());
    one("_has: Patients with a code", More, format!("Patient?_has:Observation:subject:code={COMMON}&_count=20"));
    one("_has: Patients with a rarer code", More, format!("Patient?_has:Observation:subject:code={PULSE}&_count=20"));
    one(
        "nested _has: through Encounters",
        More,
        format!("Patient?_has:Encounter:subject:_has:Observation:encounter:code={PULSE}&_count=20"),
    );
    one("include: with their Patients", More, format!("Observation?code={PULSE}&_include=Observation:subject&_count=20"));
    one("no filter: Patients", More, "Patient?_count=20".to_owned());
    one("newest first", More, "Observation?_sort=-_lastUpdated&_count=20".to_owned());
    one("sort by number: the likeliest", All, "RiskAssessment?_sort=-probability&_count=20".to_owned());
    one("sort by string: all Patients", All, "Patient?_sort=family&_count=20".to_owned());
    one("sort by date: by code, newest first", All, format!("Observation?code={COMMON}&_sort=-date&_count=20"));
    one("total of a code", All, format!("Observation?code={COMMON}&_total=accurate&_count=20"));
    for (name, path) in [
        ("page 1000: Observations by code", format!("Observation?code={COMMON}&_count=3")),
        ("page 1000: newest first", "Observation?_sort=-_lastUpdated&_count=3".to_owned()),
    ] {
        if let Some(far) = page(server, &path, FAR).await {
            one(name, More, far);
        }
    }
    shapes
}

/// The link to the page with this number.
async fn page(server: &Fhir, path: &str, number: usize) -> Option<String> {
    let mut link = path.to_owned();
    for _ in 1..number {
        link = server.get(&link).await.next()?;
    }
    Some(link)
}
