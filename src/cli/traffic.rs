//! Traffic of Services and Ingresses as tables of `i2kit status`.

use comfy_table::Table;

use super::output::size;
use super::tables::{row, table};
use crate::plan::fleet::{CLASSES, HttpTraffic, LoadBalancer, Traffic};

/// What ports of balancers have carried, and the requests of Ingresses. Without traffic there is no table.
pub(super) fn tables(balancers: &[LoadBalancer]) -> Vec<Table> {
    [ports(balancers), requests(balancers)].into_iter().filter(|table| !table.is_empty()).collect()
}

/// Connections by port.
fn ports(balancers: &[LoadBalancer]) -> Table {
    let mut table = table(&[
        "TRAFFIC",
        "PORT",
        "CONNECTIONS",
        "OPEN",
        "RECEIVED",
        "SENT",
        "ERRORS",
        "REFUSED",
        "CONNECT",
    ]);
    for balancer in balancers {
        for (listener, traffic) in balancer.spec.listeners.iter().zip(&balancer.traffic) {
            let Some(traffic) = traffic.as_ref().filter(|traffic| traffic.connections + traffic.refused > 0)
            else {
                continue;
            };
            let Traffic { connections, open, received_bytes, sent_bytes, errors, refused, .. } = traffic;
            let made: u64 = traffic.connect.iter().map(|bucket| bucket.count).sum();
            table.add_row(row([
                balancer.spec.name.to_string(),
                format!("{}/{}", listener.port, listener.protocol),
                connections.to_string(),
                open.to_string(),
                size(*received_bytes),
                size(*sent_bytes),
                errors.to_string(),
                refused.to_string(),
                mean(traffic.connect_micros, made),
            ]));
        }
    }
    table
}

/// Requests by Service and class of the answer's status.
fn requests(balancers: &[LoadBalancer]) -> Table {
    let mut table =
        table(&["REQUESTS", "SERVICE", "1XX", "2XX", "3XX", "4XX", "5XX", "RECEIVED", "SENT", "TIME"]);
    for balancer in balancers {
        for traffic in &balancer.requests {
            let HttpTraffic { service, codes, received_bytes, sent_bytes, duration_micros, durations } =
                traffic;
            let of = |class| codes.get(class).copied().unwrap_or_default().to_string();
            let answered: u64 = durations.iter().map(|bucket| bucket.count).sum();
            let service = if service.is_empty() { "-" } else { service };
            let [informed, succeeded, redirected, wrong, failed] = CLASSES.map(of);
            table.add_row(row([
                balancer.spec.name.to_string(),
                service.to_owned(),
                informed,
                succeeded,
                redirected,
                wrong,
                failed,
                size(*received_bytes),
                size(*sent_bytes),
                mean(*duration_micros, answered),
            ]));
        }
    }
    table
}

/// The mean of a time, in milliseconds.
fn mean(micros: u64, count: u64) -> String {
    let tenths = micros.checked_div(count.saturating_mul(100));
    tenths.map_or("-".into(), |tenths| format!("{}.{} ms", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tables::lines;

    #[test]
    fn what_was_carried_is_shown_by_port_and_by_service() {
        let bucket = serde_json::json!([{"upToMicros": 5000, "count": 3}, {"upToMicros": null, "count": 1}]);
        let balancer: LoadBalancer = serde_json::from_value(serde_json::json!({
            "spec": {"name": {"namespace": "default", "name": "ingress/web"}, "kind": "LoadBalancer", "listeners": [
                {"port": 80, "protocol": "TCP", "targets": []}, {"port": 443, "protocol": "TCP", "targets": []}]},
            "host": "127.77.0.1", "bound": [80, 443], "targets": [],
            "traffic": [
                {"connections": 4, "open": 1, "receivedBytes": 2048, "sentBytes": 3_u64 << 20, "errors": 0,
                    "refused": 2, "connectMicros": 10_400, "connect": bucket},
                {"connections": 0, "open": 0, "receivedBytes": 0, "sentBytes": 0, "errors": 0, "connectMicros": 0,
                    "connect": []}],
            "requests": [
                {"service": "web", "codes": {"2xx": 7, "5xx": 1}, "receivedBytes": 0, "sentBytes": 10,
                    "durationMicros": 1_000_000, "durations": bucket},
                {"service": "", "codes": {"4xx": 1}, "receivedBytes": 0, "sentBytes": 0, "durationMicros": 0,
                    "durations": []}],
        }))
        .unwrap();
        let text = lines(&tables(std::slice::from_ref(&balancer)));
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words,
            [
                "TRAFFIC PORT CONNECTIONS OPEN RECEIVED SENT ERRORS REFUSED CONNECT",
                "ingress/web 80/TCP 4 1 2.00 KiB 3.00 MiB 0 2 2.6 ms",
                "",
                "REQUESTS SERVICE 1XX 2XX 3XX 4XX 5XX RECEIVED SENT TIME",
                "ingress/web web 0 7 0 0 1 0 B 10 B 250.0 ms",
                "ingress/web - 0 0 0 1 0 0 B 0 B -",
            ]
        );
        let quiet = LoadBalancer { traffic: vec![None], requests: vec![], ..balancer };
        assert!(tables(&[quiet]).is_empty());
    }
}
