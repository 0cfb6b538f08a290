//! What a template asks for, block by block, read off its schema.

use crate::ingest::template::Definition;
use serde_json::{Map, Value, json};

/// Nested objects deeper than this are named and not opened: a schema may refer to itself.
const MOST_DEPTH: usize = 8;

/// `{template, blocks: [{path, fields: [{name, type, format, mandatory, options}]}]}`
pub fn blocks(template: &Definition) -> Value {
    let schema = template.schema();
    let mut found = Vec::new();
    block(schema, schema, String::new(), 0, &mut found);
    json!({ "template": template.name(), "name": template.title(), "blocks": found })
}

fn block(root: &Value, node: &Value, path: String, depth: usize, found: &mut Vec<Value>) {
    let node = resolve(root, node);
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
    let mandatory: Vec<&str> = node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields = Vec::new();
    let mut inner = Vec::new();
    for (name, property) in properties {
        let property = resolve(root, property);
        let (item, many) = match property.get("items") {
            Some(items) => (resolve(root, items), true),
            None => (property, false),
        };
        let mut field = Map::new();
        field.insert("name".to_owned(), json!(name));
        let kind = item.get("type").cloned().unwrap_or_else(|| json!(if item.get("enum").is_some() { "string" } else { "object" }));
        field.insert("type".to_owned(), kind);
        field.insert("list".to_owned(), json!(many));
        field.insert("mandatory".to_owned(), json!(mandatory.contains(&name.as_str())));
        for (key, from) in [("format", "format"), ("options", "enum"), ("description", "description")] {
            if let Some(value) = item.get(from) {
                field.insert(key.to_owned(), value.clone());
            }
        }
        if item.get("properties").is_some() && depth < MOST_DEPTH {
            let step = if many { format!("{name}[]") } else { name.clone() };
            inner.push((if path.is_empty() { step } else { format!("{path}.{step}") }, item));
        }
        fields.push(Value::Object(field));
    }
    found.push(json!({ "path": path, "fields": fields }));
    for (path, item) in inner {
        block(root, item, path, depth + 1, found);
    }
}

/// Follows `$ref` within the schema.
fn resolve<'s>(root: &'s Value, node: &'s Value) -> &'s Value {
    let target = node.get("$ref").and_then(Value::as_str).and_then(|reference| root.pointer(reference.strip_prefix('#')?));
    target.unwrap_or(node)
}
