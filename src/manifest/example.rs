//! Small manifests for tests, and what reading them gives.

use super::{Options, Reading, SourceFile, read, render};

/// A pod that is fine, as lines below `template:` of a workload.
pub(crate) const POD: &str = "
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: nginx:1.27
        resources: {requests: {memory: 64Mi}}
        ports:
        - containerPort: 80
";

pub(crate) fn reading(texts: &[&str], options: &Options) -> (Vec<SourceFile>, Reading) {
    let files: Vec<SourceFile> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| SourceFile { name: format!("{i}.yaml"), bytes: text.as_bytes().to_vec() })
        .collect();
    let reading = read(&files, options);
    (files, reading)
}

/// Findings as `code line path: message` lines.
pub(crate) fn findings(text: &str, options: &Options) -> String {
    let (files, reading) = reading(&[text], options);
    let lines = render::json(&files, &reading);
    let line = |value: &serde_json::Value| {
        let of = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}: {}", of("code"), value["line"], of("path"), of("message"))
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A Deployment with the lines `rest` in its `spec`.
pub(crate) fn deployment(rest: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  selector:\n    matchLabels: {{app: web}}{rest}"
    )
}
