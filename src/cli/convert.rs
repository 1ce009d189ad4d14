//! `i2kit convert`: the short form as the objects that it stands for.

use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::args::ConvertArgs;
use super::exit::{Exit, Failure, OrExit as _};
use super::{input_files, output, reading};
use crate::manifest;
use crate::report::{self, Format};

/// Prints all objects as YAML documents, or as one List in JSON.
pub(super) fn run(args: &ConvertArgs, format: Format) -> Result<Exit, Failure> {
    let files = input_files::files(&args.manifests, &args.options)?;
    match manifest::convert(&files) {
        Ok(text) => {
            match format {
                Format::Text => report::result(&text),
                Format::Json => output::json(&list(&text).or_exit(Exit::Failure)?),
            }
            Ok(Exit::Success)
        }
        Err(found) => {
            reading::show(&files, &found, format);
            Err(Failure::silent(Exit::Manifest))
        }
    }
}

/// The documents as kubectl prints several objects.
fn list(text: &str) -> anyhow::Result<Value> {
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let items: Vec<Value> =
        documents.collect::<Result<_, _>>().context("what is converted has no form in JSON")?;
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_become_a_list() {
        let text = "kind: Pod\nports: [80]\n---\nkind: Service\nvalue: \"80\"\n";
        let items = json!([{"kind": "Pod", "ports": [80]}, {"kind": "Service", "value": "80"}]);
        assert_eq!(list(text).unwrap()["items"], items);
    }
}
