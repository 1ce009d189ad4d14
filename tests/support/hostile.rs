//! Manifests made to cost time and memory: each has a size, and each would take far more than its size deserves from a
//! reader without bounds.

/// Files of about `size` bytes, with a name for each.
pub(crate) fn files(size: usize) -> Vec<(&'static str, String)> {
    vec![
        ("an alias bomb", alias_bomb()),
        ("a long text behind many aliases", long_text_behind_aliases(size)),
        ("anchors inside of anchors", nested_anchors(size)),
        ("merges of a large map", merges(size)),
        ("one key many times", repeat(size, |_| "a: b\n".into())),
        ("a long map, twice", repeat(size / 2, |i| format!("k{i}: b\n")).repeat(2)),
        ("broken documents", repeat(size, |_| "---\nkind: Secret\na: [\n".into())),
        ("brackets", "[".repeat(size)),
        ("dashes", "- ".repeat(size / 2)),
        ("question marks", "? ".repeat(size / 2)),
        ("growing indentation", indented(size)),
        ("unknown fields", object("v1", "Pod", &repeat(size, |i| format!("spce{i}: 1\n")))),
        (
            "unknown references",
            pod(&format!(
                "    envFrom:\n{}",
                repeat(size, |i| format!("    - configMapRef: {{name: m{i}}}\n"))
            )),
        ),
        ("mounts of no volume", mounts(size)),
        ("keys of one map", keys_of_one_map(size)),
        ("services of all pods", services_of_all_pods(size)),
        ("a long key", format!("{}: 1\n", "k".repeat(size))),
        ("a long line of quotes", format!("a: \"{}\"\n", "\\n".repeat(size / 2))),
        ("a long folded text", format!("a: >\n{}", repeat(size, |_| "  b\n\n".into()))),
    ]
}

/// Every level stands for nine of the one before it.
pub(crate) fn alias_bomb() -> String {
    let mut bomb = "data:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..30 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb += &["  a", &i.to_string(), ": &a", &i.to_string(), " [", &aliases, "]\n"].concat();
    }
    bomb
}

/// `line` of 0, 1, 2 and so on, until there are `size` bytes.
fn repeat(size: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    let mut i = 0;
    while text.len() < size {
        text += &line(i);
        i += 1;
    }
    text
}

fn object(version: &str, kind: &str, rest: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n{rest}")
}

fn pod(container: &str) -> String {
    object("v1", "Pod", &format!("spec:\n  containers:\n  - name: a\n    image: a:1\n{container}"))
}

fn long_text_behind_aliases(size: usize) -> String {
    // Escapes make it a text that is not simply a part of the file.
    format!("a: &a \"{}\"\nb:\n{}", "\\x41".repeat(size / 8), repeat(size / 2, |_| "- *a\n".into()))
}

fn nested_anchors(size: usize) -> String {
    let open: String = (0..100).fold(String::new(), |text, i| text + &format!("&a{i} ["));
    format!("{open}{}{}", "x, ".repeat(size / 3), "]".repeat(100))
}

fn merges(size: usize) -> String {
    format!("{}{}", repeat(size / 2, |i| format!("k{i}: 1\n")), repeat(size / 2, |_| "<<: {}\n".into()))
}

fn indented(size: usize) -> String {
    let mut text = String::new();
    let mut depth = 0;
    while text.len() < size {
        text += &" ".repeat(depth);
        text += "a:\n";
        depth = (depth + 1) % 400;
    }
    text
}

fn mounts(size: usize) -> String {
    let mounts = repeat(size / 2, |i| format!("    - {{name: v{i}, mountPath: /v{i}}}\n"));
    let volumes = repeat(size / 2, |i| format!("  - {{name: w{i}, emptyDir: {{}}}}\n"));
    pod(&format!("    volumeMounts:\n{mounts}  volumes:\n{volumes}"))
}

fn keys_of_one_map(size: usize) -> String {
    let keys = repeat(size / 4, |i| format!("  k{i}: v\n"));
    let variables = repeat(size / 2, |i| {
        format!("    - {{name: A{i}, valueFrom: {{configMapKeyRef: {{name: a, key: k{i}}}}}}}\n")
    });
    format!(
        "{}---\n{}",
        object("v1", "ConfigMap", &format!("data:\n{keys}")),
        pod(&format!("    env:\n{variables}"))
    )
}

fn services_of_all_pods(size: usize) -> String {
    let pods = repeat(size / 2, |i| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}, labels: {{app: a}}}}\nspec: {{containers: [{{name: a, image: \"a:1\"}}]}}\n"
        )
    });
    let services = repeat(size / 2, |i| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{selector: {{app: a}}, ports: [{{port: 80}}]}}\n"
        )
    });
    pods + &services
}
