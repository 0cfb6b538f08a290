//! A template as it lies in its folder: `template.json`, `schema.json`, `rules.json`, `mapping.json`, `examples/`.

use super::expr::Expr;
use super::mapping::{Compiler, Fault, Mapping, Part, Production, fault};
use super::schema::{NodeId, Schema};
use include_dir::{Dir, include_dir};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

static SHIPPED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/profiles/templates");

/// Why a template cannot be used: the file, the place in it and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{file}{}{pointer}: {message}", if pointer.is_empty() { "" } else { "#" })]
pub struct TemplateError {
    pub file: String,
    /// JSON pointer into the file; empty when the whole file is meant.
    pub pointer: String,
    pub message: String,
}

/// One template, compiled.
#[derive(Debug)]
pub struct Definition {
    pub(super) name: String,
    /// Where its clients and visits have their ids; `None`: among the facility's.
    pub(super) space: Option<String>,
    pub(super) title: String,
    pub(super) codes: Vec<String>,
    pub(super) is_default: bool,
    pub(super) schema_json: Value,
    pub(super) examples: Vec<(String, Value)>,
    pub(super) select: Vec<Expr>,
    pub(super) records: Vec<String>,
    /// Another place where a payload may have its records, each of them one block only: the path of the list, and the block's key.
    pub(super) flat: Option<(Vec<String>, String)>,
    pub(super) facility: Part,
    pub(super) reported: Part,
    pub(super) label: Part,
    pub(super) visit: Part,
    /// How a record names its client; without it `%client` is empty.
    pub(super) client: Option<Who>,
    /// What makes a visit the same one next time; without it nothing is remembered of visits.
    pub(super) visit_key: Option<Vec<Part>>,
    pub(super) identifiers: Part,
    pub(super) schema: Schema,
    pub(super) record: NodeId,
    pub(super) rules: Vec<Rule>,
    pub(super) mapping: Mapping,
}

/// How a record names its client.
#[derive(Debug)]
pub(super) struct Who {
    /// The facility's own number of the client.
    pub number: Part,
    /// A list: other identifiers, each with its type.
    pub identifiers: Part,
    /// Types of identifiers that are one person's own, wherever they come from.
    pub strong: Vec<String>,
    /// What else tells people apart.
    pub likeness: Vec<Trait>,
    /// Where people are reached.
    pub contact: Vec<Trait>,
    /// What tells their visits apart.
    pub care: Vec<Trait>,
    /// The path of what a record must say when its client cannot be told otherwise.
    pub needs: Option<String>,
}

/// What tells people or visits apart.
#[derive(Debug)]
pub(super) struct Trait {
    pub name: String,
    /// It may stay away.
    pub optional: bool,
    pub part: Part,
}

/// A condition that every record must meet.
#[derive(Debug)]
pub(super) struct Rule {
    pub expression: Expr,
    pub path: String,
    pub message: String,
    pub error: bool,
}

impl Definition {
    /// The folder's name: what configuration and replies call the template.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn title(&self) -> &str {
        &self.title
    }

    /// What a payload says to choose this template.
    pub fn codes(&self) -> &[String] {
        &self.codes
    }

    /// The JSON Schema of a payload, as written in the template's folder.
    pub fn schema(&self) -> &Value {
        &self.schema_json
    }

    /// Sample payloads with their file names.
    pub fn examples(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.examples.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Template files by path relative to the templates' folder.
pub(super) struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn shipped() -> Files {
        let mut files = BTreeMap::new();
        let mut folders = vec![&SHIPPED];
        while let Some(folder) = folders.pop() {
            folders.extend(folder.dirs());
            files.extend(folder.files().map(|file| (file.path().to_string_lossy().replace('\\', "/"), file.contents().to_vec())));
        }
        Files(files)
    }

    /// Lays the files of a folder over these: a file at the same path takes the other's place.
    pub fn overlay(&mut self, root: &Path) -> std::io::Result<()> {
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let (Some("json"), Ok(name)) = (path.extension().and_then(|e| e.to_str()), path.strip_prefix(root)) {
                    self.0.insert(name.to_string_lossy().replace('\\', "/"), std::fs::read(&path)?);
                }
            }
        }
        Ok(())
    }

    fn json(&self, file: &str) -> Result<Value, TemplateError> {
        let bytes = self.0.get(file).ok_or_else(|| error(file, "", "there is no such file"))?;
        crate::fhir::json::parse(bytes).map_err(|wrong| error(file, "", &wrong.to_string()))
    }

    /// Every folder with a `template.json`, compiled, in the order of their names.
    pub fn definitions(&self) -> Result<Vec<Definition>, TemplateError> {
        self.0
            .keys()
            .filter_map(|path| path.strip_suffix("/template.json"))
            .filter(|name| !name.contains('/'))
            .map(|name| self.definition(name))
            .collect()
    }

    fn definition(&self, name: &str) -> Result<Definition, TemplateError> {
        let (about_file, schema_file) = (format!("{name}/template.json"), format!("{name}/schema.json"));
        let about = self.json(&about_file)?;
        let schema_json = self.json(&schema_file)?;
        let schema = Schema::compile(&schema_json).map_err(|(pointer, message)| error(&schema_file, &pointer, &message))?;
        let records = about.get("records").and_then(Value::as_str).unwrap_or_default();
        let record = schema.find(schema.root(), records).filter(|_| !records.is_empty());
        let record = record.ok_or_else(|| error(&about_file, "/records", "must be the path of the list of records in schema.json"))?;

        let (files, fragments, common) = self.mappings(name)?;
        let space = match about.get("ids").map(Value::as_str) {
            None | Some(Some("template")) => Some(name.to_owned()),
            Some(Some("facility")) => None,
            Some(_) => return Err(error(&about_file, "/ids", "must be template or facility")),
        };
        let mut shared = HashSet::new();
        files.iter().for_each(|(_, value)| shared_types(value, &mut shared));
        let compiler = Compiler { schema: &schema, record, fragments, common, space: space.clone(), shared };
        let in_about = |wrong: Fault| error(&about_file, &wrong.pointer, &wrong.message);
        let part = |key: &str| match about.get(key) {
            Some(value) => compiler.part(value, &format!("/{key}")).map_err(in_about),
            None => Ok(Part::List(Vec::new())),
        };
        let texts =
            |key: &str| -> Vec<&str> { about.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect() };
        let mut mapping = Mapping::default();
        let (mut lets, mut then) = (Vec::new(), Vec::new());
        for (file, value) in &files {
            let at = |wrong: Fault| error(file, &wrong.pointer, &wrong.message);
            for (name, value) in value.get("let").and_then(Value::as_object).into_iter().flatten() {
                lets.push((name.clone(), compiler.part(value, &format!("/let/{name}")).map_err(at)?));
            }
            mapping.submission.extend(compiler.productions(value.get("submission"), "/submission").map_err(at)?);
            then.extend(compiler.productions(value.get("record"), "/record").map_err(at)?);
        }
        mapping.record.push(Production {
            pointer: "/let".into(),
            each: None,
            when: None,
            lets,
            essential: Vec::new(),
            whole: None,
            resource: None,
            then,
        });

        Ok(Definition {
            name: name.to_owned(),
            space,
            title: about.get("title").and_then(Value::as_str).unwrap_or(name).to_owned(),
            codes: texts("codes").into_iter().map(str::to_owned).collect(),
            is_default: about.get("default") == Some(&Value::Bool(true)),
            select: texts("select").into_iter().map(|text| compiler.expr(text, "/select").map_err(in_about)).collect::<Result<_, _>>()?,
            records: records.split('.').map(str::to_owned).collect(),
            flat: about.get("flat").and_then(Value::as_str).and_then(|path| {
                let path: Vec<String> = path.split('.').map(str::to_owned).collect();
                let block = path.last()?.clone();
                Some((path, block))
            }),
            facility: part("facility")?,
            reported: part("reported")?,
            label: part("label")?,
            visit: part("visit")?,
            client: about.get("client").map(|client| who(&compiler, client)).transpose().map_err(in_about)?,
            visit_key: match about.get("visitKey") {
                None => None,
                Some(_) => match part("visitKey")? {
                    Part::List(parts) => Some(parts),
                    _ => return Err(error(&about_file, "/visitKey", "must be a list of what makes a visit the same one next time")),
                },
            },
            identifiers: part("identifiers")?,
            rules: self.rules(name, &compiler)?,
            examples: self.examples(name)?,
            mapping,
            record,
            schema_json,
            schema,
        })
    }

    /// The mapping file and what it includes, with their fragments and what is common to all resources.
    #[allow(clippy::type_complexity)]
    fn mappings(&self, name: &str) -> Result<(Vec<(String, Value)>, HashMap<String, Value>, Map<String, Value>), TemplateError> {
        let main = format!("{name}/mapping.json");
        let mut files = vec![(main.clone(), self.json(&main)?)];
        let included: Vec<String> = files
            .iter()
            .flat_map(|(_, value)| value.get("include").and_then(Value::as_array).into_iter().flatten())
            .filter_map(|path| path.as_str().map(str::to_owned))
            .collect();
        for path in included {
            let value = self.json(&path).map_err(|_| error(&main, "/include", &format!("{path} is not there or is no JSON")))?;
            files.push((path, value));
        }
        let (mut fragments, mut common) = (HashMap::new(), Map::new());
        for (file, value) in &files {
            let known = ["include", "define", "common", "let", "submission", "record", "//"];
            if let Some(key) = value.as_object().into_iter().flat_map(Map::keys).find(|key| !known.contains(&key.as_str())) {
                return Err(error(file, "", &format!("{key} is no part of a mapping; those are {}", known.join(", "))));
            }
            let entries = |key: &str| value.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
            fragments.extend(entries("define"));
            common.extend(entries("common"));
        }
        Ok((files, fragments, common))
    }

    fn rules(&self, name: &str, compiler: &Compiler<'_>) -> Result<Vec<Rule>, TemplateError> {
        let file = format!("{name}/rules.json");
        if !self.0.contains_key(&file) {
            return Ok(Vec::new());
        }
        let rules = self.json(&file)?;
        let list = rules.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate();
        list.map(|(index, rule)| {
            let pointer = format!("/rules/{index}");
            let text = |key: &str| match rule.get(key).and_then(Value::as_str) {
                Some(text) => Ok(text),
                None => fault(&pointer, format!("needs {key}")),
            };
            let compiled = || {
                Ok(Rule {
                    expression: compiler.expr(text("expression")?, &format!("{pointer}/expression"))?,
                    path: text("path")?.to_owned(),
                    message: text("message")?.to_owned(),
                    error: text("severity")? == "error",
                })
            };
            compiled().map_err(|wrong: Fault| error(&file, &wrong.pointer, &wrong.message))
        })
        .collect()
    }

    fn examples(&self, name: &str) -> Result<Vec<(String, Value)>, TemplateError> {
        let folder = format!("{name}/examples/");
        self.0
            .keys()
            .filter_map(|path| Some((path, path.strip_prefix(&folder)?)))
            .map(|(path, file)| Ok((file.to_owned(), self.json(path)?)))
            .collect()
    }
}

/// The resource types that productions of a mapping file call shared.
fn shared_types(value: &Value, types: &mut HashSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| shared_types(item, types)),
        Value::Object(map) => {
            if map.get("shared") == Some(&Value::Bool(true)) {
                let type_name = map.get("resource").and_then(|resource| resource.get("resourceType")).and_then(Value::as_str);
                types.extend(type_name.map(str::to_owned));
            }
            map.values().for_each(|value| shared_types(value, types));
        }
        _ => {}
    }
}

fn who(compiler: &Compiler<'_>, client: &Value) -> Result<Who, Fault> {
    let known = ["number", "identifiers", "strong", "likeness", "contact", "care", "needs"];
    let Some(client) = client.as_object().filter(|client| client.keys().all(|key| known.contains(&key.as_str()))) else {
        return fault("/client", format!("must be an object of {}", known.join(", ")));
    };
    let part = |key: &str| match client.get(key) {
        Some(value) => compiler.part(value, &format!("/client/{key}")),
        None => Ok(Part::List(Vec::new())),
    };
    let traits = |key: &str| -> Result<Vec<Trait>, Fault> {
        let traits = client.get(key).and_then(Value::as_object).into_iter().flatten();
        let traits = traits.map(|(name, value)| {
            let part = compiler.part(value, &format!("/client/{key}/{name}"))?;
            let short = name.trim_end_matches('?');
            Ok(Trait { name: short.to_owned(), optional: short != name, part })
        });
        traits.collect()
    };
    let strong = client.get("strong").and_then(Value::as_array).into_iter().flatten();
    Ok(Who {
        number: part("number")?,
        identifiers: part("identifiers")?,
        strong: strong.filter_map(Value::as_str).map(str::to_owned).collect(),
        likeness: traits("likeness")?,
        contact: traits("contact")?,
        care: traits("care")?,
        needs: client.get("needs").and_then(Value::as_str).map(str::to_owned),
    })
}

pub(super) fn error(file: &str, pointer: &str, message: &str) -> TemplateError {
    TemplateError { file: file.to_owned(), pointer: pointer.to_owned(), message: message.to_owned() }
}
