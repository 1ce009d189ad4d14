//! What becomes of the objects of a replicated pod.

use serde_json::json;

use super::*;
use crate::manifest::{Options, SourceFile, read};
use crate::plan::image::LaunchImage;
use crate::plan::rollout::GroupSpec;
use crate::plan::{policy, workload};

/// A group of replicas with a Service, a neighbour, and more objects.
fn set(annotations: &str, more: &str) -> ObjectSet {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec: {{clusterIP: None, selector: {{app: db}}, ports: [{{port: 80, targetPort: http}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: front}}\nspec: {{selector: {{app: db}}, ports: [{{port: 80, targetPort: http}}]}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  replicas: 3\n  podManagementPolicy: Parallel\n  \
         selector: {{matchLabels: {{app: db}}}}\n  template:\n    metadata: {{labels: {{app: db}}, annotations: {{i2kit.dev/replicated: http{annotations}}}}}\n    \
         spec:\n      containers:\n      - {{name: app, image: \"app:1\", ports: [{{name: http, containerPort: 8080}}], volumeMounts: [{{name: data, mountPath: /data}}]}}\n      \
         volumes: [{{name: data, emptyDir: {{}}}}]\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, \
         spec: {{containers: [{{name: web, image: \"web:1\"}}]}}}}}}\n{more}"
    );
    let file = SourceFile { name: "db.yaml".into(), bytes: text.into_bytes() };
    let reading = read(&[file], &Options::default());
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    expand(reading.set)
}

fn groups(set: &ObjectSet) -> Vec<GroupSpec> {
    let images = vec![LaunchImage::unplanned(); set.pods().count()];
    workload::desired(set, &images, &BTreeMap::new()).0
}

/// The policy of the group.
fn policy_of(set: &ObjectSet, name: &str) -> serde_json::Value {
    let (name, template) = set.pods().find(|(known, _)| known.name == name).unwrap();
    serde_json::to_value(super::policy(set, name, policy::of_group(set, name, template))).unwrap()
}

fn network_policy(spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: wall}}\nspec: {spec}\n"
    )
}

#[test]
fn each_machine_gets_a_coordinator_with_a_disk_a_key_pair_and_the_supervisors_socket() {
    let set = set(", i2kit.dev/replicated-state: \"directory:data\", i2kit.dev/replicated-log: 512Mi", "");
    let [db] = &set.stateful_sets[..] else { panic!() };
    let [coordinator] = &db.template.spec.init_containers[..] else { panic!() };
    assert!(coordinator.sidecar && coordinator.name == COORDINATOR);
    let EnvValue::Fixed(text) = &coordinator.env[0].value else { panic!() };
    let config: ReplicaConfig = serde_json::from_str(text).unwrap();
    assert_eq!((config.group.as_str(), config.app_port), ("default/db", 8080));
    let member = |slot: u32| format!("db-{slot}.db.default.svc.cluster.local");
    assert_eq!(config.members, [member(0), member(1), member(2)]);
    assert_eq!(
        (config.containers, config.state),
        (vec!["app".to_owned()], State::Directory { volume: "data".into() })
    );
    assert_eq!(config.limits.log_bytes, Bytes::mib(128));
    assert_eq!(coordinator.env[1].value, EnvValue::Instance(InstanceField::Name));
    let mounts: Vec<(&str, &str)> =
        coordinator.volume_mounts.iter().map(|it| (it.volume.as_str(), it.mount_path.as_str())).collect();
    let expected = [
        ("i2kit-log", "/replica"),
        ("i2kit-identity", "/identity"),
        ("i2kit-pod", "/run/i2kit"),
        ("data", "/state/data"),
    ];
    assert_eq!(mounts, expected);
    let [claim] = &db.claim_templates[..] else { panic!() };
    assert_eq!((claim.name.as_str(), claim.disk.size), ("i2kit-log", Bytes::mib(512)));
    let secret = "db.replica.i2kit.dev";
    let named = crate::plan::secret::named(&db.template.spec);
    assert_eq!(named.into_iter().collect::<Vec<_>>(), [(secret.to_owned(), false)]);
    let found: Vec<String> = identities(&set).map(|(name, group)| format!("{name} of {group}")).collect();
    assert_eq!(found, ["db.replica.i2kit.dev of db"]);
}

#[test]
fn services_lead_to_the_coordinator_and_names_are_there_before_machines_are_ready() {
    let set = set("", "");
    let targets: Vec<&TargetPort> =
        set.services.iter().map(|service| &service.ports[0].target_port).collect();
    assert_eq!(targets, [&TargetPort::Number(FRONT_PORT); 2]);
    let early: Vec<bool> = set.services.iter().map(|service| service.publish_not_ready).collect();
    assert_eq!(early, [true, false]);
    let groups = groups(&set);
    let db = groups.iter().find(|group| group.name.name == "db").unwrap();
    let ports: Vec<u16> = db.launch.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [FRONT_PORT]);
    assert_eq!(db.launch.containers, ["i2kit-coordinator", "app"]);
    assert!(
        groups.iter().filter(|group| group.name.name != "db").all(|group| group.settings.policy.is_none())
    );
}

#[test]
fn the_application_and_the_coordinators_other_ports_are_closed() {
    let port = |number: u16| json!([{"protocol": "TCP", "first": number, "last": number}]);
    let group = json!({"group": {"namespace": "default", "name": "db"}});
    let among_themselves = json!({"peers": [group], "ports": port(7311)});
    let plain = set("", "");
    let both = json!([port(7310)[0], port(7312)[0]]);
    let open = json!({"peers": ["everybody"], "ports": both});
    assert_eq!(policy_of(&plain, "db"), json!({"ingress": [open, among_themselves]}));
    assert_eq!(policy_of(&plain, "web"), json!(null));
    // Who may reach the application by a policy of the manifest's may reach the coordinator, and nobody else.
    let web = json!({"group": {"namespace": "default", "name": "web"}});
    for ports in [
        "[{port: 8080}]",
        "[{port: http}]",
        "[{port: 8000, endPort: 9000}]",
        "[{port: 7311, endPort: 7311}, {port: 8080}]",
        "[{port: 7313}, {port: 8080}]",
    ] {
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Ingress, Egress], \
             ingress: [{{from: [{{podSelector: {{matchLabels: {{app: web}}}}}}], ports: {ports}}}, {{ports: [{{port: 7311}}]}}], egress: []}}"
        );
        let expected = json!({
            "ingress": [{"peers": [web], "ports": port(7310)}, among_themselves],
            "egress": [among_themselves],
        });
        assert_eq!(policy_of(&set("", &network_policy(&spec)), "db"), expected, "{ports}");
    }
    let spec =
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 8080}]}]}";
    let found = policy_of(&set("", &network_policy(spec)), "web");
    assert_eq!(found["egress"][1], json!({"peers": [group], "ports": port(7310)}));
}

#[test]
fn hooks_run_in_the_container_that_has_the_port() {
    let annotations = ", i2kit.dev/replicated-state: hooks, i2kit.dev/replicated-snapshot: dump, i2kit.dev/replicated-restore: load";
    let set = set(annotations, "");
    let EnvValue::Fixed(text) = &set.stateful_sets[0].template.spec.init_containers[0].env[0].value else {
        panic!()
    };
    let config: ReplicaConfig = serde_json::from_str(text).unwrap();
    let State::Hooks { container, snapshot, .. } = config.state else { panic!() };
    assert_eq!((container.as_str(), snapshot.last().map(String::as_str)), ("app", Some("dump")));
}

#[test]
fn what_the_image_is_made_from_is_the_revision_of_the_coordinators() {
    let revision = |annotations: &str, application: &[u8]| {
        let set = set(annotations, "");
        let (name, template) = set.pods().find(|(name, _)| name.name == "db").unwrap();
        let layer = |bytes: &[u8]| image(Digest::of(bytes), 1);
        let mut app = layer(application);
        app.config.config.entrypoint = vec!["/app".into()];
        let images = [("app:1".parse().unwrap(), app), (reference(), layer(b"coordinator"))].into();
        let guest = crate::plan::example::plan().guest;
        let facts = crate::plan::pod::Facts { images: &images, guest: &guest, profiles: &BTreeMap::new() };
        let plan = crate::plan::pod::image(name, template, &facts).unwrap();
        let text = plan.canonical();
        let (_, rest) = text.split_once("revision").unwrap_or_else(|| panic!("{text}"));
        rest.chars().filter(char::is_ascii_hexdigit).take(16).collect::<String>()
    };
    let first = revision("", b"app");
    assert_eq!(first.len(), 16);
    assert_ne!(first, "0".repeat(16));
    assert_eq!(revision("", b"app"), first);
    assert_ne!(revision("", b"app, newer"), first, "another image behind the same tag");
    assert_ne!(revision(", i2kit.dev/replicated-depth: \"8\"", b"app"), first);
}

#[test]
fn names_of_key_pairs_are_no_names_for_others() {
    assert!(is_identity_of_another("db.replica.i2kit.dev", "web"));
    assert!(is_identity_of_another("db.replica.i2kit.dev", ""));
    assert!(!is_identity_of_another("db.replica.i2kit.dev", "db"));
    assert!(!is_identity_of_another("db", "web"));
}
