//! Volumes.

use base64::Engine as _;
use i2kit_spec::{LateContent, SecretKey, SecretName};

use super::env::{FieldValue, field, resource};
use super::object::{Object, Read};
use super::scope::PodScope;
use crate::manifest::api::{ClaimSpec, FileContent, Volume, VolumeFile, VolumeSource};
use crate::manifest::tree::{Node, Resolved};

/// Permissions of files where neither volume nor file sets any.
const DEFAULT_MODE: u32 = 0o644;

/// `volumes[]`.
pub(super) fn volume(volume: Object<'_>, pod: &PodScope<'_>) -> Read<Volume> {
    Ok(Volume { name: volume.text("name")?, source: source(volume, pod)? })
}

fn source(volume: Object<'_>, pod: &PodScope<'_>) -> Read<VolumeSource> {
    for kind in ["configMap", "secret", "downwardAPI"] {
        if volume.has(kind) {
            let part = volume.object(kind)?;
            let mode = mode(part, "defaultMode")?.unwrap_or(DEFAULT_MODE);
            return Ok(VolumeSource::Files(files(kind, part, mode, pod)?));
        }
    }
    if volume.has("projected") {
        let projected = volume.object("projected")?;
        let mode = mode(projected, "defaultMode")?.unwrap_or(DEFAULT_MODE);
        let mut all = Vec::new();
        for source in projected.objects("sources")? {
            for kind in ["configMap", "secret", "downwardAPI"] {
                if source.has(kind) {
                    all.extend(files(kind, source.object(kind)?, mode, pod)?);
                }
            }
        }
        return Ok(VolumeSource::Files(all));
    }
    if volume.has("persistentVolumeClaim") {
        let claim = volume.object("persistentVolumeClaim")?;
        return Ok(VolumeSource::Claim {
            claim: claim.text("claimName")?,
            read_only: claim.flag("readOnly")?,
        });
    }
    if volume.has("ephemeral") {
        let claim = volume.object("ephemeral")?.object("volumeClaimTemplate")?;
        let size = disk(claim.object("spec")?)?.size;
        return Ok(VolumeSource::EmptyDir { memory: false, size_limit_bytes: Some(size) });
    }
    let scratch = volume.object("emptyDir")?;
    Ok(VolumeSource::EmptyDir {
        memory: scratch.text("medium")? == "Memory",
        size_limit_bytes: scratch.size_if("sizeLimit")?,
    })
}

/// The disk that the `spec` of a claim asks for.
pub(super) fn disk(spec: Object<'_>) -> Read<ClaimSpec> {
    let requests = spec.object("resources")?.object("requests")?;
    Ok(ClaimSpec {
        size: requests.size_if("storage")?.ok_or_else(|| requests.missing("storage"))?,
        storage_class: spec.text_if("storageClassName")?.filter(|name| !name.is_empty()),
    })
}

fn mode(object: Object<'_>, name: &str) -> Read<Option<u32>> {
    object.value_if(name, |_, resolved| match resolved {
        Resolved::Int(mode) => u32::try_from(mode).ok(),
        _ => None,
    })
}

fn files(kind: &str, part: Object<'_>, mode: u32, pod: &PodScope<'_>) -> Read<Vec<VolumeFile>> {
    match kind {
        "configMap" => config_map(part, mode, pod),
        "secret" => secret(part, mode, pod),
        _ => downward(part, mode, pod),
    }
}

/// The keys that `items` picks, with their paths and modes.
fn items(part: Object<'_>, default: u32) -> Read<Vec<(String, String, u32)>> {
    part.objects("items")?
        .into_iter()
        .map(|item| Ok((item.text("key")?, item.text("path")?, mode(item, "mode")?.unwrap_or(default))))
        .collect()
}

fn config_map(part: Object<'_>, mode: u32, pod: &PodScope<'_>) -> Read<Vec<VolumeFile>> {
    let Some(map) = pod.scope.find("ConfigMap", &part.text("name")?) else { return Ok(Vec::new()) };
    let texts = map.get("data").map_or(&[][..], Node::entries).iter();
    let binaries = map.get("binaryData").map_or(&[][..], Node::entries).iter();
    let text = |node: &Node<'_>| {
        if node.is_null() { String::new() } else { node.scalar().unwrap_or_default().to_owned() }
    };
    let mut contents: Vec<(String, Vec<u8>)> =
        texts.map(|entry| (entry.key.to_string(), text(&entry.value).into_bytes())).collect();
    for entry in binaries {
        contents
            .push((entry.key.to_string(), decode(&text(&entry.value)).ok_or_else(|| part.missing("name"))?));
    }
    let file = |path: String, mode: u32, bytes: &[u8]| VolumeFile {
        path,
        mode,
        content: FileContent::Bytes(bytes.to_vec()),
    };
    if !part.has("items") {
        return Ok(contents.into_iter().map(|(key, bytes)| file(key, mode, &bytes)).collect());
    }
    let picked = items(part, mode)?.into_iter().filter_map(|(key, path, mode)| {
        let (_, bytes) = contents.iter().find(|(known, _)| *known == key)?;
        Some(file(path, mode, bytes))
    });
    Ok(picked.collect())
}

/// Bytes from base64, which may be broken into lines.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let bare: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(bare).ok()
}

fn secret(part: Object<'_>, mode: u32, pod: &PodScope<'_>) -> Read<Vec<VolumeFile>> {
    // The field has one name in volumes and another in projections.
    let name_field = if part.has("secretName") { "secretName" } else { "name" };
    let (name, optional) = (part.text(name_field)?, part.flag("optional")?);
    let file = |path: String, mode: u32, key: String| VolumeFile {
        path,
        mode,
        content: FileContent::Late(LateContent::Secret(SecretKey { secret: name.clone(), key, optional })),
    };
    if part.has("items") {
        return Ok(items(part, mode)?.into_iter().map(|(key, path, mode)| file(path, mode, key)).collect());
    }
    let Some(known) = pod.scope.find("Secret", &name) else {
        let content = FileContent::Late(LateContent::WholeSecret(SecretName { secret: name, optional }));
        return Ok(vec![VolumeFile { path: String::new(), mode, content }]);
    };
    let mut keys: Vec<String> = ["data", "stringData"]
        .iter()
        .filter_map(|map| known.get(map))
        .flat_map(Node::entries)
        .map(|entry| entry.key.to_string())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    Ok(keys.into_iter().map(|key| file(key.clone(), mode, key)).collect())
}

fn downward(part: Object<'_>, default: u32, pod: &PodScope<'_>) -> Read<Vec<VolumeFile>> {
    let file = |item: Object<'_>| {
        let value = if item.has("fieldRef") {
            field(item.object("fieldRef")?, pod)?
        } else {
            resource(item.object("resourceFieldRef")?, None, pod)?
        };
        let content = match value {
            FieldValue::Known(text) => FileContent::Bytes(text.into_bytes()),
            FieldValue::Instance(field) => FileContent::Late(LateContent::Instance(field)),
        };
        Ok(VolumeFile { path: item.text("path")?, mode: mode(item, "mode")?.unwrap_or(default), content })
    };
    part.objects("items")?.into_iter().map(file).collect()
}
