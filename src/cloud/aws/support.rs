//! What AWS supports, and the annotations that manifests for its controllers carry.

use crate::manifest::support::{
    ACME, Annotation, Answer, Form, HEADLESS, REPLICATED, SCRATCH_DISK, SNAPSHOTS, Support,
};

/// What Auto Scaling makes of how fast a scaler may follow.
const OWN_STEPS: &str = "target tracking chooses its own steps";

/// What AWS supports.
pub static SUPPORT: Support = Support {
    provider: "aws",
    name: "AWS",
    answers: &[
        (
            "IngressTLS.secretName",
            Answer::Note(
                "the certificate is looked up by host in the store of certificates, not taken from the Secret",
            ),
        ),
        (
            "ServicePort.appProtocol",
            Answer::Note("target groups speak HTTP/1.1 to pods, whatever the port says"),
        ),
        (ACME, Answer::No),
        (SNAPSHOTS, Answer::Note("every instance boots")),
        (
            "ServiceSpec.sessionAffinityConfig",
            Answer::Note("a client stays for as long as its machine is healthy, whatever time is given"),
        ),
        ("JobSpec.podFailurePolicy", Answer::NotYet),
        ("JobSpec.successPolicy", Answer::NotYet),
        (
            "JobSpec.ttlSecondsAfterFinished",
            Answer::Note("the job is shown no more after that, and `i2kit gc` deletes what is left of it"),
        ),
        (
            "CronJobSpec.concurrencyPolicy=Allow",
            Answer::Note("no run starts while another goes on, as with `Forbid`"),
        ),
        (
            "CronJobSpec.concurrencyPolicy=Forbid",
            Answer::Note("a time that comes while a run goes on is left out, and not waited for"),
        ),
        ("CronJobSpec.concurrencyPolicy=Replace", Answer::No),
        (
            "CronJobSpec.startingDeadlineSeconds",
            Answer::Note(
                "it is not looked at: a run begins once Auto Scaling has a machine for it, however late that is",
            ),
        ),
        ("NetworkPolicy", Answer::NotYet),
        (HEADLESS, Answer::NotYet),
        ("ServiceSpec.publishNotReadyAddresses", Answer::NotYet),
        ("ServiceSpec.ipFamilies=IPv6", Answer::NotYet),
        ("ServiceSpec.ipFamilyPolicy=RequireDualStack", Answer::NotYet),
        (
            "ServiceSpec.ipFamilyPolicy=PreferDualStack",
            Answer::Note("balancers and names have addresses of IPv4 alone"),
        ),
        ("StatefulSet", Answer::NotYet),
        ("PersistentVolumeClaim", Answer::NotYet),
        ("Volume.persistentVolumeClaim", Answer::NotYet),
        ("i2kit volume", Answer::NotYet),
        (
            SCRATCH_DISK,
            Answer::Note(
                "an emptyDir lies in the machine's memory: what a container writes there counts for its memory limit, \
                 and without `sizeLimit` half of the machine's memory is the bound",
            ),
        ),
        ("MetricSpec.type=ContainerResource", Answer::No),
        ("MetricTarget.type=AverageValue", Answer::No),
        (
            "ResourceMetricSource.name=memory",
            Answer::Note("nothing measures memory from outside, so that it scales nothing"),
        ),
        (
            "HorizontalPodAutoscalerBehavior.scaleDown",
            Answer::Note("target tracking takes machines away after 15 minutes of less load"),
        ),
        (
            "HPAScalingRules.stabilizationWindowSeconds",
            Answer::Note("it is the time after a machine's start in which its use does not count"),
        ),
        ("HPAScalingRules.policies", Answer::Note(OWN_STEPS)),
        ("HPAScalingRules.selectPolicy", Answer::Note(OWN_STEPS)),
        ("HPAScalingRules.tolerance", Answer::Note(OWN_STEPS)),
        (REPLICATED, Answer::NotYet),
        ("i2kit replicas", Answer::NotYet),
        ("i2kit top", Answer::NotYet),
        ("i2kit exec", Answer::NotYet),
        ("i2kit cp", Answer::NotYet),
        ("i2kit console", Answer::NotYet),
    ],
    annotations: &[
        ("service.beta.kubernetes.io/aws-load-balancer-ssl-cert", Annotation::Certificates),
        ("service.beta.kubernetes.io/aws-load-balancer-ssl-ports", Annotation::TlsPorts),
        ("service.beta.kubernetes.io/aws-load-balancer-ssl-negotiation-policy", Annotation::TlsPolicy),
        ("service.beta.kubernetes.io/aws-load-balancer-backend-protocol", Annotation::BackendProtocol),
        ("service.beta.kubernetes.io/aws-load-balancer-internal", Annotation::Internal),
        ("service.beta.kubernetes.io/aws-load-balancer-scheme", Annotation::Internal),
        ("service.beta.kubernetes.io/aws-load-balancer-security-groups", Annotation::Closing),
        ("alb.ingress.kubernetes.io/scheme", Annotation::IngressScheme),
        ("alb.ingress.kubernetes.io/certificate-arn", Annotation::IngressCertificates),
        ("alb.ingress.kubernetes.io/inbound-cidrs", Annotation::IngressSourceRanges),
        ("eks.amazonaws.com/role-arn", Annotation::Role),
    ],
    certificate: Some(Form { fits: is_certificate, rule: "a certificate is named by its ARN" }),
    role: Some(Form { fits: is_role, rule: "a role of AWS is named by its name or its ARN" }),
    provisioners: &["ebs.csi.aws.com", "kubernetes.io/aws-ebs"],
    clients: None,
};

/// Whether the text is the ARN of a certificate.
fn is_certificate(text: &str) -> bool {
    text.starts_with("arn:") && (text.contains(":acm:") || text.contains(":server-certificate/"))
}

/// Whether the text is the ARN of a role, or may be a role's name.
fn is_role(text: &str) -> bool {
    !text.contains('@') && (!text.contains(':') || text.contains(":role/"))
}
