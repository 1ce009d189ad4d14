//! What `check` finds: every file of `tests/findings` ends with the findings that it must get, and no others. What
//! strangers wrote is printed so that it acts on nothing.

#[path = "support/holds.rs"]
mod holds;
#[path = "support/hostile.rs"]
mod hostile;

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use i2kit::cloud::kinds;
use i2kit::manifest::{Options, Severity, SourceFile, read, render};

/// `severity code line path` of each finding.
fn findings(name: &str, bytes: &[u8], options: &Options) -> Vec<String> {
    let files = [SourceFile { name: name.to_owned(), bytes: bytes.to_vec() }];
    let reading = read(&files, options);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    render::json(&files, &reading)
        .iter()
        .map(|finding| {
            let [severity, code, path] = ["severity", "code", "path"].map(|key| text(&finding[key]));
            format!("{severity} {code} {} {path}", finding["line"]).trim_end().to_owned()
        })
        .collect()
}

#[test]
fn every_file_gets_the_findings_that_it_names() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings");
    let clouds = kinds::clouds(kinds::supports()[0]);
    let options = Options { language_only: true, clouds, ..Options::default() };
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let mut got = findings("x.yaml", text.as_bytes(), &options);
        // What waits for a later version is not what the files are about, nor is the size of machines.
        got.retain(|finding| !finding.starts_with("note not-deployable-yet"));
        let is_wanted = wanted.iter().any(|finding| finding.starts_with("note default-size"));
        got.retain(|finding| is_wanted || !finding.starts_with("note default-size"));
        files += 1;
        if got != wanted {
            wrong.push(format!("{}\n  wanted {wanted:#?}\n  got {got:#?}", path.display()));
        }
    }
    assert!(files > 30, "only {files} files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_limit_on_who_connects_is_applied_on_every_cloud_and_one_that_admits_nobody_is_told() {
    let ingress = include_str!("findings/closed-ingress.yaml").replace("192.0.2.1/33", "192.0.2.1/32");
    let service = |ranges: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{service.beta.kubernetes.io/load-balancer-source-ranges: {ranges}}}}}\nspec: {{type: LoadBalancer, loadBalancerSourceRanges: [{ranges}], selector: {{app: web}}, ports: [{{port: 80}}]}}\n"
        )
    };
    let annotated = service("192.0.2.0/24").replace("loadBalancerSourceRanges: [192.0.2.0/24], ", "");
    let noted = |text: &str, cloud: usize| {
        let options = Options { clouds: kinds::clouds(kinds::supports()[cloud]), ..Options::default() };
        let found = findings("x.yaml", text.as_bytes(), &options);
        let is_of_ranges = |finding: &&String| {
            finding.starts_with("note adapted") && finding.to_lowercase().contains("source")
        };
        found.iter().filter(is_of_ranges).count()
    };
    // Both annotations of the Ingress.
    let whitelist = "10.0.0.0/8, 192.0.2.1/32";
    assert_eq!((noted(&ingress, 0), noted(&ingress, 1)), (1, 0));
    for (range, expected) in [
        ("127.0.0.1/32", 0),
        ("127.0.0.0/8", 0),
        ("127.9.0.0/16", 0),
        ("0.0.0.0/0", 0),
        ("126.0.0.0/8", 1),
        ("fd00::/8", 1),
        ("::/0", 1),
    ] {
        let ingress = ingress.replace(whitelist, &format!("{range}, 192.0.2.1/32"));
        assert_eq!(noted(&ingress, 0), expected, "{range}");
        assert_eq!((noted(&service(range), 0), noted(&service(range), 1)), (expected, 0), "{range}");
    }
    assert_eq!((noted(&annotated, 0), noted(&annotated, 1)), (1, 0));
    assert_eq!(noted(&service(""), 0), 0, "no range is everybody");
}

#[test]
fn replicated_pods_wait_on_aws_and_work_on_the_local_cloud() {
    let text = include_str!("findings/replicated-well.yaml");
    let waiting = |cloud: usize| {
        let options = Options { clouds: kinds::clouds(kinds::supports()[cloud]), ..Options::default() };
        let found = findings("x.yaml", text.as_bytes(), &options);
        found.into_iter().filter(|finding| finding.contains("not-deployable-yet")).collect::<Vec<_>>()
    };
    assert_eq!(waiting(0), [""; 0]);
    let place = "29 spec.template.metadata.annotations[\"i2kit.dev/replicated\"]";
    assert!(waiting(1).contains(&format!("error not-deployable-yet {place}")), "{:?}", waiting(1));
}

#[test]
fn texts_that_are_none_are_refused_with_their_place() {
    let check = |bytes: &[u8]| findings("x.yaml", bytes, &Options::default());
    assert_eq!(check(b"kind: A\nname: \xff\xfe\n"), ["error encoding 2"]);
    assert_eq!(check(b"kind: A\nname: a\0b\n"), ["error encoding 2"]);
    assert_eq!(check(("a: ".to_owned() + &"[".repeat(100_000)).as_bytes()), ["error nesting-limit 1"]);
    let nested: Vec<String> = (0..10_000).map(|i| " ".repeat(i.min(400)) + "a:\n").collect();
    let nested = nested.concat();
    let found = check(nested.as_bytes());
    assert!(found[0].starts_with("error nesting-limit"), "{:?}", &found[..found.len().min(3)]);
    assert_eq!(check(&vec![b'#'; 33 << 20]), ["error too-large 1"]);
}

#[test]
fn an_alias_bomb_is_refused_early() {
    let found = findings("x.yaml", hostile::alias_bomb().as_bytes(), &Options::default());
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("error alias-limit"), "{found:?}");
}

/// Without bounds on the work for each finding this test would not come to an end; `scripts/bench` says how long it takes.
#[test]
fn hostile_files_are_refused_with_a_bounded_list() {
    for (name, text) in hostile::files(100_000) {
        let found =
            findings("x.yaml", text.as_bytes(), &Options { language_only: true, ..Options::default() });
        assert!((1..=1002).contains(&found.len()), "{name}: {} findings", found.len());
    }
}

#[test]
fn a_chain_of_aliases_cannot_nest_deeper_than_text() {
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for i in 1..400 {
        let (name, last) = (i.to_string(), (i - 1).to_string());
        chain += &["a", &name, ": &a", &name, " [*a", &last, "]\n"].concat();
    }
    let found = findings("x.yaml", chain.as_bytes(), &Options::default());
    assert!(found[0].starts_with("error nesting-limit"), "{found:?}");
}

#[test]
fn line_ends_and_byte_order_marks_change_no_finding() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  nam: a\n";
    let plain = findings("x.yaml", text.as_bytes(), &Options::default());
    assert_eq!(plain, ["error unknown-field 4 metadata.nam", "error missing-field 4 metadata.name"]);
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    assert_eq!(findings("x.yaml", windows.as_bytes(), &Options::default()), plain);
}

/// A namespace is part of names: nothing is missing where no file has the object, and with it nothing else comes out.
#[test]
fn a_namespace_needs_no_object() {
    let without = include_str!("findings/namespace-without-object.yaml");
    let object = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    for text in [without.to_owned(), format!("{without}{object}")] {
        let files = [SourceFile { name: "x.yaml".into(), bytes: text.into_bytes() }];
        let reading = read(&files, &Options { language_only: true, ..Options::default() });
        let found = [Severity::Error, Severity::Warning].map(|severity| reading.count(severity));
        assert_eq!(found, [0, 0], "{:?}", render::json(&files, &reading));
        let names: Vec<_> = reading.set.pods().map(|(name, _)| (&*name.namespace, &*name.name)).collect();
        assert_eq!(names, [("shop", "web")]);
    }
}

#[test]
fn switches_turn_refusals_off() {
    let text = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: a}\n";
    let options = Options { ignore_kinds: ["DaemonSet".to_owned()].into(), ..Options::default() };
    assert_eq!(findings("x.yaml", text.as_bytes(), &options), ["note ignored-kind 2"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings/host-and-privileged.yaml");
    let bytes = std::fs::read(path).unwrap();
    let options =
        Options { allow_privileged: true, host_is_vm: true, language_only: true, ..Options::default() };
    let files = [SourceFile { name: "x".into(), bytes }];
    assert_eq!(read(&files, &options).count(Severity::Error), 0);
}

#[test]
fn what_fuzzing_kept_still_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/kept/manifest.base64");
    let text = std::fs::read_to_string(path).unwrap();
    let mut inputs = 0;
    for line in text.lines() {
        holds::check(&base64::engine::general_purpose::STANDARD.decode(line).unwrap());
        inputs += 1;
    }
    assert!(inputs > 100, "only {inputs} inputs");
}

#[test]
fn what_strangers_write_acts_on_neither_stream() {
    let home = tempfile::tempdir().unwrap();
    // Standard output and standard error of the program, in a folder that is its user's home.
    let streams = |arguments: &[&str]| -> [String; 2] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_i2kit"));
        program.args(arguments).current_dir(home.path()).env_clear().env("HOME", home.path());
        let output = program.output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let hostile = "x\u{1b}[2J\u{9b}31m\n::error::y.yaml";
    let is_harmless = |text: &str| {
        text.chars().all(|c| c == '\n' || !i2kit::text::is_hidden(c))
            && !text.lines().any(|line| line.trim_start().starts_with("::"))
    };
    // There is no such file; then there is one, with an error in it.
    for content in [None, Some("kind: A\n")] {
        if let Some(content) = content {
            std::fs::write(home.path().join(hostile), content).unwrap();
        }
        for format in ["text", "json"] {
            let [out, error] = streams(&["check", hostile, "--output", format]);
            assert!(is_harmless(&out) && is_harmless(&error), "{out:?} {error:?}");
            assert!(out.contains("y.yaml") || error.contains("y.yaml"), "{out:?} {error:?}");
        }
    }
    // A result that is a file as it is.
    streams(&["ca", "create"]);
    std::fs::write(home.path().join(".local/state/i2kit/ca/ca.crt"), hostile).unwrap();
    let [out, error] = streams(&["ca", "print"]);
    assert_eq!((out.as_str(), error.as_str()), ("x␛[2J\\u{9b}31m\n::error::y.yaml", ""));
}
