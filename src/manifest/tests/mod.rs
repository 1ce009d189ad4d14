//! The room as its callers see it.

mod any_text;

use i2kit_spec::{Bytes, EnvValue, EnvVar};

use super::example::{POD, deployment, reading};
use super::*;
use crate::cloud::kinds;
use crate::cloud::local::SUPPORT;

/// Options of those who deploy to the local cloud.
fn local() -> Options {
    Options { clouds: kinds::clouds(&SUPPORT), ..Options::default() }
}

/// Findings for the local cloud as `code line path: message` lines.
fn findings(text: &str) -> String {
    example::findings(text, &local())
}

#[test]
fn a_deployment_and_its_service_get_all_defaults() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80}]\n";
    let (_, reading) = reading(&[&deployment(POD), service], &Options::default());
    assert_eq!(reading.diagnostics, []);
    let [web] = reading.set.deployments.as_slice() else { panic!("one deployment") };
    assert_eq!((web.replicas, web.progress_deadline_seconds.0, web.revision_history_limit), (1, 600, 10));
    assert_eq!(
        web.strategy,
        api::Strategy::RollingUpdate {
            max_unavailable: api::IntOrPercent::Percent(25),
            max_surge: api::IntOrPercent::Percent(25)
        }
    );
    assert_eq!(web.template.spec.termination_grace_period_seconds, i2kit_spec::DEFAULT_GRACE_PERIOD);
    assert_eq!(web.template.spec.containers[0].image.to_string(), "docker.io/library/nginx:1.27");
    let [service] = reading.set.services.as_slice() else { panic!("one service") };
    assert_eq!(service.kind, api::ServiceType::ClusterIP);
    assert_eq!(service.ports[0].target_port, api::TargetPort::Number(80));
}

#[test]
fn a_pod_template_may_forbid_snapshots_of_its_machines() {
    let with = |value: &str| {
        let annotation = format!("    metadata:\n      annotations: {{i2kit.dev/snapshot: {value}}}\n");
        let (_, reading) = reading(&[&deployment(POD).replace("    metadata:\n", &annotation)], &local());
        reading
    };
    for (value, is_forbidden) in [("never", true), ("before-containers", false)] {
        let found = with(value);
        assert_eq!(found.diagnostics, [], "{value}");
        assert_eq!(found.set.deployments[0].template.spec.placement.no_snapshot, is_forbidden);
    }
    let wrong = with("sometimes");
    assert!(wrong.diagnostics[0].message.contains("must be `never` or `before-containers`"), "{wrong:?}");
}

#[test]
fn a_service_has_the_families_that_a_cluster_of_both_would_give_it() {
    let families = |spec: &str| {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80}}]{spec}}}\n"
        );
        let (_, reading) = reading(&[&deployment(POD), &service], &Options::default());
        assert!(!reading.has_errors(), "{spec}: {:?}", reading.diagnostics);
        let families = reading.set.services[0].families.clone();
        (families.list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), families.required)
    };
    for (spec, list, required) in [
        ("", "IPv4", false),
        (", ipFamilyPolicy: SingleStack", "IPv4", false),
        (", ipFamilies: [IPv6]", "IPv6", true),
        (", ipFamilyPolicy: PreferDualStack", "IPv4 IPv6", false),
        (", ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]", "IPv6 IPv4", false),
        (", ipFamilyPolicy: RequireDualStack", "IPv4 IPv6", true),
        (", ipFamilies: [IPv6, IPv4]", "IPv6 IPv4", true),
    ] {
        assert_eq!(families(spec), (list.to_owned(), required), "{spec}");
    }
    let both = api::IpFamilies { list: vec![api::IpFamily::V6, api::IpFamily::V4], required: false };
    assert_eq!((both.there(true).len(), both.there(false)), (2, vec![api::IpFamily::V4]));
}

#[test]
fn the_short_form_becomes_a_deployment_and_a_service() {
    let text = "name: web\nreplicas: 3\npublic: true\ncontainers:\n  nginx:\n    image: nginx:1.27\n    command: [nginx, -g]\n    environment: [A=b=c]\n    ports: [80, \"http:8080:tcp:8081\"]\n";
    let (_, reading) = reading(&[text], &Options::default());
    assert_eq!(reading.diagnostics, []);
    let web = &reading.set.deployments[0];
    let container = &web.template.spec.containers[0];
    assert_eq!((web.replicas, container.name.as_str()), (3, "nginx"));
    assert_eq!(container.env, [EnvVar { name: "A".into(), value: EnvValue::Written("b=c".into()) }]);
    assert_eq!(container.ports.iter().map(|port| port.container_port).collect::<Vec<_>>(), [80, 8081]);
    let service = &reading.set.services[0];
    assert_eq!((service.kind, service.ports[1].port), (api::ServiceType::LoadBalancer, 8080));
    assert_eq!(service.selector, web.template.labels);
}

#[test]
fn the_short_form_may_name_a_machine_and_has_no_disk() {
    let text = |more: &str| format!("name: web\n{more}\ncontainers: {{web: {{image: \"nginx:1.27\"}}}}\n");
    let (_, short) = reading(&[&text("instance_type: t3.small\nstateful: false")], &Options::default());
    assert_eq!(short.diagnostics, []);
    assert_eq!(short.set.deployments[0].template.spec.placement.machine_types, ["t3.small"]);
    let (_, short) = reading(&[&text("stateful: true")], &Options::default());
    let found = &short.diagnostics[0];
    assert_eq!(found.code, Code::RefusedField);
    assert!(found.help.as_ref().is_some_and(|help| help.contains("StatefulSet")), "{found:?}");
}

#[test]
fn zones_are_those_of_a_condition_that_names_some() {
    let zone = "key: topology.kubernetes.io/zone, operator";
    let affinity = format!(
        "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchExpressions: [{{{zone}: In, values: [a]}}, {{{zone}: Exists}}]}}]}}}}}}"
    );
    let (_, reading) = reading(
        &[&deployment(&POD.replacen("containers:", &format!("{affinity}\n      containers:"), 1))],
        &local(),
    );
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    assert_eq!(reading.set.deployments[0].template.spec.placement.zones, ["a"]);
}

#[test]
fn for_another_port_of_the_host_there_is_a_service_to_write() {
    let port = |host: u16| {
        POD.replacen("containerPort: 80", &format!("containerPort: 80\n          hostPort: {host}"), 1)
    };
    let (_, same) = reading(&[&deployment(&port(80))], &local());
    assert!(!same.has_errors(), "{:?}", same.diagnostics);
    let (_, other) = reading(&[&deployment(&port(8080))], &local());
    let found = other.diagnostics.iter().find(|found| found.code == Code::NotDeployableYet).unwrap();
    let help = "write a Service of `type: LoadBalancer` with `port` `8080` and `targetPort` `80`, which has an address of its own";
    assert_eq!(found.help.as_deref(), Some(help));
}

#[test]
fn an_ephemeral_volume_is_scratch_space_of_its_size() {
    let volume = "volumes: [{name: work, ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}}}]";
    let (_, reading) = reading(
        &[&deployment(&POD.replacen("containers:", &format!("{volume}\n      containers:"), 1))],
        &Options::default(),
    );
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let found = &reading.set.deployments[0].template.spec.volumes[0];
    let expected = api::VolumeSource::EmptyDir { memory: false, size_limit_bytes: Some(Bytes(2 << 30)) };
    assert_eq!((found.name.as_str(), &found.source), ("work", &expected));
}

#[test]
fn an_internal_balancer_is_not_made_public() {
    let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations: {networking.gke.io/load-balancer-type: Internal}\nspec:\n  type: LoadBalancer\n  selector: {app: web}\n  ports: [{port: 80}]\n";
    let (_, reading) = reading(&[&deployment(POD), service], &Options::default());
    assert_eq!(reading.set.services[0].kind, api::ServiceType::ClusterIP);
    let codes: Vec<Code> = reading.diagnostics.iter().map(|found| found.code).collect();
    assert_eq!(codes, [Code::Adapted]);
}

#[test]
fn listeners_of_the_short_form_may_share_a_port_and_keep_their_tls() {
    let text =
        "name: web\ncontainers:\n  web:\n    image: nginx:1.27\n    ports: [80, \"https:443:http:80\"]\n";
    let file = |text: &str| vec![SourceFile { name: "a".into(), bytes: text.as_bytes().to_vec() }];
    let long = convert(&file(text)).unwrap();
    let [short, long] = [text, &long].map(findings);
    let note = "TLS that ends at the balancer on the local cloud: it is TLS 1.2 or 1.3 with a certificate of the local \
                authority (`i2kit ca`), whichever certificate and policy are named";
    assert_eq!(short, format!("adapted 5 containers.web.ports[1]: {note}"));
    assert!(long.ends_with(note), "{long}");
}

#[test]
fn everything_wrong_is_reported_in_one_run() {
    let text = deployment(
        "\n  replica: 2\n  replicas: \"2\"\n  strategy:\n    rollingUpdate: {maxUnavailable: 25 %}\n  template:\n    metadata:\n      labels: {app: webb}\n    spec:\n      image: x\n      containers:\n      - name: Web\n",
    );
    insta::assert_snapshot!(findings(&text), @r#"
    selector-mismatch 6 spec.selector.matchLabels: selector {app: web} does not match template labels {app: webb}
    unknown-field 7 spec.replica: unknown field `replica` in DeploymentSpec
    wrong-type 8 spec.replicas: expected an integer, got the string "2"
    wrong-type 10 spec.strategy.rollingUpdate.maxUnavailable: expected an integer or a percentage such as "25%", got "25 %"
    unknown-field 15 spec.template.spec.image: unknown field `image` in PodSpec
    missing-field 17 spec.template.spec.containers[0].image: required field `image` of `Web` is missing
    invalid-name 17 spec.template.spec.containers[0].name: `Web` is not a DNS label (lower-case letters, digits, `-`)
    "#);
}

#[test]
fn hints_say_what_to_write() {
    let text = deployment(
        "\n  template:\n    metadata:\n      labels: {app: web}\n    spec:\n      volumes: [{name: s, secret: {name: s}}]\n      containers:\n      - name: web\n        image: \"nginx:1.27 \"\n        command: nginx -g\n        env: {MODE: fast}\n        ports: [80]\n        resources: {limits: {disk: 1Gi}}\n",
    );
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  ports: [{port: 80}]\n";
    let (_, reading) = reading(&[&text, service], &Options { language_only: true, ..Options::default() });
    let errors = reading.diagnostics.iter().filter(|found| found.severity == Severity::Error);
    let hints: Vec<&str> = errors.filter_map(|found| found.help.as_deref()).collect();
    assert_eq!(
        hints,
        [
            "write `secretName`",
            "remove the blanks around it",
            "write one word an item: `[a, b]`",
            "write `- name: MODE`, and `value:` below it",
            "write `containerPort: 80`",
            "it can have `cpu`, `memory`, `ephemeral-storage`, `nvidia.com/gpu` and `amd.com/gpu`",
            "write the labels right below `selector`, without `matchLabels`",
        ]
    );
}

#[test]
fn config_maps_become_variables() {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  mode: \"$(fast)\"\n  LEVEL: \"1\"\n";
    let env = "
        envFrom:
        - prefix: P_
          configMapRef: {name: settings}
        env:
        - name: MODE
          valueFrom: {configMapKeyRef: {name: settings, key: mode}}
        - name: GONE
          valueFrom: {configMapKeyRef: {name: settings, key: gone, optional: true}}
        - name: APP
          valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}
        - name: TEXT
          value: $(MODE)
";
    let (_, reading) =
        reading(&[map, &(deployment(POD) + env.trim_start_matches('\n'))], &Options::default());
    assert_eq!(reading.diagnostics, []);
    let env = &reading.set.deployments[0].template.spec.containers[0].env;
    let fixed = |text: &str| EnvValue::Fixed(text.into());
    let got: Vec<_> = env.iter().map(|variable| (variable.name.as_str(), variable.value.clone())).collect();
    assert_eq!(
        got,
        [
            ("P_mode", fixed("$(fast)")),
            ("P_LEVEL", fixed("1")),
            ("MODE", fixed("$(fast)")),
            ("APP", fixed("web")),
            ("TEXT", EnvValue::Written("$(MODE)".into())),
        ]
    );
}

#[test]
fn sources_of_variables_keep_their_order() {
    let objects = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {A: map}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {A: secret}\n";
    let env = "        envFrom:\n        - {secretRef: {name: s}, prefix: P_}\n        - configMapRef: {name: m}\n        env: [{name: B, value: \"$(A)\"}]\n";
    let options = Options { language_only: true, ..Options::default() };
    let (_, reading) = reading(&[objects, &(deployment(POD) + env)], &options);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let env = &reading.set.deployments[0].template.spec.containers[0].env;
    assert_eq!(env.iter().map(|variable| variable.name.as_str()).collect::<Vec<_>>(), ["P_", "A", "B"]);
    assert!(matches!(env[0].value, EnvValue::WholeSecret(_)), "{:?}", env[0]);
}

#[test]
fn modes_and_shares_are_read_as_kubectl_reads_them() {
    let volumes = "      volumes: [{name: c, configMap: {name: m, defaultMode: 0400, items: [{key: a, path: a, mode: 0o755}, {key: b, path: b}]}}]\n";
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: x, b: z}\n";
    let options = Options { language_only: true, ..Options::default() };
    let (_, reading) = reading(&[map, &(deployment(POD) + volumes)], &options);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let api::VolumeSource::Files(files) = &reading.set.deployments[0].template.spec.volumes[0].source else {
        panic!("files")
    };
    assert_eq!(files.iter().map(|file| file.mode).collect::<Vec<_>>(), [0o755, 0o400]);
}

#[test]
fn a_scaler_without_metrics_keeps_processors_at_80_percent() {
    for version in ["autoscaling/v1", "autoscaling/v2"] {
        let scaler = format!(
            "apiVersion: {version}\nkind: HorizontalPodAutoscaler\nmetadata: {{name: h}}\nspec:\n  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}\n  maxReplicas: 3\n"
        );
        let options = Options { language_only: true, ..Options::default() };
        let (_, reading) = reading(&[&scaler, &deployment(POD)], &options);
        let [scaler] = reading.set.scalers.as_slice() else { panic!("{:?}", reading.diagnostics) };
        let metric = api::Metric {
            resource: api::Resource::Cpu,
            container: None,
            target: api::MetricTarget::Utilization(80),
        };
        assert_eq!((scaler.min_replicas, &scaler.metrics[..]), (1, &[metric][..]));
        assert!(reading.diagnostics.iter().any(|found| found.code == Code::NoRequest));
    }
}

#[test]
fn secrets_are_never_shown() {
    let broken = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  password: hunter2\n\tother: hunter2\n";
    let wrong = "apiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata:\n  a: hunter2!\n  b: 12345\n  a: hunter2\nstringData: hunter2\nextra: {x: hunter2}\n";
    let list = "apiVersion: v1\nkind: SecretList\nitems:\n- metadata: {name: c}\n  data: {a: hunter2!}\n  extra: hunter2\n";
    let (files, reading) = reading(&[broken, wrong, list], &Options::default());
    assert!(reading.count(Severity::Error) >= 7, "{:?}", reading.diagnostics);
    let shown = render::text(&files, &reading, false) + &format!("{:?}", render::json(&files, &reading));
    assert!(!shown.contains("hunter2") && !shown.contains("12345"), "{shown}");
}

#[test]
fn an_ingress_lets_only_the_named_ranges_in() {
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  annotations: {nginx.ingress.kubernetes.io/whitelist-source-range: \"192.0.2.0/24, 2001:db8::/32\"}\nspec:\n  defaultBackend: {service: {name: web, port: {number: 80}}}\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80}]\n";
    let options = Options::default();
    let (_, reading) = reading(&[&deployment(POD), service, ingress], &options);
    assert_eq!(reading.diagnostics, []);
    assert_eq!(reading.set.ingresses[0].source_ranges, ["192.0.2.0/24", "2001:db8::/32"]);
}

#[test]
fn tls_of_an_ingress_is_for_its_hosts_or_for_all() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80}]\n";
    let to = "backend: {service: {name: web, port: {number: 80}}}";
    for (rule, tls, hosts, for_all) in [
        ("{", "{secretName: x}", &[][..], true),
        ("{host: a.test, ", "{secretName: x}", &["a.test"][..], false),
        ("{host: a.test, ", "{hosts: [b.test]}", &["b.test"][..], false),
        ("{", "{hosts: [b.test]}", &["b.test"][..], false),
    ] {
        let ingress = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\nspec:\n  tls: [{tls}]\n  rules: [{rule}http: {{paths: [{{path: /, pathType: Prefix, {to}}}]}}}}]\n"
        );
        let (_, reading) = reading(&[&deployment(POD), service, &ingress], &Options::default());
        let ingress = &reading.set.ingresses[0];
        assert_eq!(
            (&ingress.tls_hosts[..], ingress.tls_for_all),
            (&hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()[..], for_all)
        );
    }
}

#[test]
fn the_ca_of_the_environment_gives_certificates_unless_an_ingress_declines() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80}]\n";
    let issuer = api::AcmeIssuer { directory: "https://ca/dir".into(), email: None, ca_bundle: None };
    for (annotation, has_issuer, wanted, asks) in [
        ("cert-manager.io/cluster-issuer: letsencrypt", true, None, true),
        ("cert-manager.io/issuer: letsencrypt", false, Some(Code::NoMeaning), false),
        ("kubernetes.io/tls-acme: \"true\"", true, None, true),
        ("kubernetes.io/tls-acme: \"true\"", false, Some(Code::NoMeaning), false),
        ("kubernetes.io/tls-acme: \"false\"", true, None, false),
        ("kubernetes.io/tls-acme: \"false\"", false, None, false),
        ("kubernetes.io/tls-acme: \"maybe\"", true, Some(Code::InvalidValue), false),
        ("example.com/own: x", true, None, true),
    ] {
        let ingress = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  annotations: {{{annotation}}}\nspec:\n  tls: [{{hosts: [a.example.com]}}]\n  rules: [{{host: a.example.com, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]\n"
        );
        let options = Options { acme: has_issuer.then(|| issuer.clone()), ..Options::default() };
        let (_, reading) = reading(&[&deployment(POD), service, &ingress], &options);
        let codes: Vec<Code> = reading.diagnostics.iter().map(|found| found.code).collect();
        assert_eq!(codes, wanted.into_iter().collect::<Vec<_>>(), "{annotation}");
        let acme = reading.set.ingresses.first().and_then(|ingress| ingress.acme.clone());
        assert_eq!(acme, asks.then(|| issuer.clone()), "{annotation}");
    }
}

#[test]
fn an_empty_set_is_not_all_right() {
    for text in ["", "# nothing\n---\n", "apiVersion: v1\nkind: List\nitems: []\n"] {
        assert_eq!(findings(text), "no-object 1 : there is no object in the given files", "{text:?}");
    }
}

/// The text under `data` of a ConfigMap.
fn value_of(text: &str, key: &str) -> String {
    let parsed = tree::parse(text, 0);
    assert!(parsed.faults.is_empty(), "{:?}", parsed.faults);
    parsed.documents[0].at(&["data", key]).and_then(tree::Node::scalar).unwrap().to_owned()
}

#[test]
fn quoted_text_may_go_on_at_the_indentation_of_its_key() {
    let text = "data:\n  single: '[\n      {\"step\": 1}\n  ]'\n  double: \"[\n      1\n  ]\"\n  folded: 'one\n\n  two'\n";
    assert_eq!(value_of(text, "single"), "[ {\"step\": 1} ]");
    assert_eq!(value_of(text, "double"), "[ 1 ]");
    assert_eq!(value_of(text, "folded"), "one\ntwo");
    // Places are those of the file.
    let text = format!("# ü\n{text}  wrong:\n    a: 1\n");
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\n{text}");
    assert_eq!(findings(&text), "wrong-type 16 data.wrong: expected a string, got a map");
}

#[test]
fn a_stream_of_json_values_is_several_objects() {
    let object = |name: &str, data: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"{name}\"}}, \"{data}\": {{}}}}"
        )
    };
    assert_eq!(findings(&format!("{}\n{}\n", object("a", "data"), object("b", "data"))), "");
    let twice = format!("{}{}", object("a", "data"), object("a", "data"));
    assert!(findings(&twice).starts_with("duplicate-object 1"), "{}", findings(&twice));
    let wrong = format!("{}\n\n{}", object("a", "data"), object("b", "dta"));
    assert_eq!(findings(&wrong), "unknown-field 3 dta: unknown field `dta` in ConfigMap");
    // Not JSON: one document of YAML and what is wrong with it.
    let yaml = findings("{a: b}\n{c: d}\n");
    assert!(yaml.contains("syntax 2 "), "{yaml}");
}

#[test]
fn a_privileged_container_that_sets_parameters_is_told_how_the_pod_sets_them() {
    let help = |command: &str, options: &Options| {
        let text = deployment(&format!(
            "\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      initContainers:\n      - name: maps\n        image: a:1\n        securityContext: {{privileged: true}}\n        command: {command}\n      containers: [{{name: web, image: \"a:1\", resources: {{requests: {{cpu: 1}}}}}}]\n"
        ));
        let found = reading(&[&text], options).1.diagnostics;
        found.into_iter().find(|found| found.path.ends_with("privileged")).map(|found| found.help.unwrap())
    };
    let plain = help("[sysctl, -w, vm.max_map_count=262144]", &Options::default()).unwrap();
    assert_eq!(
        plain,
        "remove it, and give the pod what the container sets: `securityContext: {sysctls: [{name: vm.max_map_count, value: \"262144\"}]}`"
    );
    let shell =
        "[sh, -c, 'sysctl -w vm.max_map_count=262144 net.core.somaxconn=1024 && ulimit -n 1 && A.b=c run']";
    let two = help(shell, &Options::default()).unwrap();
    assert!(two.contains("{name: net.core.somaxconn, value: \"1024\"}]}`") && !two.contains("A.b"), "{two}");
    assert!(
        help("[sh, -c, 'chown -R 1 /data']", &Options::default()).unwrap().contains("--allow-privileged")
    );
    assert_eq!(help("[sysctl, -w, a.b=1]", &Options { allow_privileged: true, ..Options::default() }), None);
}

#[test]
fn a_set_has_a_bounded_number_of_objects() {
    let one = |i: usize| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{i}}}\n---\n");
    let text: String = (0..20_002).map(one).collect();
    let (_, reading) = reading(&[&text, &one(1)], &Options::default());
    let said: Vec<&str> = reading.diagnostics.iter().map(|found| found.message.as_str()).collect();
    assert_eq!(said, ["more than 20000 objects in one set; the rest is not read"]);
}

#[test]
fn seconds_are_bounded_where_kubernetes_takes_64_bits() {
    let pod = |seconds: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  terminationGracePeriodSeconds: {seconds}\n  containers: [{{name: a, image: \"a:1\", resources: {{requests: {{cpu: 1}}}}}}]\n"
        )
    };
    assert!(!findings(&pod("2147483647")).contains("invalid-value"));
    let wrong = "invalid-value 5 spec.terminationGracePeriodSeconds: `terminationGracePeriodSeconds` must be at most 2147483647, got 9000000000000000000";
    assert!(findings(&pod("9000000000000000000")).contains(wrong));
}

#[test]
fn nothing_that_a_manifest_says_acts_on_a_terminal_or_a_ci_system() {
    let hostile = "\\e[2J\\x07\\n::error::injected\\u009b31m\\u202e\\r";
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: \"x{hostile}\"}}\nspec:\n  \"{hostile}\": 1\n  type: \"{hostile}\"\n  selector: {{app: \"a{hostile}\"}}\n  ports: [{{port: 80, targetPort: \"{hostile}\"}}]\n"
    );
    let pod =
        deployment(POD).replace("name: web\n", "name: web\n        workingDir: \"\u{1b}[2J\u{202e}\"\n");
    let (mut files, reading) = reading(&[&service, &pod, "a: [\u{1b}"], &Options::default());
    files[0].name = "x\u{1b}[2J\n::error::y.yaml".into();
    assert!(reading.diagnostics.len() > 4);
    for text in [render::text(&files, &reading, false), render::github(&files, &reading)] {
        assert!(text.chars().all(|c| c == '\n' || !crate::text::is_hidden(c)), "{text:?}");
    }
    let text = render::text(&files, &reading, false);
    assert!(!text.lines().any(|line| line.trim_start().starts_with("::")), "{text}");
    assert!(text.contains("␊::error::injected"), "{text}");
    // With colours, the only escapes are those of colours.
    let coloured = render::text(&files, &reading, true);
    assert!(coloured.split('\u{1b}').skip(1).all(|rest| {
        rest.strip_prefix('[').is_some_and(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
        })
    }));
}

#[test]
fn only_pods_that_end_have_a_deadline() {
    let pod = |policy: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: once}}\nspec:\n  activeDeadlineSeconds: 5\n  restartPolicy: {policy}\n  \
             containers: [{{name: a, image: 'a:1', resources: {{requests: {{memory: 64Mi}}}}}}]\n"
        );
        let (_, reading) = reading(&[&text], &local());
        reading.diagnostics.into_iter().map(|found| found.code).collect::<Vec<_>>()
    };
    assert_eq!(pod("Never"), [Code::Adapted]);
    assert_eq!(pod("Always"), [Code::AdaptedKind, Code::RefusedValue]);
}

#[test]
fn numbers_of_users_and_groups_have_a_bound() {
    let pod = |pod: &str, container: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  securityContext: {{{pod}}}\n  \
             containers: [{{name: a, image: \"a:1\", securityContext: {{{container}}}}}]\n"
        )
    };
    let of_pods = ["runAsUser: N", "runAsGroup: N", "fsGroup: N", "supplementalGroups: [1, N]"];
    let of_containers = ["runAsUser: N", "runAsGroup: N"];
    let texts = of_pods.map(|field| pod(field, "")).into_iter();
    for text in texts.chain(of_containers.map(|field| pod("", field))) {
        let found = |number: &str| findings(&text.replace('N', number)).contains("invalid-value");
        assert!(!found("2147483647") && found("2147483648") && found("4294967295") && found("-1"), "{text}");
    }
}

#[test]
fn probes_and_hooks_ask_for_paths_as_requests_have_them() {
    let get = "{httpGet: {path: \"health?deep=1\", port: 80}}";
    let text = deployment(POD)
        + &format!(
            "        readinessProbe: {get}\n        lifecycle: {{postStart: {get}, preStop: {get}}}\n"
        );
    let (_, reading) = reading(&[&text], &Options::default());
    assert_eq!(reading.diagnostics, []);
    let container = &reading.set.deployments[0].template.spec.containers[0];
    let probe = container.probes.readiness.as_ref().map(|probe| &probe.action);
    let [start, stop] = [&container.post_start, &container.pre_stop].map(|hook| match hook {
        Some(i2kit_spec::Hook::Handler(action)) => Some(action),
        _ => None,
    });
    for action in [probe, start, stop] {
        let Some(i2kit_spec::ProbeAction::HttpGet { path, .. }) = action else { panic!("{container:?}") };
        assert_eq!(path, "/health?deep=1");
    }
}
