//! What a trial deploys, as manifests: a small page behind a Service.

/// The group that serves.
pub(super) const GROUP: &str = "trial";

/// The group whose deployment is killed.
pub(super) const KILLED: &str = "resumed";

/// The Service that is moved from inside to outside.
pub(super) const MOVED: &str = "moved";

/// How many machines serve.
pub(super) const MACHINES: u32 = 3;

/// The container's name.
pub(super) const CONTAINER: &str = "web";

/// What the container says before it serves.
pub(super) const SAID: &str = "serving page";

/// What the line of the page begins with, in front of its number.
pub(super) const PAGE: &str = "page ";

/// The port of the pods.
const POD_PORT: u16 = 8080;

/// How long a good revision may take without progress: machines, then load balancers.
const GOOD_DEADLINE: u32 = 900;

/// A workload of the trial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload<'t> {
    /// Its name.
    pub(super) name: &'static str,
    /// The image.
    pub(super) image: &'t str,
    /// What it serves: another number is another revision.
    pub(super) page: u8,
    /// The number of machines.
    pub(super) replicas: u32,
}

impl Workload<'_> {
    /// The Deployment.
    pub(super) fn manifest(&self) -> String {
        let page = self.page;
        let serve = format!(
            "mkdir -p /tmp/www && echo {PAGE}{page} > /tmp/www/index.html && echo {SAID} {page} && \
             exec httpd -f -p {POD_PORT} -h /tmp/www"
        );
        self.running(&serve, GOOD_DEADLINE)
    }

    /// The same with a pod that ends at once, which is given up after that many seconds.
    pub(super) fn failing(&self, deadline: u32) -> String {
        self.running("echo this revision is meant to fail; exit 3", deadline)
    }

    fn running(&self, command: &str, deadline: u32) -> String {
        let Self { name, image, replicas, .. } = self;
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  revisionHistoryLimit: 2
  progressDeadlineSeconds: {deadline}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: {CONTAINER}
          image: {image}
          command: [sh, -c, \"{command}\"]
          ports: [{{containerPort: {POD_PORT}}}]
          readinessProbe: {{tcpSocket: {{port: {POD_PORT}}}}}
"
        )
    }
}

/// A Service of the trial in front of a group, as one more document.
pub(super) fn service(name: &str, group: &str, kind: &str, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: {kind}
  selector: {{app: {group}}}
  ports: [{{port: {port}, targetPort: {POD_PORT}}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Options, SourceFile, read};

    #[test]
    fn what_a_trial_deploys_is_free_of_errors() {
        let workload = Workload { name: GROUP, image: "busybox:1.35", page: 1, replicas: 3 };
        let public = service(GROUP, GROUP, "LoadBalancer", 80);
        for text in [workload.manifest() + &public, workload.failing(300) + &public] {
            let file = SourceFile { name: "trial.yaml".into(), bytes: text.clone().into_bytes() };
            let reading = read(&[file], &Options::default());
            assert!(!reading.has_errors(), "{text}\n{:?}", reading.diagnostics);
            assert_eq!((reading.set.pods().count(), reading.set.services.len()), (1, 1), "{text}");
        }
    }
}
