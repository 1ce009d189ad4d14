//! Fields whose zero means that they are not given. They are taken out before anybody looks at the object, so that no
//! rule has to know of them.

use super::language::{Field, Table, Type};
use super::tree::{Node, Resolved, Scalar, Value};

/// Takes them out of `node`, which is an object of `table`, and of all objects in it.
pub(super) fn forget(node: &mut Node<'_>, table: &Table) {
    let Value::Map(entries) = &mut node.value else { return };
    entries.retain_mut(|entry| {
        let Some(field) = table.field(&entry.key) else { return true };
        below(&mut entry.value, &field.ty);
        !(field.zero && is_zero(&entry.value, field))
    });
}

fn below(node: &mut Node<'_>, ty: &Type) {
    match (ty, &mut node.value) {
        (Type::Object(table), _) => forget(node, table),
        (Type::List(item) | Type::Filled(item), Value::List(items)) => {
            for node in items.iter_mut() {
                below(node, item);
            }
        }
        (Type::Keyed(table, _), Value::List(items)) => items.iter_mut().for_each(|node| forget(node, table)),
        (Type::Map(_, value), Value::Map(entries)) => {
            for entry in entries.iter_mut() {
                below(&mut entry.value, value);
            }
        }
        _ => {}
    }
}

fn is_zero(node: &Node<'_>, field: &Field) -> bool {
    let Value::Scalar(scalar) = &node.value else { return false };
    let is_empty = |scalar: &Scalar<'_>| scalar.text.is_empty() && scalar.resolved() == Resolved::Text;
    let is_nought = |scalar: &Scalar<'_>| scalar.resolved() == Resolved::Int(0);
    match field.ty {
        Type::Int(..) => is_nought(scalar),
        Type::PortRef => is_nought(scalar) || is_empty(scalar),
        _ => is_empty(scalar),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::manifest::language::{Class, Field, Type};
    use crate::manifest::{Options, SourceFile, docs, read};

    /// Optional fields whose zero is a value: in Kubernetes they are pointers, or zero is their default.
    const POINTERS: &str = "\
        activeDeadlineSeconds amd.com/gpu appProtocol averageUtilization backoffLimit backoffLimitPerIndex \
        completionMode completions containerName endPort failedJobsHistoryLimit fsGroup fsGroupChangePolicy \
        hostnameOverride ingressClassName internalTrafficPolicy ipFamilyPolicy loadBalancerClass localhostProfile \
        managedBy maxFailedIndexes minReadySeconds minReplicas mountPropagation nvidia.com/gpu parallelism partition \
        podReplacementPolicy port preemptionPolicy procMount progressDeadlineSeconds reclaimPolicy recursiveReadOnly \
        replicas restartPolicy revisionHistoryLimit runAsGroup runAsUser runtimeClassName selectPolicy \
        stabilizationWindowSeconds start startingDeadlineSeconds stopSignal storageClassName succeededCount \
        succeededIndexes successfulJobsHistoryLimit supplementalGroupsPolicy targetCPUUtilizationPercentage \
        terminationGracePeriodSeconds timeZone timeoutSeconds trafficDistribution ttlSecondsAfterFinished \
        unhealthyPodEvictionPolicy value volumeAttributesClassName volumeBindingMode volumeMode";

    /// What Kubernetes sets itself where the zero is given (`SetDefaults_*` of its API groups).
    const DEFAULTED: [(&str, &str); 27] = [
        ("Container", "imagePullPolicy"),
        ("Container", "terminationMessagePath"),
        ("Container", "terminationMessagePolicy"),
        ("ContainerPort", "protocol"),
        ("CronJobSpec", "concurrencyPolicy"),
        ("DeploymentStrategy", "type"),
        ("HTTPGetAction", "path"),
        ("HTTPGetAction", "scheme"),
        ("ObjectFieldSelector", "apiVersion"),
        ("PodFailurePolicyOnPodConditionsPattern", "status"),
        ("PodSpec", "dnsPolicy"),
        ("PodSpec", "restartPolicy"),
        ("PodSpec", "schedulerName"),
        ("Probe", "failureThreshold"),
        ("Probe", "periodSeconds"),
        ("Probe", "successThreshold"),
        ("Probe", "timeoutSeconds"),
        ("Secret", "type"),
        ("ServicePort", "protocol"),
        ("ServicePort", "targetPort"),
        ("ServiceSpec", "externalTrafficPolicy"),
        ("ServiceSpec", "sessionAffinity"),
        ("ServiceSpec", "type"),
        ("StatefulSetPersistentVolumeClaimRetentionPolicy", "whenDeleted"),
        ("StatefulSetPersistentVolumeClaimRetentionPolicy", "whenScaled"),
        ("StatefulSetSpec", "podManagementPolicy"),
        ("StatefulSetUpdateStrategy", "type"),
    ];

    fn is_scalar(field: &Field) -> bool {
        matches!(field.ty, Type::Int(..) | Type::Text(_) | Type::Choice(_) | Type::PortRef | Type::Name(_))
    }

    #[test]
    fn of_every_field_it_is_decided_what_its_zero_means() {
        let pointers: BTreeSet<&str> = POINTERS.split_whitespace().collect();
        let mut undecided = Vec::new();
        let mut used = BTreeSet::new();
        for table in docs::tables() {
            for field in table.fields.iter().filter(|field| is_scalar(field) && !field.required) {
                let is_ours = table.name.starts_with("Short form");
                let is_unknown_to_kubernetes =
                    field.class == Class::Refused && matches!(field.name, "mode" | "protocol");
                if field.zero || is_ours || is_unknown_to_kubernetes {
                    continue;
                }
                used.insert(field.name);
                if !pointers.contains(field.name) {
                    undecided.push(format!("{}.{}", table.name, field.name));
                }
            }
        }
        assert!(undecided.is_empty(), "pointers in Kubernetes, or `.zero()`? {undecided:?}");
        let gone: Vec<_> = pointers.difference(&used).collect();
        assert!(gone.is_empty(), "no such fields: {gone:?}");
    }

    #[test]
    fn what_kubernetes_defaults_is_defaulted() {
        for (table, name) in DEFAULTED {
            let tables = docs::tables();
            let found =
                tables.iter().find(|found| found.name == table).unwrap_or_else(|| panic!("no {table}"));
            let field = found.field(name).unwrap_or_else(|| panic!("no {table}.{name}"));
            assert!(field.zero || matches!(field.class, Class::Silent), "{table}.{name}");
        }
    }

    #[test]
    fn objects_with_zeros_are_those_without() {
        let text = |zeros: bool| {
            let zero = |text: &'static str| if zeros { text } else { "" };
            [
                "apiVersion: v1\nkind: Service\nmetadata: {name: web",
                zero(", namespace: '', generateName: ''"),
                "}\nspec:\n  selector: {app: web}\n  ports:\n  - port: 80\n",
                zero("    targetPort: 0\n    protocol: ''\n    name: ''\n    nodePort: 0\n"),
                zero("  type: ''\n  clusterIP: ''\n  externalName: ''\n  sessionAffinity: ''\n  loadBalancerIP: ''\n"),
                "---\napiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec:\n  selector: {app: web}\n  ports:\n  - port: 80\n",
                zero("    targetPort: ''\n"),
                "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n",
                zero("  strategy: {type: ''}\n"),
                "  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n",
                zero("      restartPolicy: ''\n      serviceAccountName: ''\n      nodeName: ''\n      hostname: ''\n      dnsPolicy: ''\n"),
                "      volumes:\n      - name: data\n        emptyDir: {",
                zero("medium: ''"),
                "}\n      containers:\n      - name: web\n        image: a:1\n        resources: {requests: {cpu: 1}}\n",
                zero("        workingDir: ''\n        imagePullPolicy: ''\n        terminationMessagePath: ''\n"),
                "        ports: [{containerPort: 80",
                zero(", name: '', hostPort: 0, hostIP: '', protocol: ''"),
                "}]\n        env: [{name: A",
                zero(", value: ''"),
                "}]\n        volumeMounts: [{name: data, mountPath: /data",
                zero(", subPath: '', subPathExpr: ''"),
                "}]\n        readinessProbe:\n          httpGet: {port: 80",
                zero(", path: '', scheme: '', host: ''"),
                "}\n",
                zero("          timeoutSeconds: 0\n          periodSeconds: 0\n          successThreshold: 0\n          failureThreshold: 0\n          initialDelaySeconds: 0\n"),
            ]
            .concat()
        };
        let read = |text: String| {
            let reading =
                read(&[SourceFile { name: "a".into(), bytes: text.into_bytes() }], &Options::default());
            let said: Vec<String> =
                reading.diagnostics.iter().map(|found| format!("{} {}", found.code, found.path)).collect();
            (format!("{:#?}", reading.set), said)
        };
        let (plain, zeros) = (read(text(false)), read(text(true)));
        assert!(plain.0.contains("readiness"), "{:?}", plain.1);
        assert_eq!(zeros, plain);
    }
}
