//! Environment variables, and the other places where fields of the pod and its resources appear.

use i2kit_spec::{EnvValue, EnvVar, InstanceField, SecretKey, SecretName};

use super::object::{Missing, Object, Read};
use super::scope::PodScope;
use crate::manifest::check::{Divided, divided, subscript};
use crate::manifest::tree::{Node, Resolved};

/// A value that is known, or that only the instance knows.
pub(super) enum FieldValue {
    Known(String),
    Instance(InstanceField),
}

/// The variables of a container: those of `envFrom` in their order, then its own.
pub(super) fn variables(container: Object<'_>, pod: &PodScope<'_>) -> Read<Vec<EnvVar>> {
    let mut variables = Vec::new();
    for source in container.objects("envFrom")? {
        let prefix = source.text_if("prefix")?.unwrap_or_default();
        if source.has("secretRef") {
            let secret = source.object("secretRef")?;
            let whole = SecretName { secret: secret.text("name")?, optional: secret.flag("optional")? };
            variables.push(EnvVar { name: prefix, value: EnvValue::WholeSecret(whole) });
            continue;
        }
        let Some(map) = pod.scope.find("ConfigMap", &source.object("configMapRef")?.text("name")?) else {
            continue;
        };
        for entry in map.get("data").map_or(&[][..], Node::entries) {
            let value = EnvValue::Fixed(text_of(&entry.value).to_owned());
            variables.push(EnvVar { name: format!("{prefix}{}", entry.key), value });
        }
    }
    for variable in container.objects("env")? {
        if let Some(value) = value(variable, container, pod)? {
            variables.push(EnvVar { name: variable.text("name")?, value });
        }
    }
    Ok(variables)
}

/// The value of one variable; none when it comes from something optional that is missing.
fn value(variable: Object<'_>, container: Object<'_>, pod: &PodScope<'_>) -> Read<Option<EnvValue>> {
    if !variable.has("valueFrom") {
        return Ok(Some(EnvValue::Written(variable.text_if("value")?.unwrap_or_default())));
    }
    let source = variable.object("valueFrom")?;
    if source.has("configMapKeyRef") {
        let (name, key) = key_of(source.object("configMapKeyRef")?)?;
        let value = pod.scope.text(&name, &key);
        return Ok(value.map(|value| EnvValue::Fixed(text_of(value).to_owned())));
    }
    if source.has("secretKeyRef") {
        let reference = source.object("secretKeyRef")?;
        let (secret, key) = key_of(reference)?;
        return Ok(Some(EnvValue::Secret(SecretKey { secret, key, optional: reference.flag("optional")? })));
    }
    let known = if source.has("fieldRef") {
        field(source.object("fieldRef")?, pod)?
    } else {
        resource(source.object("resourceFieldRef")?, Some(container), pod)?
    };
    Ok(Some(match known {
        FieldValue::Known(text) => EnvValue::Fixed(text),
        FieldValue::Instance(field) => EnvValue::Instance(field),
    }))
}

fn key_of(reference: Object<'_>) -> Read<(String, String)> {
    Ok((reference.text("name")?, reference.text("key")?))
}

/// The text of a ConfigMap's value; a null is an empty text.
fn text_of<'n>(node: &'n Node<'_>) -> &'n str {
    if node.is_null() { "" } else { node.scalar().unwrap_or_default() }
}

/// `fieldRef`.
pub(super) fn field(reference: Object<'_>, pod: &PodScope<'_>) -> Read<FieldValue> {
    let path = reference.text("fieldPath")?;
    if let Some((label, key)) = subscript(&path) {
        let map = if label { pod.labels } else { pod.annotations };
        // Labels that Kubernetes sets on members of a StatefulSet.
        let of_member = match key {
            "statefulset.kubernetes.io/pod-name" => Some(InstanceField::Name),
            "apps.kubernetes.io/pod-index" => Some(InstanceField::Ordinal),
            _ => None,
        };
        if let Some(field) = of_member.filter(|_| label && pod.scope.stateful) {
            return Ok(FieldValue::Instance(field));
        }
        return Ok(match map.get(key) {
            None if key == InstanceField::INDEX_ANNOTATION => {
                FieldValue::Instance(InstanceField::CompletionIndex)
            }
            value => FieldValue::Known(value.cloned().unwrap_or_default()),
        });
    }
    Ok(match path.as_str() {
        "metadata.namespace" => FieldValue::Known(pod.scope.namespace.to_owned()),
        "metadata.labels" => FieldValue::Known(lines(pod.labels)),
        "metadata.annotations" => FieldValue::Known(lines(pod.annotations)),
        "spec.serviceAccountName" => FieldValue::Known(pod.service_account.unwrap_or("default").to_owned()),
        "metadata.name" => FieldValue::Instance(InstanceField::Name),
        "metadata.uid" => FieldValue::Instance(InstanceField::Uid),
        "spec.nodeName" => FieldValue::Instance(InstanceField::NodeName),
        "status.hostIP" | "status.podIP" => FieldValue::Instance(InstanceField::Ip),
        "status.hostIPs" | "status.podIPs" => FieldValue::Instance(InstanceField::Ips),
        _ => return Err(reference.missing("fieldPath")),
    })
}

/// `key="value"` lines, as files of the downward API have them.
fn lines(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// `resourceFieldRef`; `container` is the one at hand.
pub(super) fn resource(
    reference: Object<'_>,
    container: Option<Object<'_>>,
    pod: &PodScope<'_>,
) -> Read<FieldValue> {
    let wanted = reference.text("resource")?;
    let divisor = reference.text("divisor")?;
    let container = match reference.text_if("containerName")? {
        Some(name) => find(pod, &name)?,
        None => container,
    };
    let container = container.ok_or_else(|| reference.missing("containerName"))?;
    let (group, name) = wanted.split_once('.').ok_or_else(|| reference.missing("resource"))?;
    let resources = container.object("resources")?;
    let given = resources.object(group)?.text_if(name)?;
    // A request that is not given is the limit, as everywhere in Kubernetes.
    let given = match (given, group) {
        (None, "requests") => resources.object("limits")?.text_if(name)?,
        (given, _) => given,
    };
    match divided(name, given.as_deref(), &divisor).ok_or_else(|| reference.missing("divisor"))? {
        Divided::Amount(amount) => Ok(FieldValue::Known(amount.to_string())),
        Divided::Machine(_) if group == "requests" => Ok(FieldValue::Known("0".into())),
        Divided::Machine(field) => Ok(FieldValue::Instance(field)),
    }
}

fn find<'p>(pod: &PodScope<'p>, name: &str) -> Result<Option<Object<'p>>, Missing> {
    for list in ["containers", "initContainers"] {
        for container in pod.pod.objects(list)? {
            if container.text("name")? == name {
                return Ok(Some(container));
            }
        }
    }
    Ok(None)
}

/// The number behind a port's number or name.
pub(super) fn port(action: Object<'_>, container: Object<'_>) -> Read<u16> {
    let wanted = action.value("port", |text, resolved| match resolved {
        Resolved::Int(number) => u16::try_from(number).ok().map(Ok),
        _ => Some(Err(text.to_owned())),
    })?;
    match wanted {
        Ok(number) => Ok(number),
        Err(name) => {
            for port in container.objects("ports")? {
                if port.text_if("name")?.as_deref() == Some(&name) {
                    return port.number("containerPort");
                }
            }
            Err(action.missing("port"))
        }
    }
}
