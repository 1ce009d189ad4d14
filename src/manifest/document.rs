//! What a document is: an object of a kind, a list, the short form, or something that is not read and why.

use super::Options;
use super::check::Check;
use super::code::Code;
use super::language::{KINDS, Kind, LIST, removed_in};
use super::tree::{Entry, Node, Value};
use super::words::nearest;

/// What a document turned out to be.
pub(super) enum Found {
    Kind(&'static Kind),
    List,
    Short,
    /// Something that was reported, or asked to be left out.
    Nothing,
}

/// What the document is; sets the object's name in messages on the way.
pub(super) fn find(check: &mut Check<'_>, root: &Node<'_>) -> Found {
    if !matches!(root.value, Value::Map(_)) {
        let message = format!("expected an object, got {}", root.kind());
        check
            .report(Code::NoObject, root.span, message)
            .help("an object begins with `apiVersion` and `kind`");
        return Found::Nothing;
    }
    let (version, kind) = (root.entry("apiVersion"), root.entry("kind"));
    let (Some(version), Some(kind)) = (version, kind) else {
        return without_kind(check, root, version.is_some(), kind.is_some());
    };
    let (Some(version_text), Some(kind_text)) = (version.value.scalar(), kind.value.scalar()) else {
        check.report(Code::WrongType, root.span, "`apiVersion` and `kind` must be strings");
        return Found::Nothing;
    };
    let items = kind_text.strip_suffix(LIST.name);
    if items.is_some_and(|of| of.is_empty() || is_kind(of) || root.get("items").is_some()) {
        kind_text.clone_into(&mut check.object);
        check.object(root, &LIST);
        return Found::List;
    }
    let name = root.at(&["metadata", "name"]).and_then(Node::scalar).unwrap_or("?");
    check.object = format!("{kind_text}/{name}");
    if is_ignored(check.options, kind_text, group_of(version_text)) {
        let message = format!("{kind_text} is left out, as --ignore-kind asks");
        check.report(Code::IgnoredKind, kind.value.span, message);
        return Found::Nothing;
    }
    let known = KINDS.iter().find(|known| known.api_version == version_text && known.name == kind_text);
    known.map_or_else(
        || {
            unknown(check, version, kind, version_text, kind_text);
            Found::Nothing
        },
        Found::Kind,
    )
}

fn is_kind(name: &str) -> bool {
    KINDS.iter().any(|kind| kind.name == name)
}

/// `apiVersion` and `kind` of the items of a list such as `ConfigMapList`: the API server leaves them out there.
pub(super) fn items_kind<'a>(list: &Node<'a>) -> Option<[Entry<'a>; 2]> {
    let (version, kind) = (list.entry("apiVersion")?, list.entry("kind")?);
    let name = kind.value.scalar()?.strip_suffix(LIST.name).filter(|name| !name.is_empty())?;
    let value = Node::text(name.to_owned(), kind.value.span);
    Some([version.clone(), Entry { value, ..kind.clone() }])
}

/// The API group of a version; empty for the first objects that Kubernetes had.
fn group_of(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether `--ignore-kind` names the kind, alone or with its group: `Service.serving.knative.dev`.
fn is_ignored(options: &Options, kind: &str, group: &str) -> bool {
    options.ignore_kinds.iter().any(|ignored| match ignored.split_once('.') {
        Some((name, of)) => name.eq_ignore_ascii_case(kind) && of.eq_ignore_ascii_case(group),
        None => ignored.eq_ignore_ascii_case(kind),
    })
}

/// Whether the group is one of Kubernetes' own, not of an operator.
fn is_own(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

/// Files of other tools, by keys that hold maps or lists, and what to do with them.
const OTHER_FORMATS: &[(&[&str], &str)] = &[
    (
        &["resources", "patches", "configMapGenerator", "bases"],
        "this looks like a kustomization: give its folder with `-k DIR`",
    ),
    (&["services"], "this looks like a Compose file: run `kompose convert` first and check what it prints"),
    (
        &["image", "ingress", "service"],
        "this looks like the values of a chart: check what `helm template` prints",
    ),
];

fn without_kind(check: &mut Check<'_>, root: &Node<'_>, has_version: bool, has_kind: bool) -> Found {
    let keys = || root.entries().iter().map(|entry| entry.key.as_ref());
    if !has_version && !has_kind {
        let near = nearest("apiVersion", keys()).or_else(|| nearest("kind", keys()));
        let other = OTHER_FORMATS.iter().find(|(marks, _)| {
            marks.iter().any(|mark| root.get(mark).is_some_and(|node| node.scalar().is_none()))
        });
        if near.is_none() && (root.get("containers").is_some() || root.get("name").is_some()) {
            return Found::Short;
        }
        check
            .report(
                Code::NoObject,
                root.span,
                "neither an object (`apiVersion`, `kind`) nor the short form (`name`, `containers`)",
            )
            .maybe_help(
                near.map(|near| format!("`{near}` is misspelt"))
                    .or_else(|| other.map(|(_, help)| (*help).to_owned())),
            );
        return Found::Nothing;
    }
    let missing = if has_version { "kind" } else { "apiVersion" };
    let is_chart = matches!(root.str("apiVersion"), Some("v1" | "v2")) && root.get("version").is_some();
    let help = if is_chart {
        Some("this looks like the description of a chart: check what `helm template` prints".to_owned())
    } else {
        nearest(missing, keys()).map(|near| format!("`{near}` is probably meant to be `{missing}`"))
    };
    check.key(missing, |check| {
        let message = format!("required field `{missing}` is missing");
        check.report(Code::MissingField, root.span, message).maybe_help(help);
    });
    Found::Nothing
}

/// Says why a kind and version are not read.
fn unknown(
    check: &mut Check<'_>,
    version: &Entry<'_>,
    kind: &Entry<'_>,
    version_text: &str,
    kind_text: &str,
) {
    let group = group_of(version_text);
    let current = KINDS.iter().find(|known| known.name == kind_text).filter(|_| is_own(group));
    if let Some((release, successor)) = removed_in(version_text, kind_text) {
        let message = format!("{version_text} {kind_text} was removed in Kubernetes {release}");
        let help = if successor.starts_with("no ") {
            "it has no successor: remove the object".to_owned()
        } else {
            format!("use {successor}")
        };
        check.key("apiVersion", |check| {
            check.report(Code::RemovedVersion, version.value.span, message).help(help);
        });
    } else if let Some(current) = current {
        let message = format!("there is no {kind_text} in {}", check.shown(version_text));
        check.key("apiVersion", |check| {
            check
                .report(Code::UnknownKind, version.value.span, message)
                .help(format!("use {}", current.api_version));
        });
    } else {
        let message = format!(
            "kind {} of {} is not one that i2kit reads",
            check.shown(kind_text),
            check.shown(version_text)
        );
        let near = nearest(kind_text, KINDS.iter().map(|known| known.name)).filter(|_| is_own(group));
        let dot = if group.is_empty() { "" } else { "." };
        let help = near.map_or_else(
            || format!("pass --ignore-kind {kind_text}{dot}{group} if the rest can do without it"),
            |near| format!("did you mean `{near}`?"),
        );
        check.key("kind", |check| {
            check.report(Code::UnknownKind, kind.value.span, message).help(help);
        });
    }
}
