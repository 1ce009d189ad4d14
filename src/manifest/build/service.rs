//! Services.

use super::object::{Object, Read};
use super::pod::protocol;
use super::workload::meta;
use crate::manifest::api::{Service, ServicePort, ServiceType, TargetPort};
use crate::manifest::set::Document;
use crate::manifest::tree::Resolved;

/// `v1` Service.
pub(super) fn service(object: Object<'_>, document: &Document<'_>) -> Read<Service> {
    let spec = object.object("spec")?;
    Ok(Service {
        meta: meta(object, document)?,
        kind: spec.value("type", |text, _| match text {
            "ClusterIP" => Some(ServiceType::ClusterIP),
            "NodePort" => Some(ServiceType::NodePort),
            "LoadBalancer" => Some(ServiceType::LoadBalancer),
            _ => None,
        })?,
        selector: spec.map("selector")?,
        ports: spec.objects("ports")?.into_iter().map(port).collect::<Read<_>>()?,
    })
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
    })
}
