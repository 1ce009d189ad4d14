//! The counters of a fleet's balancers, Services and Ingresses, and the gauges of its replicas, in the text format of Prometheus, for `status --metrics` and `/metrics` of the local
//! cloud. The names of metrics and labels are an interface: dashboards are written against them.

use std::fmt::Write as _;

use i2kit_spec::replica::{ReplicaReport, Role};

use super::fleet::{Bucket, Fleet, HttpTraffic, Traffic};
use crate::manifest::api::Protocol;

/// The counters, with their kind and what each is. The order is that of [`values`].
const METRICS: [(&str, &str, &str); 6] = [
    ("connections_total", "counter", "Connections that were accepted."),
    ("connections_open", "gauge", "Connections that are open."),
    ("received_bytes_total", "counter", "Bytes that clients have sent."),
    ("sent_bytes_total", "counter", "Bytes that machines have sent."),
    ("errors_total", "counter", "Connections that no machine took, or that ended by a reset."),
    ("refused_total", "counter", "Connections and datagrams of clients outside the ranges that may connect."),
];

fn values(traffic: &Traffic) -> [u64; 6] {
    let Traffic { connections, open, received_bytes, sent_bytes, errors, refused, .. } = *traffic;
    [connections, open, received_bytes, sent_bytes, errors, refused]
}

/// The traffic of all Services and Ingresses of these environments, in Prometheus' text format.
pub fn prometheus(fleets: &[Fleet]) -> String {
    let mut all = Vec::new();
    for fleet in fleets {
        for balancer in &fleet.balancers {
            let counted = balancer.spec.listeners.iter().zip(&balancer.traffic);
            for (listener, traffic) in counted.filter_map(|(l, traffic)| Some((l, traffic.as_ref()?))) {
                let protocol = match listener.protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                };
                let name = &balancer.spec.name;
                let labels = [
                    ("environment", fleet.environment.as_str()),
                    ("namespace", &name.namespace),
                    ("service", &name.name),
                    ("port", &listener.port.to_string()),
                    ("protocol", protocol),
                ];
                all.push((joined(labels), traffic));
            }
        }
    }
    let mut out = String::new();
    for (number, (name, kind, help)) in METRICS.into_iter().enumerate() {
        head(&mut out, SERVICE, (name, kind, help));
        for (labels, traffic) in &all {
            let _ = writeln!(out, "i2kit_service_{name}{{{labels}}} {}", values(traffic)[number]);
        }
    }
    head(&mut out, SERVICE, ("connect_seconds", "histogram", "How long connecting to a machine took."));
    for (labels, traffic) in &all {
        histogram(
            &mut out,
            "i2kit_service_connect_seconds",
            labels,
            (&traffic.connect, traffic.connect_micros),
        );
    }
    ingresses(&mut out, fleets);
    replicas(&mut out, fleets);
    out
}

/// Beginnings of names of metrics.
const SERVICE: &str = "i2kit_service_";
const INGRESS: &str = "i2kit_ingress_";
const REPLICA: &str = "i2kit_replica_";

/// What is said of a replica: its name, what it is, and its value where that is known.
type ReplicaMetric = (&'static str, &'static str, fn(&ReplicaReport) -> Option<u64>);

/// Gauges of a replica. Those that its coordinator has too have the same names there.
const REPLICA_METRICS: [ReplicaMetric; 7] = [
    ("leader", "Whether this replica orders the requests.", |said| {
        Some(u64::from(said.role == Role::Leader))
    }),
    ("term", "Term of the order.", |said| Some(said.term)),
    ("quorum", "Whether it is connected with a majority of the voters.", |said| {
        Some(u64::from(said.has_quorum))
    }),
    ("diverged", "Whether the replica is quarantined because its replies differed.", |said| {
        Some(u64::from(said.diverged_at.is_some()))
    }),
    ("recoveries", "How often the group was recovered from the loss of a majority.", |said| {
        Some(said.recoveries)
    }),
    ("applied", "Index of the last entry that the application executed.", |said| {
        said.progress.map(|progress| progress.applied)
    }),
    ("committed", "Index of the last entry that is known to be committed.", |said| {
        said.progress.map(|progress| progress.committed)
    }),
];

/// What the replicas of replicated groups say of themselves. Without any, nothing is written.
fn replicas(out: &mut String, fleets: &[Fleet]) {
    let mut all: Vec<(String, &ReplicaReport)> = Vec::new();
    for fleet in fleets {
        for group in &fleet.groups {
            let said =
                group.instances.iter().filter_map(|instance| Some((instance, instance.replica.as_ref()?)));
            all.extend(said.map(|(instance, report)| {
                let labels = joined([
                    ("environment", fleet.environment.as_str()),
                    ("namespace", &group.name.namespace),
                    ("group", &group.name.name),
                    ("instance", instance.called()),
                ]);
                (labels, report)
            }));
        }
    }
    if all.is_empty() {
        return;
    }
    for (name, help, value) in REPLICA_METRICS {
        head(out, REPLICA, (name, "gauge", help));
        for (labels, report) in &all {
            if let Some(value) = value(report) {
                let _ = writeln!(out, "{REPLICA}{name}{{{labels}}} {value}");
            }
        }
    }
}

/// The requests of all Ingresses, by the Service that they went to.
fn ingresses(out: &mut String, fleets: &[Fleet]) {
    let mut all: Vec<(String, &HttpTraffic)> = Vec::new();
    for fleet in fleets {
        for balancer in fleet.balancers.iter().filter(|balancer| balancer.spec.http.is_some()) {
            let name = &balancer.spec.name;
            let labels = |service| {
                let ingress = name.name.strip_prefix(super::ingress::PREFIX).unwrap_or(&name.name);
                joined([
                    ("environment", fleet.environment.as_str()),
                    ("namespace", &name.namespace),
                    ("ingress", ingress),
                    ("service", service),
                ])
            };
            all.extend(balancer.requests.iter().map(|counted| (labels(&counted.service), counted)));
        }
    }
    head(out, INGRESS, ("requests_total", "counter", "Requests, by the class of their answer's status."));
    for (labels, counted) in &all {
        for (class, number) in &counted.codes {
            let _ = writeln!(out, "{INGRESS}requests_total{{{labels},code=\"{}\"}} {number}", escaped(class));
        }
    }
    let bytes = [
        ("received_bytes_total", "Bytes of requests' bodies."),
        ("sent_bytes_total", "Bytes of answers' bodies."),
    ];
    for (number, (name, help)) in bytes.into_iter().enumerate() {
        head(out, INGRESS, (name, "counter", help));
        for (labels, counted) in &all {
            let value = [counted.received_bytes, counted.sent_bytes][number];
            let _ = writeln!(out, "{INGRESS}{name}{{{labels}}} {value}");
        }
    }
    head(
        out,
        INGRESS,
        ("request_duration_seconds", "histogram", "How long requests took, to the end of their answers."),
    );
    for (labels, counted) in &all {
        let name = "i2kit_ingress_request_duration_seconds";
        histogram(out, name, labels, (&counted.durations, counted.duration_micros));
    }
}

/// A histogram, whose buckets hold those of the ones below them too, with the sum in microseconds.
fn histogram(out: &mut String, name: &str, labels: &str, (buckets, micros): (&[Bucket], u64)) {
    let mut below = 0;
    for bucket in buckets {
        below += bucket.count;
        let bound = bucket.up_to_micros.map_or_else(|| "+Inf".to_owned(), seconds);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", seconds(micros));
    let _ = writeln!(out, "{name}_count{{{labels}}} {below}");
}

fn head(out: &mut String, start: &str, (name, kind, help): (&str, &str, &str)) {
    let _ = writeln!(out, "# HELP {start}{name} {help}\n# TYPE {start}{name} {kind}");
}

fn joined<const N: usize>(labels: [(&str, &str); N]) -> String {
    labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).join(",")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::LoadBalancer;

    #[test]
    fn prometheus_reads_what_was_counted() {
        let bucket = |up_to_micros, count| Bucket { up_to_micros, count };
        let traffic = Traffic {
            connections: 7,
            open: 1,
            received_bytes: 100,
            sent_bytes: 2000,
            errors: 2,
            refused: 3,
            connect_micros: 1_500_300,
            connect: vec![bucket(Some(50), 3), bucket(Some(1_000_000), 1), bucket(None, 1)],
        };
        let spec = serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "web"}, "kind": "ClusterIP",
            "listeners": [{"port": 80, "protocol": "TCP", "targets": []}, {"port": 81, "protocol": "TCP", "targets": []}],
        }));
        let balancer = LoadBalancer {
            spec: spec.unwrap(),
            host: "127.77.0.1".into(),
            bound: vec![Some(80), None],
            targets: vec![],
            certificates: vec![],
            traffic: vec![Some(traffic), None],
            requests: vec![],
        };
        let spec = serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "ingress/shop"}, "kind": "LoadBalancer", "listeners": [],
            "http": {"backends": [], "rules": []},
        }));
        let requests = HttpTraffic {
            service: "web".into(),
            codes: [("2xx".to_owned(), 40), ("5xx".to_owned(), 2)].into(),
            received_bytes: 9,
            sent_bytes: 700,
            duration_micros: 2_500_000,
            durations: vec![bucket(Some(5000), 40), bucket(None, 2)],
        };
        let ingress = LoadBalancer {
            spec: spec.unwrap(),
            host: "127.77.0.2".into(),
            bound: vec![Some(80)],
            targets: vec![],
            certificates: vec![],
            traffic: vec![],
            requests: vec![requests],
        };
        let balancers = vec![balancer, ingress];
        let fleet = Fleet { environment: "a\"b".into(), balancers, ..Fleet::default() };
        let text = prometheus(&[fleet]);
        let labels =
            "environment=\"a\\\"b\",namespace=\"default\",service=\"web\",port=\"80\",protocol=\"TCP\"";
        let of = "environment=\"a\\\"b\",namespace=\"default\",ingress=\"shop\",service=\"web\"";
        for line in [
            format!("i2kit_ingress_requests_total{{{of},code=\"2xx\"}} 40"),
            format!("i2kit_ingress_requests_total{{{of},code=\"5xx\"}} 2"),
            format!("i2kit_ingress_received_bytes_total{{{of}}} 9"),
            format!("i2kit_ingress_sent_bytes_total{{{of}}} 700"),
            format!("i2kit_ingress_request_duration_seconds_bucket{{{of},le=\"0.005\"}} 40"),
            format!("i2kit_ingress_request_duration_seconds_bucket{{{of},le=\"+Inf\"}} 42"),
            format!("i2kit_ingress_request_duration_seconds_sum{{{of}}} 2.5"),
            format!("i2kit_ingress_request_duration_seconds_count{{{of}}} 42"),
            format!("i2kit_service_connections_total{{{labels}}} 7"),
            format!("i2kit_service_sent_bytes_total{{{labels}}} 2000"),
            format!("i2kit_service_refused_total{{{labels}}} 3"),
            format!("i2kit_service_connect_seconds_bucket{{{labels},le=\"0.00005\"}} 3"),
            format!("i2kit_service_connect_seconds_bucket{{{labels},le=\"1\"}} 4"),
            format!("i2kit_service_connect_seconds_bucket{{{labels},le=\"+Inf\"}} 5"),
            format!("i2kit_service_connect_seconds_sum{{{labels}}} 1.5003"),
            format!("i2kit_service_connect_seconds_count{{{labels}}} 5"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("port=\"81\"") && !text.contains("i2kit_replica_"), "{text}");
    }

    #[test]
    fn prometheus_reads_what_replicas_say() {
        let instance = |slot: u32, replica: serde_json::Value| {
            serde_json::json!({
                "id": format!("i-{slot}"), "name": format!("db-{slot}"), "ordinal": slot, "revision": 1, "state": "running",
                "health": {"status": "healthy"}, "since": 0, "endpoints": [], "containers": [], "replica": replica,
            })
        };
        let leads = serde_json::json!({"role": "leader", "term": 3, "leader": 0, "hasQuorum": true, "recoveries": 1,
            "progress": {"committed": 12, "applied": 11}});
        let is_odd = serde_json::json!({"role": "quarantined", "term": 3, "leader": 0, "hasQuorum": false, "recoveries": 1,
            "divergedAt": 7});
        let settings = super::super::example::settings(crate::manifest::api::Strategy::Recreate);
        let name = crate::manifest::api::Name { namespace: "shop".into(), name: "db".into() };
        let mut group = super::super::fleet::InstanceGroup::new(name, settings);
        for (slot, said) in (0..).zip([leads, is_odd, serde_json::Value::Null]) {
            group.instances.push(serde_json::from_value(instance(slot, said)).unwrap());
        }
        let text =
            prometheus(&[Fleet { environment: "local".into(), groups: vec![group], ..Fleet::default() }]);
        let labels =
            |slot| format!("environment=\"local\",namespace=\"shop\",group=\"db\",instance=\"db-{slot}\"");
        let (first, second) = (labels(0), labels(1));
        for line in [
            format!("i2kit_replica_leader{{{first}}} 1"),
            format!("i2kit_replica_leader{{{second}}} 0"),
            format!("i2kit_replica_term{{{first}}} 3"),
            format!("i2kit_replica_quorum{{{second}}} 0"),
            format!("i2kit_replica_diverged{{{second}}} 1"),
            format!("i2kit_replica_recoveries{{{first}}} 1"),
            format!("i2kit_replica_applied{{{first}}} 11"),
            format!("i2kit_replica_committed{{{first}}} 12"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(
            !text.contains("db-2") && !text.contains(&format!("i2kit_replica_applied{{{second}}}")),
            "{text}"
        );
    }
}
