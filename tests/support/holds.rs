//! What holds for any bytes as a set of manifests: findings lie inside the files, they can be shown in every form, and what
//! `convert` prints means what it was made from. The fuzz target runs it, and the test that replays what fuzzing found.
//!
//! A line of `#---` begins the next file; the first byte chooses the switches.

use i2kit::manifest::{self, Code, Options, Place, Reading, SourceFile, render};

/// Fails when something does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let options = options(bytes.first().copied().unwrap_or_default());
    let files = files(bytes);
    let reading = manifest::read(&files, &options);
    inside(&files, &reading);
    let shown = render::text(&files, &reading, bytes.len().is_multiple_of(2));
    assert_eq!(shown.is_empty(), reading.diagnostics.is_empty());
    assert_eq!(render::json(&files, &reading).len(), reading.diagnostics.len());
    let _ = render::github(&files, &reading);
    let _ = render::sarif(&files, &reading, "0");
    converted(&files);
}

fn options(bits: u8) -> Options {
    let mut options = Options {
        language_only: bits & 1 == 0,
        allow_privileged: bits & 2 != 0,
        host_is_vm: bits & 4 != 0,
        ..Options::default()
    };
    if bits & 8 != 0 {
        options.ignore_kinds.insert("NetworkPolicy".into());
        options.external.extend("secret/database".parse());
    }
    options
}

/// A comment divides the files, so that an ordinary manifest is a seed as it is.
fn files(bytes: &[u8]) -> Vec<SourceFile> {
    const MARK: &[u8] = b"\n#---\n";
    let mut files = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        files.push(SourceFile { name: format!("{}.yaml", files.len()), bytes: rest[..=at].to_vec() });
        rest = &rest[at + MARK.len()..];
    }
    files.push(SourceFile { name: "last.yaml".into(), bytes: rest.to_vec() });
    files
}

fn inside(files: &[SourceFile], reading: &Reading) {
    let holds =
        |place: &Place| place.span.start <= place.span.end && place.span.end <= files[place.file].bytes.len();
    for diagnostic in &reading.diagnostics {
        assert_ne!(diagnostic.code, Code::Internal, "{diagnostic:?}");
        assert!(holds(&diagnostic.place), "{diagnostic:?}");
        assert!(diagnostic.related.iter().all(|(place, _)| holds(place)), "{diagnostic:?}");
    }
}

/// What `convert` prints must mean the same, and be printed the same again.
fn converted(files: &[SourceFile]) {
    let Ok(long) = manifest::convert(files) else { return };
    let again = [SourceFile { name: "long.yaml".into(), bytes: long.clone().into_bytes() }];
    let options = Options { language_only: true, ..Options::default() };
    let (before, after) = (manifest::read(files, &options), manifest::read(&again, &options));
    assert!(!after.has_errors(), "{:?}\n{long}", after.diagnostics);
    assert_eq!(before.set, after.set, "{long}");
    assert_eq!(manifest::convert(&again).ok().as_ref(), Some(&long));
}
