//! What `check` makes of manifests for AWS, and of the same on the local cloud.

use super::SUPPORT;
use crate::cloud::{kinds, local};
use crate::manifest::api::MetricTarget;
use crate::manifest::example::{self, POD, deployment, reading};
use crate::manifest::support::Support;
use crate::manifest::{Code, Diagnostic, Options, Reading, Severity};

fn options(cloud: &'static Support) -> Options {
    Options { clouds: kinds::clouds(cloud), ..Options::default() }
}

/// Findings for the local cloud as `code line path: message` lines.
fn findings(text: &str) -> String {
    example::findings(text, &options(&local::SUPPORT))
}

/// Findings for AWS as `code: message` lines.
fn on_aws(texts: &[&str], certificate: Option<&str>) -> (Reading, String) {
    let options = Options { certificate: certificate.map(str::to_owned), ..options(&SUPPORT) };
    let (_, reading) = reading(texts, &options);
    let line = |found: &Diagnostic| format!("{}: {}", found.code.name(), found.message);
    let lines: Vec<String> = reading.diagnostics.iter().map(line).collect();
    (reading, lines.join("\n"))
}

fn service(annotations: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations: {{{annotations}}}\nspec:\n  type: LoadBalancer\n  \
         selector: {{app: web}}\n  ports: [{{name: http, port: 80}}, {{name: https, port: 443, targetPort: 80}}]\n{rest}"
    )
}

const TLS: &str = "service.beta.kubernetes.io/aws-load-balancer-ssl";
const ARN: &str = "arn:aws:acm:eu-west-1:123456789012:certificate/a";

#[test]
fn tls_ends_at_a_balancer_with_the_certificate_that_is_named_for_aws() {
    let web = deployment(POD);
    let text = service(&format!("{TLS}-cert: '{ARN}', {TLS}-ports: https"), "");
    let (found, said) = on_aws(&[&web, &text], None);
    assert_eq!(said, "");
    let [http, https] = found.set.services[0].ports.as_slice() else { panic!("two ports") };
    assert_eq!(http.tls, None);
    assert_eq!(https.tls.as_ref().map(|tls| tls.certificates.clone()), Some(vec![ARN.to_owned()]));
    let local = findings(&text);
    assert!(
        local.contains("TLS that ends at the balancer on the local cloud: it is TLS 1.2 or 1.3"),
        "{local}"
    );

    let (_, said) = on_aws(&[&web, &service(&format!("{TLS}-cert: mine, {TLS}-ports: '444'"), "")], None);
    assert_eq!(
        said,
        "invalid-value: a certificate is named by its ARN, got `mine`\ninvalid-value: the Service has no port `444`"
    );
}

#[test]
fn the_short_form_takes_the_certificate_of_the_environment() {
    let text = "name: web\npublic: true\ncontainers:\n  web:\n    image: nginx:1.27\n    ports: [\"https:443:http:80\"]\n";
    let (_, said) = on_aws(&[text], None);
    assert_eq!(said, "missing-field: TLS that ends at the balancer needs a certificate");
    let (found, said) = on_aws(&[text], Some(ARN));
    assert_eq!(said, "");
    let tls = found.set.services[0].ports[0].tls.as_ref();
    assert_eq!(tls.map(|tls| tls.certificates.clone()), Some(vec![ARN.to_owned()]));
}

#[test]
fn scalers_and_budgets_are_for_both_clouds() {
    let web = deployment(&POD.replace("{memory: 64Mi}", "{cpu: 500m, memory: 64Mi}"));
    let scaler = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\nspec:\n  \
                  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}\n  minReplicas: 2\n  maxReplicas: 5\n";
    let budget = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec:\n  minAvailable: 1\n  \
                  selector: {matchLabels: {app: web}}\n";
    let (found, said) = on_aws(&[&web, scaler, budget], None);
    assert_eq!(said, "");
    assert_eq!(found.set.scalers[0].metrics[0].target, MetricTarget::Utilization(80));
    let (_, local) = reading(&[&web, scaler, budget], &options(&local::SUPPORT));
    assert!(local.diagnostics.is_empty(), "{local:?}");
    for (metric, says) in [
        (
            "{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 500m}}}",
            "`AverageValue`",
        ),
        (
            "{type: ContainerResource, containerResource: {container: web, name: cpu, target: {type: Utilization, averageUtilization: 50}}}",
            "`ContainerResource`",
        ),
    ] {
        let scaler = format!("{scaler}  metrics:\n  - {metric}\n");
        let (_, said) = on_aws(&[&web, &scaler], None);
        assert!(said.contains(&format!("not deployable on AWS: {says}")), "{said}");
        let (_, local) = reading(&[&web, &scaler], &options(&local::SUPPORT));
        assert!(local.diagnostics.is_empty(), "{local:?}");
    }
}

#[test]
fn roles_are_those_of_the_cloud() {
    let account = |role: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: reader\n  annotations: {{i2kit.dev/role: '{role}'}}\n"
        )
    };
    let (found, said) = on_aws(&[&account("arn:aws:iam::123456789012:role/reader")], None);
    assert_eq!(said, "");
    assert!(found.set.service_accounts[0].role.is_some());
    let (_, said) = on_aws(&[&account("reader@project.iam.gserviceaccount.com")], None);
    assert!(said.starts_with("invalid-value: a role of AWS is named by"), "{said}");
    assert!(findings(&account("reader")).contains("no roles"));
}

#[test]
fn limits_on_who_may_connect_are_kept_in_both_forms() {
    let web = deployment(POD);
    let field = service("", "  loadBalancerSourceRanges: [192.0.2.0/24]\n");
    let old = service(
        "service.beta.kubernetes.io/load-balancer-source-ranges: '192.0.2.0/24, 198.51.100.0/24'",
        "",
    );
    let (found, said) = on_aws(&[&web, &field], None);
    assert_eq!(
        (said.as_str(), &found.set.services[0].source_ranges[..]),
        ("", &["192.0.2.0/24".to_owned()][..])
    );
    let (found, said) = on_aws(&[&web, &old], None);
    assert_eq!((said.as_str(), found.set.services[0].source_ranges.len()), ("", 2));
    // On the local cloud only the note that nobody of this computer is among them.
    let (_, local) = reading(&[&web, &field], &options(&local::SUPPORT));
    let notes: Vec<&str> = local.diagnostics.iter().map(|found| found.message.as_str()).collect();
    assert!(matches!(notes[..], [note] if note.contains("these ranges admit nobody")), "{notes:?}");
}

#[test]
fn what_ends_is_for_both_clouds_and_some_of_its_rules_for_one() {
    let containers = "containers: [{name: a, image: 'a:1', resources: {requests: {memory: 64Mi}}}]";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{restartPolicy: Never, {containers}}}\n"
    );
    let job = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: b}}\nspec: {{template: {{spec: {{restartPolicy: Never, {containers}}}}}}}\n"
    );
    let (_, said) = on_aws(&[&pod, &job], None);
    assert_eq!(said, "adapted: a Pod with restartPolicy Never becomes a Job of one machine");
    let early = job.replace("spec: {template", "spec: {successPolicy: {rules: [{succeededCount: 1}]}, completions: 2, completionMode: Indexed, template");
    let (_, said) = on_aws(&[&early], None);
    assert!(said.contains("not-deployable-yet: not deployable on AWS yet: `successPolicy`"), "{said}");
    let cron = |policy: &str| {
        let spec = format!(
            "schedule: '@daily', concurrencyPolicy: {policy}, jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, {containers}}}}}}}}}"
        );
        on_aws(
            &[&format!("apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: c}}\nspec: {{{spec}}}\n")],
            None,
        )
        .1
    };
    assert!(cron("Replace").contains("not-deployable-yet: not deployable on AWS: "), "{}", cron("Replace"));
    assert!(cron("Allow").contains("no run starts while another goes on"), "{}", cron("Allow"));
    assert_eq!(findings(&job), "");
    assert_eq!(findings(&early), "");
}

#[test]
fn machines_may_be_of_several_kinds_and_of_one_region() {
    let web = |annotations: &str, pod: &str| {
        let text = deployment(POD);
        text.replace("    metadata:\n", &format!("    metadata:\n      annotations: {{{annotations}}}\n"))
            .replace("    spec:\n", &format!("    spec:\n{pod}"))
    };
    let several = "i2kit.dev/instance-types: 'm6a.large, m6i.large', i2kit.dev/spot: '75%', i2kit.dev/on-demand-base: '2'";
    let (found, said) = on_aws(&[&web(several, "")], None);
    let placement = &found.set.deployments[0].template.spec.placement;
    assert_eq!(said, "");
    assert_eq!(placement.machine_types, ["m6a.large", "m6i.large"]);
    assert_eq!((placement.spot_percent, placement.on_demand_base), (75, 2));
    for wrong in ["i2kit.dev/spot: '101%'", "i2kit.dev/spot: often", "i2kit.dev/instance-types: ''"] {
        let (_, said) = on_aws(&[&web(wrong, "")], None);
        assert!(said.starts_with("invalid-value: must be "), "{wrong}: {said}");
    }

    let selecting = web("", "      nodeSelector: {topology.kubernetes.io/region: eu-west-1}\n");
    let (_, said) = on_aws(&[&selecting], None);
    assert_eq!(said, "");
    let elsewhere = Options { region: Some("us-east-1".into()), ..options(&SUPPORT) };
    let (_, refused) = reading(&[&selecting], &elsewhere);
    assert!(refused.diagnostics[0].message.contains("the environment lies in us-east-1"), "{refused:?}");
}

#[test]
fn scratch_space_that_takes_memory_is_said_to() {
    let pod = |medium: &str| {
        deployment(&format!(
            "{POD}        volumeMounts: [{{name: a, mountPath: /a}}]\n      volumes: [{{name: a, emptyDir: {{{medium}}}}}]\n"
        ))
    };
    let said = |medium: &str, cloud| {
        let (_, reading) = reading(&[&pod(medium)], &options(cloud));
        reading.diagnostics.into_iter().map(|found| (found.code, found.severity)).collect::<Vec<_>>()
    };
    assert_eq!(said("", &SUPPORT), [(Code::Unlike, Severity::Note)]);
    assert_eq!(said("medium: Memory", &SUPPORT), []);
    assert_eq!(said("", &local::SUPPORT), []);
}
