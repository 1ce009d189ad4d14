//! Services and Ingresses.

use std::collections::BTreeMap;

use super::container::protocol;
use super::object::{Object, Read};
use super::scope::Scope;
use crate::manifest::api::{
    BackendPort, Ingress, IngressBackend, IngressPath, IpFamilies, IpFamily, Protocol, Service, ServicePort,
    ServiceType, TargetPort, Tls, TlsSecret,
};
use crate::manifest::support::{Annotation, Clouds};
use crate::manifest::tree::Resolved;

/// `v1` Service.
pub(super) fn service(object: Object<'_>, scope: &Scope<'_>) -> Read<Service> {
    let spec = object.object("spec")?;
    let sticky = spec.text("sessionAffinity")? == "ClientIP";
    let timeout = spec.object("sessionAffinityConfig")?.object("clientIP")?.seconds("timeoutSeconds")?;
    let meta = scope.meta(object)?;
    let internal = meta.annotations.iter().any(|(key, value)| scope.clouds().is_internal(key, value));
    let mut ports = spec.objects("ports")?.into_iter().map(port).collect::<Read<Vec<_>>>()?;
    for port in &mut ports {
        port.tls = tls(scope.clouds(), &meta.annotations, port);
    }
    let ranges = spec.texts_if("loadBalancerSourceRanges")?.filter(|ranges| !ranges.is_empty());
    let annotated = scope.clouds().value(&meta.annotations, Annotation::SourceRanges);
    let annotated = || annotated.map(|text| items(text).map(str::to_owned).collect());
    let source_ranges = ranges.or_else(annotated).unwrap_or_default();
    Ok(Service {
        meta,
        kind: spec.value("type", |text, _| match text {
            "LoadBalancer" if internal => Some(ServiceType::ClusterIP),
            "ClusterIP" => Some(ServiceType::ClusterIP),
            "NodePort" => Some(ServiceType::NodePort),
            "LoadBalancer" => Some(ServiceType::LoadBalancer),
            "ExternalName" => Some(ServiceType::ExternalName),
            _ => None,
        })?,
        selector: spec.map("selector")?,
        ports,
        headless: spec.text_if("clusterIP")?.as_deref() == Some("None"),
        external_name: spec.text_if("externalName")?,
        session_affinity_seconds: sticky.then_some(timeout),
        source_ranges,
        publish_not_ready: spec.flag_if("publishNotReadyAddresses")?.unwrap_or(false),
        keep_client_address: spec.text("externalTrafficPolicy")? == "Local",
        families: families(spec)?,
    })
}

/// The families of a Service, with the defaults of Kubernetes' API server on a cluster whose first family is IPv4.
fn families(spec: Object<'_>) -> Read<IpFamilies> {
    let mut list: Vec<IpFamily> = Vec::new();
    for name in spec.texts_if("ipFamilies")?.unwrap_or_default() {
        let family = if name == "IPv6" { IpFamily::V6 } else { IpFamily::V4 };
        if !list.contains(&family) {
            list.push(family);
        }
    }
    let policy = spec.text_if("ipFamilyPolicy")?;
    let both = [IpFamily::V4, IpFamily::V6];
    let wants_both = match policy.as_deref() {
        Some("PreferDualStack" | "RequireDualStack") => true,
        Some(_) => false,
        None => list.len() == both.len(),
    };
    if wants_both {
        let missing = both.into_iter().filter(|family| !list.contains(family));
        let missing: Vec<IpFamily> = missing.collect();
        list.extend(missing);
    } else {
        list.truncate(1);
    }
    if !list.contains(&IpFamily::V6) {
        return Ok(IpFamilies::default());
    }
    Ok(IpFamilies { required: policy.as_deref() != Some("PreferDualStack"), list })
}

fn port(object: Object<'_>) -> Read<ServicePort> {
    let port = object.number("port")?;
    let target = object.value_if("targetPort", |text, resolved| match resolved {
        Resolved::Int(number) => u16::try_from(number).ok().map(TargetPort::Number),
        _ => Some(TargetPort::Name(text.to_owned())),
    })?;
    Ok(ServicePort {
        name: object.text_if("name")?,
        port,
        target_port: target.unwrap_or(TargetPort::Number(port)),
        protocol: object.value("protocol", |text, _| protocol(text))?,
        tls: None,
        http2: object.text_if("appProtocol")?.is_some_and(|name| HTTP2.contains(&name.as_str())),
    })
}

/// Names of HTTP/2 without TLS: that of Kubernetes, and that of gRPC as meshes have it.
const HTTP2: [&str; 2] = ["kubernetes.io/h2c", "grpc"];

/// The items of an annotation that is a list.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// What annotations say of TLS on this port: all ports have it unless they are listed.
fn tls(clouds: &Clouds, annotations: &BTreeMap<String, String>, port: &ServicePort) -> Option<Tls> {
    let of = |meaning| clouds.value(annotations, meaning);
    if of(Annotation::Certificates).or(of(Annotation::TlsPorts)).is_none() || port.protocol != Protocol::Tcp {
        return None;
    }
    let number = port.port.to_string();
    let is_meant = |item: &str| item == "*" || item == number || Some(item) == port.name.as_deref();
    if of(Annotation::TlsPorts).is_some_and(|ports| !items(ports).any(is_meant)) {
        return None;
    }
    Some(Tls {
        certificates: of(Annotation::Certificates)
            .map(|text| items(text).map(str::to_owned).collect())
            .unwrap_or_default(),
        policy: of(Annotation::TlsPolicy).map(str::to_owned),
        to_pods: matches!(of(Annotation::BackendProtocol), Some("ssl" | "https")),
    })
}

/// `networking.k8s.io/v1` Ingress.
pub(super) fn ingress(object: Object<'_>, scope: &Scope<'_>) -> Read<Ingress> {
    let spec = object.object("spec")?;
    let mut routes = Vec::new();
    for rule in spec.objects("rules")? {
        let host = rule.text_if("host")?;
        for path in rule.object("http")?.objects("paths")? {
            routes.push(IngressPath {
                host: host.clone(),
                path: path.text("path")?,
                exact: path.text("pathType")? == "Exact",
                backend: backend(path.object("backend")?)?,
            });
        }
    }
    let mut tls_hosts: Vec<String> = Vec::new();
    let mut tls_secrets = Vec::new();
    let mut tls_for_all = false;
    for tls in spec.objects("tls")? {
        let mut hosts = tls.texts_if("hosts")?.unwrap_or_default();
        if hosts.is_empty() {
            hosts = routes.iter().filter_map(|route| route.host.clone()).collect();
            hosts.dedup();
        }
        tls_for_all |= hosts.is_empty();
        if let Some(secret) = tls.text_if("secretName")?.filter(|name| !name.is_empty()) {
            tls_secrets.push(TlsSecret { secret, hosts: hosts.clone() });
        }
        let new: Vec<String> = hosts.into_iter().filter(|host| !tls_hosts.contains(host)).collect();
        tls_hosts.extend(new);
    }
    let default_backend =
        if spec.has("defaultBackend") { Some(backend(spec.object("defaultBackend")?)?) } else { None };
    let meta = scope.meta(object)?;
    let of = |meaning| scope.clouds().value(&meta.annotations, meaning);
    let listed = |text: &str| items(text).map(str::to_owned).collect();
    // Where several say who may connect, they say the same.
    let ranges = of(Annotation::IngressSourceRanges);
    Ok(Ingress {
        certificates: of(Annotation::IngressCertificates).map(listed).unwrap_or_default(),
        acme: None,
        source_ranges: ranges.map(listed).unwrap_or_default(),
        internal: of(Annotation::IngressScheme) == Some("internal"),
        plain: of(Annotation::IngressRedirect) == Some("false")
            && of(Annotation::IngressForcedRedirect) != Some("true"),
        http2: of(Annotation::IngressBackendProtocol) == Some("GRPC"),
        meta,
        routes,
        default_backend,
        tls_hosts,
        tls_for_all,
        tls_secrets,
    })
}

fn backend(object: Object<'_>) -> Read<IngressBackend> {
    let service = object.object("service")?;
    let port = service.object("port")?;
    let port = match port.number_if("number")? {
        Some(number) => BackendPort::Number(number),
        None => BackendPort::Name(port.text("name")?),
    };
    Ok(IngressBackend { service: service.text("name")?, port })
}
