//! The counters of a fleet's balancers in the text format of Prometheus, for `status --metrics` and `/metrics` of the local
//! cloud. The names of metrics and labels are an interface: dashboards are written against them.

use std::fmt::Write as _;

use super::fleet::{Fleet, Traffic};
use crate::manifest::api::Protocol;

/// The counters, with their kind and what each is. The order is that of [`values`].
const METRICS: [(&str, &str, &str); 5] = [
    ("connections_total", "counter", "Connections that were accepted."),
    ("connections_open", "gauge", "Connections that are open."),
    ("received_bytes_total", "counter", "Bytes that clients have sent."),
    ("sent_bytes_total", "counter", "Bytes that machines have sent."),
    ("errors_total", "counter", "Connections that no machine took, or that ended by a reset."),
];

fn values(traffic: &Traffic) -> [u64; 5] {
    [traffic.connections, traffic.open, traffic.received_bytes, traffic.sent_bytes, traffic.errors]
}

/// The traffic of all Services of these environments, in Prometheus' text format.
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
                let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).join(",");
                all.push((labels, traffic));
            }
        }
    }
    let mut out = String::new();
    for (number, (name, kind, help)) in METRICS.into_iter().enumerate() {
        head(&mut out, name, kind, help);
        for (labels, traffic) in &all {
            let _ = writeln!(out, "i2kit_service_{name}{{{labels}}} {}", values(traffic)[number]);
        }
    }
    head(&mut out, "connect_seconds", "histogram", "How long connecting to a machine took.");
    for (labels, traffic) in &all {
        let mut below = 0;
        for bucket in &traffic.connect {
            below += bucket.connections;
            let bound = bucket.up_to_micros.map_or_else(|| "+Inf".to_owned(), seconds);
            let _ = writeln!(out, "i2kit_service_connect_seconds_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let sum = seconds(traffic.connect_micros);
        let _ = writeln!(out, "i2kit_service_connect_seconds_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "i2kit_service_connect_seconds_count{{{labels}}} {below}");
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP i2kit_service_{name} {help}\n# TYPE i2kit_service_{name} {kind}");
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
    use crate::plan::fleet::{Bucket, LoadBalancer};

    #[test]
    fn prometheus_reads_what_was_counted() {
        let bucket = |up_to_micros, connections| Bucket { up_to_micros, connections };
        let traffic = Traffic {
            connections: 7,
            open: 1,
            received_bytes: 100,
            sent_bytes: 2000,
            errors: 2,
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
        };
        let fleet = Fleet { environment: "a\"b".into(), balancers: vec![balancer], ..Fleet::default() };
        let text = prometheus(&[fleet]);
        let labels =
            "environment=\"a\\\"b\",namespace=\"default\",service=\"web\",port=\"80\",protocol=\"TCP\"";
        for line in [
            format!("i2kit_service_connections_total{{{labels}}} 7"),
            format!("i2kit_service_sent_bytes_total{{{labels}}} 2000"),
            format!("i2kit_service_connect_seconds_bucket{{{labels},le=\"0.00005\"}} 3"),
            format!("i2kit_service_connect_seconds_bucket{{{labels},le=\"1\"}} 4"),
            format!("i2kit_service_connect_seconds_bucket{{{labels},le=\"+Inf\"}} 5"),
            format!("i2kit_service_connect_seconds_sum{{{labels}}} 1.5003"),
            format!("i2kit_service_connect_seconds_count{{{labels}}} 5"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("port=\"81\""), "{text}");
    }
}
